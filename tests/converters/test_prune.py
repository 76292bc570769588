"""Pruning for real: what was planned is what the file holds, and what it holds runs, in float and in int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.converters.test_channels import silenced
from tests.converters.zoo import ZOO, graph, samples

from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.condition import condition
from edgekd_converters.cost import count_macs, count_parameters
from edgekd_converters.divergence import divergence, run_columns
from edgekd_converters.errors import PruneError
from edgekd_converters.graph import Graph
from edgekd_converters.importance import importance
from edgekd_converters.integer import integer_fraction
from edgekd_converters.observe import feeds
from edgekd_converters.ops.table import channels_of
from edgekd_converters.prune import PruneOptions, plan_pruning, prune
from edgekd_converters.quantize import quantize_int8
from edgekd_converters.refit import Refitter, least_squares
from edgekd_converters.slim import keep_all, remove

RECURRENT = {"lstm", "lstm_while"}
ARCHITECTURES = [name for name in ZOO if name not in RECURRENT]


def pruned(name: str, amount: float, **options: Any) -> tuple[Graph, Graph]:
    """(original, pruned), after checking the plan against the file."""
    original, columns = graph(name), samples(graph(name), 24, 1)
    chosen = PruneOptions(amount, **options)
    plan = plan_pruning(original, columns, chosen)
    slim = prune(original, plan, columns, chosen)
    assert plan.macs_before == count_macs(original)
    assert plan.macs_after == count_macs(slim) <= (1 - amount) * plan.macs_before
    assert plan.parameters_before == count_parameters(original)
    assert plan.parameters_after == pytest.approx(count_parameters(slim), rel=0.01)
    assert len(slim.content) < len(original.content)
    for group in plan.groups:
        assert 0 < group.after <= group.before
        assert (group.macs > 0) == (group.after < group.before)
        assert group.layers
    return original, slim


@pytest.mark.parametrize("amount", [0.3, 0.7])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_plan_by_weights_alone(name: str, amount: float) -> None:
    original, slim = pruned(name, amount, importance="weight", refit=False)
    before, after = (run_columns(one, samples(original, 4, 2)) for one in (original, slim))
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    assert all(np.isfinite(value).all() for value in after.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_half_leaves_and_the_rest_becomes_int8(name: str) -> None:
    _, slim = pruned(name, 0.5)
    columns = samples(slim, 24, 1)
    slim = condition(slim)
    int8 = quantize_int8(slim, calibrate_minmax(slim, feeds(columns)))
    assert integer_fraction(int8) == 1


@pytest.mark.parametrize("name", sorted(RECURRENT))
def test_what_cannot_be_narrowed_is_refused(name: str) -> None:
    with pytest.raises(PruneError, match="cannot leave") as caught:
        pruned(name, 0.5)
    assert "\n" not in str(caught.value)


def test_an_op_without_a_row_is_fenced_off_and_the_rest_pruned() -> None:
    original, columns = graph("lstm_while"), samples(graph("lstm_while"), 8, 1)
    plan = plan_pruning(original, columns, PruneOptions(0.04))
    assert any("WHILE" in note and "no channel rule" in note for note in plan.notes)
    assert any("weights alone rank" in note for note in plan.notes)
    slim = prune(original, plan, columns, PruneOptions(0.04))
    assert count_macs(slim) == plan.macs_after < plan.macs_before


def test_kept_widths_are_multiples() -> None:
    original, columns = graph("efficientnet_lite"), samples(graph("efficientnet_lite"), 16, 1)
    plan = plan_pruning(original, columns, PruneOptions(0.5, multiple=8))
    assert all(group.after % 8 == 0 for group in plan.groups)
    assert not plan.notes
    finer = plan_pruning(original, columns, PruneOptions(0.93, multiple=8, importance="weight", refit=False))
    assert any("channel multiple" in note for note in finer.notes)


def test_an_unknown_importance_is_refused() -> None:
    with pytest.raises(PruneError, match="'magic' is not one of weight, activation, taylor"):
        pruned("ds_cnn", 0.3, importance="magic")


def test_uniform_narrows_every_group_alike() -> None:
    original, columns = graph("efficientnet_lite"), samples(graph("efficientnet_lite"), 16, 1)
    plan = plan_pruning(original, columns, PruneOptions(0.5, uniform=True, importance="weight", multiple=4))
    shares = [group.after / group.before for group in plan.groups]
    assert max(shares) - min(shares) < 0.2
    assert all(group.sensitivity is None for group in plan.groups)


def test_a_plan_repeats() -> None:
    original, columns = graph("mobilenet_v3"), samples(graph("mobilenet_v3"), 16, 1)
    first, second = (plan_pruning(original, columns, PruneOptions(0.4, seed=4)) for _ in range(2))
    assert np.array_equal(first.kept, second.kept)
    assert first.groups == second.groups


@pytest.mark.parametrize("kind", ["weight", "activation", "taylor"])
def test_channels_that_count_for_nothing_go_first(kind: str) -> None:
    """Half of the channels of one group are silenced: every measure must rank those below the others."""
    original = graph("resnet")
    channels = channels_of(original)
    group = max(channels.groups(), key=len)
    silent = group.units[::2]
    kept = keep_all(channels)
    kept[silent] = False
    quiet = channels_of(silenced(channels, kept, factor=1e-3))
    scores = importance(quiet, samples(original, 32, 1), kind, 0, lambda note: None)
    assert scores[silent].max() < scores[np.setdiff1d(group.units, silent)].min()


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "densenet", "cnn_1d", "dense_autoencoder"])
def test_refit_makes_up_for_what_left(name: str) -> None:
    original, columns = graph(name), samples(graph(name), 256, 1)
    unseen = samples(graph(name), 64, 2)
    channels = channels_of(original)
    plan = plan_pruning(original, columns, PruneOptions(0.3, uniform=True))
    slim = remove(channels, plan.kept)
    refitted = Refitter(channels, original, columns, 0)(slim, plan.kept)
    wanted = run_columns(original, unseen)
    assert divergence(wanted, run_columns(refitted, unseen)) < 0.8 * divergence(wanted, run_columns(slim, unseen))


def test_least_squares_finds_weights_that_there_are() -> None:
    rng = np.random.default_rng(0)
    sources, wanted = rng.normal(size=(400, 12)), rng.normal(size=(12, 5))
    found = least_squares(sources, sources @ wanted, np.zeros((12, 5)))
    np.testing.assert_allclose(found, wanted, atol=1e-2)


def test_least_squares_leaves_alone_what_noise_cannot_better() -> None:
    rng = np.random.default_rng(0)
    sources, present = rng.normal(size=(40, 36)), rng.normal(size=(36, 5))
    targets = sources @ present + rng.normal(size=(40, 5))
    found = least_squares(sources, targets, present)
    fresh = rng.normal(size=(1000, 36))
    assert np.square(fresh @ (found - present)).mean() < 0.3


def test_sensitivity_spares_what_matters() -> None:
    """For the same cost, the measured distribution keeps the outputs nearer than the uniform one."""
    original, columns = graph("resnet"), samples(graph("resnet"), 32, 1)
    measured = plan_pruning(original, columns, PruneOptions(0.4))
    even = plan_pruning(original, columns, PruneOptions(0.4, uniform=True))
    wanted = run_columns(original, columns)
    kept = [prune(original, plan, columns, PruneOptions(0.4)) for plan in (measured, even)]
    by_measure, evenly = (divergence(wanted, run_columns(one, columns)) for one in kept)
    assert by_measure < evenly
    assert all(group.sensitivity is not None and group.sensitivity >= 0 for group in measured.groups)
