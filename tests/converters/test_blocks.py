"""Residual blocks leave whole: found where they are, gone without a trace, planned and refitted like channels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from tests.converters.zoo import graph, samples

from edgekd_converters.blocks import least_missed, residual_blocks, without
from edgekd_converters.cost import count_macs
from edgekd_converters.divergence import divergence, run_columns
from edgekd_converters.graph import Graph
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.prune import PruneOptions, plan_pruning, prune
from edgekd_converters.recover import RecoverOptions
from edgekd_converters.trial import decide_blocks

BLOCKS = {"resnet": 2, "resnet_bottleneck": 1, "mobilenet_v2": 2, "mobilenet_v3": 2, "bert": 4} | dict.fromkeys(
    ["densenet", "unet_resize", "cnn_1d"], 0
)


def net(body: Any, size: int = 8) -> Graph:
    """An image network of ``body`` between a convolution and a dense layer."""
    keras.utils.set_random_seed(3)
    image = keras.Input((size, size, 3), name="image")
    x = body(keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return convert_keras(keras.Model(image, keras.layers.Dense(4)(x)))


def conv(x: Any, activation: str | None = None) -> Any:
    return keras.layers.Conv2D(8, 3, padding="same", activation=activation)(x)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_found_where_there_are_some(name: str) -> None:
    assert len(residual_blocks(graph(name))) == BLOCKS[name]


@pytest.mark.parametrize("name", [name for name, count in BLOCKS.items() if count])
def test_a_silenced_block_leaves_and_nothing_changes(name: str) -> None:
    """The last layer of the branch gives zeros: then what the block adds is nothing, and without it all is the same."""
    original, columns = graph(name), samples(graph(name), 4, 1)
    for block in residual_blocks(original):
        last = next(op for op in reversed(block.ops) if op.name in ("CONV_2D", "FULLY_CONNECTED"))
        if last.outputs[0] not in block.add.inputs:
            continue
        zeros = {(last.index, k): np.zeros(t.shape, np.float32) for k, t in enumerate(last.slots) if k and t}
        silenced = original.edited({}, {}, zeros)
        [same] = [one for one in residual_blocks(silenced) if one.name == block.name]
        shallow = without(silenced, [same])
        assert count_macs(original) - count_macs(shallow) == block.macs
        assert len(shallow.main) < len(original.main)
        for key, value in run_columns(silenced, columns).items():
            np.testing.assert_allclose(run_columns(shallow, columns)[key], value, atol=1e-5)


def test_an_activation_that_still_does_something_stays() -> None:
    """relu(x + f(x)) of an x that may be negative is relu(x) without f."""

    def body(x: Any) -> Any:
        x = conv(x)
        return keras.layers.ReLU()(keras.layers.Add()([x, conv(conv(x, "relu"))]))

    original = net(body)
    [block] = residual_blocks(original)
    shallow = without(original, [block])
    assert [op.name for op in shallow.main].count("RELU") == 1
    columns = {"image": np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)}
    assert all(np.isfinite(value).all() for value in run_columns(shallow, columns).values())


def test_what_others_read_is_no_block() -> None:
    def read_twice(x: Any) -> Any:
        branch = conv(x)
        return keras.layers.Concatenate()([keras.layers.Add()([x, branch]), branch])

    def projected(x: Any) -> Any:
        return keras.layers.Add()([keras.layers.Conv2D(8, 1)(x), conv(x)])

    assert not residual_blocks(net(read_twice))
    assert not residual_blocks(net(projected))


def test_the_block_that_matters_least_goes_first() -> None:
    def body(x: Any) -> Any:
        for _ in range(3):
            x = keras.layers.Add()([x, conv(x, "relu")])
        return x

    original = net(body)
    columns = {"image": np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)}
    middle = residual_blocks(original)[1]
    [maker] = [op for op in middle.ops if op.name == "CONV_2D"]
    faint = original.edited({}, {}, {(maker.index, 1): 1e-4 * original.constant(maker.slots[1])})  # type: ignore[arg-type]
    gone = least_missed(faint, columns, 5)
    assert len(gone) == 3
    assert gone[0][0].name == middle.name
    assert gone[0][1] < 1e-3 < max(rise for _, rise in gone[1:])


def test_a_plan_may_leave_blocks_out_and_the_rest_is_refitted() -> None:
    original, columns = graph("resnet"), samples(graph("resnet"), 256, 1)
    wanted = run_columns(original, columns)
    apart = []
    for refit in (True, False):
        options = PruneOptions(0.4, blocks=1, refit=refit)
        plan = plan_pruning(original, columns, options)
        slim = prune(original, plan, columns, options)
        assert len(plan.blocks) == 1
        assert plan.blocks[0].layers
        assert plan.macs_after == count_macs(slim) <= 0.6 * plan.macs_before == 0.6 * count_macs(original)
        apart.append(divergence(wanted, run_columns(slim, columns)))
    assert apart[0] < 0.8 * apart[1]


def decided(original: Graph, columns: Any, steps: int, **options: Any) -> int | None:
    cut = PruneOptions(0.3, importance="weight", **options)
    share = RecoverOptions(steps, batch=16, learning_rate=1e-3)
    return decide_blocks(original, original, columns, cut, columns, None, share, lambda note: None).blocks


def test_short_trainings_tell_how_many_leave() -> None:
    """A block that adds nothing is given up; one that does everything is kept."""

    def body(x: Any) -> Any:
        return keras.layers.Add()([x, conv(x, "relu")])

    original, columns = net(body), {"image": np.random.default_rng(0).normal(size=(128, 8, 8, 3)).astype(np.float32)}
    [block] = residual_blocks(original)
    [maker] = [op for op in block.ops if op.name == "CONV_2D"]
    weights = original.constant(maker.slots[1])  # type: ignore[arg-type]
    assert decided(original.edited({}, {}, {(maker.index, 1): 0 * weights}), columns, 1000) == 1
    assert decided(original.edited({}, {}, {(maker.index, 1): 20 * weights}), columns, 1000) == 0


def test_nothing_is_tried_where_it_is_not_asked_for() -> None:
    original, columns = graph("resnet"), samples(graph("resnet"), 16, 1)
    assert decided(original, columns, 100) == 0  # too short
    assert decided(original, columns, 10_000, uniform=True) == 0
    assert decided(original, columns, 10_000, blocks=1) == 1
