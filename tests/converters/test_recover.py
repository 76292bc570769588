"""Training on the graph: it starts from what the graph is, learns from its teacher, and folds back into layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.converters.zoo import graph, samples

from edgekd_converters import augment
from edgekd_converters.distance import hint_points, logits_of
from edgekd_converters.divergence import divergence, run_columns
from edgekd_converters.errors import RecoverError
from edgekd_converters.graph import Graph
from edgekd_converters.program import Program
from edgekd_converters.prune import PruneOptions, plan_pruning, prune
from edgekd_converters.recover import RecoverOptions, recover
from edgekd_converters.teaching import lessons
from edgekd_converters.trainable import Trainable

Columns = dict[str, npt.NDArray[Any]]


def narrowed(name: str, amount: float = 0.4) -> tuple[Graph, Graph]:
    """(original, pruned by weights, not refitted)."""
    original, columns = graph(name), samples(graph(name), 16, 1)
    options = PruneOptions(amount, importance="weight", uniform=True, refit=False)
    return original, prune(original, plan_pruning(original, columns, options), columns, options)


def gap(original: Graph, other: Graph, columns: Columns) -> float:
    return divergence(run_columns(original, columns), run_columns(other, columns))


@pytest.mark.parametrize(
    "name", ["resnet", "mobilenet_v3", "unet_transposed", "text_student", "bert", "cnn_1d", "lstm"]
)
def test_untrained_it_folds_into_what_it_was(name: str) -> None:
    original, columns = graph(name), samples(graph(name), 16, 1)
    same = Trainable(original, [columns]).folded()
    assert [op.name for op in same.main] == [op.name for op in original.main]
    for name_of, value in run_columns(original, columns).items():
        np.testing.assert_allclose(run_columns(same, columns)[name_of], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["resnet", "mobilenet_v2", "multi_input_output", "conv_autoencoder", "bert", "unet_resize"]
)
def test_the_original_teaches_the_pruned(name: str) -> None:
    original, slim = narrowed(name)
    columns, unseen = samples(original, 256, 1), samples(original, 64, 2)
    notes: list[str] = []
    done = recover(slim, original, columns, RecoverOptions(60, batch=32, learning_rate=3e-3), on_step=notes.append)
    assert len(notes) == 60
    assert np.isfinite(done.loss)
    assert 0 <= done.agreement <= 1
    assert done.graph.signature == original.signature
    assert [tensor.shape for tensor in done.graph.tensors] == [tensor.shape for tensor in slim.tensors]
    assert gap(original, done.graph, unseen) < 0.8 * gap(original, slim, unseen)


def test_a_seed_repeats_a_run() -> None:
    original, slim = narrowed("ds_cnn")
    columns = samples(original, 64, 1)
    options = RecoverOptions(6, batch=16, augment=("flip", "crop"), hints=1.0, seed=7)
    first, second = (recover(slim, original, columns, options) for _ in range(2))
    assert first.graph.content == second.graph.content
    other = recover(slim, original, columns, RecoverOptions(6, batch=16, augment=("flip", "crop"), hints=1.0, seed=8))
    assert other.graph.content != first.graph.content


def test_labels_count_when_they_are_given() -> None:
    """A teacher that knows nothing of the labels, and labels that follow from the sample: only α brings them in."""
    original = graph("cnn_1d")
    columns = samples(original, 512, 1)
    name = next(iter(columns))
    labels = (columns[name].mean(axis=tuple(range(1, columns[name].ndim))) > 0).astype(np.int32)
    scores = {}
    for alpha in (0.0, 1.0):
        options = RecoverOptions(80, batch=64, learning_rate=5e-3, alpha=alpha)
        trained = recover(original, original, columns, options, labels)
        got = next(iter(run_columns(trained.graph, columns).values()))
        scores[alpha] = float((got.argmax(1) == labels).mean())
    assert scores[1.0] > max(0.8, scores[0.0] + 0.1)


def test_padding_stays_zero() -> None:
    original = graph("text_student")
    tables = [op.inputs[0] for op in original.main if op.name == "GATHER" and op.inputs[0].shape[1] > 1]
    emptied = {table.index: original.constant(table).copy() for table in tables}
    for value in emptied.values():
        value[0] = 0
    original = original.edited(emptied, {})
    other = graph("text_student")
    done = recover(original, other, samples(other, 64, 1), RecoverOptions(10, batch=16, learning_rate=1e-2))
    for index, value in emptied.items():
        trained = done.graph.constant(done.graph.tensors[index])
        assert not trained[0].any()
        assert np.abs(trained - value).max() > 0


def test_hints_pair_feature_maps_of_one_resolution() -> None:
    original, slim = narrowed("resnet")
    points = hint_points(slim, original)
    assert len(points) >= 2
    for mine, its in points:
        assert slim.tensors[mine].shape[1:3] == original.tensors[its].shape[1:3]
        assert len(slim.tensors[mine].shape) == 4
    assert not hint_points(graph("bert"), graph("bert"))


def test_what_does_not_fit_is_refused() -> None:
    original, columns = graph("ds_cnn"), samples(graph("ds_cnn"), 32, 1)
    with pytest.raises(RecoverError, match="teacher"):
        recover(original, graph("dense_autoencoder"), columns, RecoverOptions(1))
    with pytest.raises(RecoverError, match="two samples"):
        recover(original, original, {name: column[:1] for name, column in columns.items()}, RecoverOptions(1))
    with pytest.raises(RecoverError, match="beyond the"):
        recover(original, original, columns, RecoverOptions(1), np.full(32, 99, np.int32))
    with pytest.raises(RecoverError, match="'blur'"):
        recover(original, original, columns, RecoverOptions(1, augment=("blur",)))
    text = graph("text_student")
    with pytest.raises(RecoverError, match="image input"):
        recover(text, text, samples(text, 8, 1), RecoverOptions(1, augment=("flip",)))


def test_divergence_is_said() -> None:
    original, columns = graph("text_student"), samples(graph("text_student"), 32, 1)
    with pytest.raises(RecoverError, match=r"diverged at step \d+; take a smaller"):
        recover(original, original, columns, RecoverOptions(20, batch=8, learning_rate=1e30))


# --- augmentation ---


def images(count: int = 64) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 16, 24, 3)).astype(np.float32)


def test_a_flip_mirrors_some_images_and_no_others() -> None:
    before = images()
    after = augment.apply({"x": before}, ["flip"], np.random.default_rng(1))["x"]
    same = np.array([np.array_equal(a, b) for a, b in zip(before, after, strict=True)])
    mirrored = np.array([np.array_equal(a[:, ::-1], b) for a, b in zip(before, after, strict=True)])
    assert (same ^ mirrored).all()
    assert 10 < mirrored.sum() < 54


def test_a_crop_is_a_shifted_window_of_the_mirrored_image() -> None:
    before = images()
    after = augment.apply({"x": before}, ["crop"], np.random.default_rng(1))["x"]
    assert after.shape == before.shape
    wide = np.pad(before, ((0, 0), (2, 2), (3, 3), (0, 0)), mode="reflect")
    shifts = set()
    for padded, got in zip(wide, after, strict=True):
        found = [(y, x) for y in range(5) for x in range(7) if np.array_equal(padded[y : y + 16, x : x + 24], got)]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 10


def test_what_is_no_image_is_left_alone() -> None:
    ids = np.arange(32, dtype=np.int32).reshape(4, 8)
    got = augment.apply({"ids": ids, "x": images(4)}, ["flip", "crop"], np.random.default_rng(1))
    assert np.array_equal(got["ids"], ids)
    assert got["x"].dtype == np.float32


# --- what the teacher says ---


def test_without_changed_images_the_teacher_is_asked_once_and_exactly() -> None:
    teacher, columns = Program(graph("resnet")), samples(graph("resnet"), 10, 1)
    [told] = lessons(teacher, columns, (), 4, 3, np.random.default_rng(0)) or []
    [asked] = logits_of(teacher.graph, teacher.run(columns))
    np.testing.assert_allclose(told, asked, rtol=1e-5, atol=1e-5)


def test_a_classifiers_word_on_changed_images_is_the_mean_over_them() -> None:
    teacher, columns = Program(graph("resnet")), samples(graph("resnet"), 10, 1)
    [told] = lessons(teacher, columns, ("flip", "crop"), 4, 3, np.random.default_rng(0)) or []
    rng, views = np.random.default_rng(0), []
    for kinds in ((), ("flip", "crop"), ("flip", "crop")):
        parts = [{name: column[i : i + 4] for name, column in columns.items()} for i in (0, 4, 8)]
        shown = [logits_of(teacher.graph, teacher.run(augment.apply(part, kinds, rng)))[0] for part in parts]
        views.append(np.concatenate(shown))
    np.testing.assert_allclose(told, np.mean(views, 0), rtol=1e-5, atol=1e-5)
    assert np.abs(views[0] - views[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["conv_autoencoder", "multi_input_output", "unet_resize"])
def test_what_is_no_vector_is_asked_in_every_step(name: str) -> None:
    teacher, columns = Program(graph(name)), samples(graph(name), 4, 1)
    if any(len(tensor.shape) != 2 for tensor in teacher.graph.results):
        assert lessons(teacher, columns, (), 4, 1, np.random.default_rng(0)) is None
    assert lessons(teacher, columns, ("flip",), 4, 1, np.random.default_rng(0)) is None
