"""The training loop: the loss as written down, padding that stays nothing, and the epoch that is kept."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd.distill.student import StudentOptions, build_student
from edgekd.distill.train import Split, TrainOptions, accuracy, drop_tokens, predict, train, within_one_error

CLASSES = 3
SHAPE = StudentOptions(buckets=128, width=8, dropout=0.0, length=32)
PREPROCESS = SHAPE.preprocessor()
TEXTS = [f"{word} number {i}" for i in range(8) for word in ("parcel", "refund", "login")]
IDS = np.stack([PREPROCESS(text) for text in TEXTS])
TARGETS = np.tile(np.arange(CLASSES, dtype=np.int32), 8)


def fresh(shape: StudentOptions = SHAPE, seed: int = 0) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    return build_student(shape, CLASSES)


def spread(model: Any) -> Any:
    """Give the table weights large enough that logits differ."""
    rows = np.random.default_rng(0).normal(size=(SHAPE.buckets, SHAPE.width)).astype(np.float32)
    rows[0] = 0
    model.get_layer("table").set_weights([rows])
    return model


def first_loss(model: Any, teacher: npt.NDArray[np.float32] | None, alpha: float, temperature: float) -> float:
    """The loss of the first step over all rows at once, before any weight has moved."""
    options = TrainOptions(1, len(IDS), 1e-9, temperature, alpha, token_dropout=0.0)
    notes: list[str] = []
    train(model, Split(IDS, TARGETS, teacher), None, options, notes.append)
    (note,) = notes
    found = re.search(r"loss ([-\d.]+)", note)
    assert found
    return float(found[1])


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def kl(teacher: npt.NDArray[Any], student: npt.NDArray[Any], temperature: float) -> float:
    wanted, got = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return float((np.exp(wanted) * (wanted - got)).sum(1).mean())


def cross_entropy(logits: npt.NDArray[Any]) -> float:
    return float(-log_softmax(logits)[np.arange(len(TARGETS)), TARGETS].mean())


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    model = spread(fresh())
    logits = predict(model, IDS)
    assert np.abs(logits).max() > 0.5
    assert first_loss(model, logits, alpha=0.0, temperature=3.0) == 0.0


@pytest.mark.parametrize("temperature", [1.0, 3.0, 10.0])
def test_the_soft_loss_is_the_divergence_from_the_teacher(temperature: float) -> None:
    model = spread(fresh())
    student = predict(model, IDS)
    teacher = np.random.default_rng(1).normal(size=student.shape).astype(np.float32) * 4
    wanted = temperature**2 * kl(teacher, student, temperature)
    assert wanted > 0.1
    assert first_loss(model, teacher, 0.0, temperature) == pytest.approx(wanted, abs=1e-3)


def test_alpha_weighs_hard_against_soft() -> None:
    model = spread(fresh())
    student = predict(model, IDS)
    teacher = np.random.default_rng(2).normal(size=student.shape).astype(np.float32) * 4
    hard, soft = cross_entropy(student), 4.0 * kl(teacher, student, 2.0)
    assert abs(hard - soft) > 0.1
    assert first_loss(model, teacher, 0.3, 2.0) == pytest.approx(0.3 * hard + 0.7 * soft, abs=1e-3)
    assert first_loss(model, teacher, 1.0, 2.0) == pytest.approx(hard, abs=1e-3)
    assert first_loss(model, None, 0.3, 2.0) == pytest.approx(hard, abs=1e-3), "no teacher: labels alone"


def test_shifting_a_teachers_logits_changes_nothing() -> None:
    model = spread(fresh())
    teacher = np.random.default_rng(3).normal(size=(len(IDS), CLASSES)).astype(np.float32)
    assert first_loss(model, teacher, 0.0, 2.0) == pytest.approx(first_loss(model, teacher + 50, 0.0, 2.0), abs=2e-3)


def test_soft_labels_alone_teach() -> None:
    """The labels say one thing, the teacher another: with alpha 0 the student follows the teacher."""
    believed = (TARGETS + 1) % CLASSES
    teacher = 10 * np.eye(CLASSES, dtype=np.float32)[believed]
    model = fresh()
    train(model, Split(IDS, TARGETS, teacher), None, TrainOptions(40, 8, 0.02, 2.0, 0.0), lambda _: None)
    assert accuracy(predict(model, IDS), believed) > 0.9
    train(model, Split(IDS, TARGETS, teacher), None, TrainOptions(40, 8, 0.02, 2.0, 1.0), lambda _: None)
    assert accuracy(predict(model, IDS), TARGETS) > 0.9


def test_the_padding_row_stays_zero_while_others_move() -> None:
    model = fresh(StudentOptions(buckets=128, width=8, depth=1, hidden=8, length=32))
    before = model.get_layer("table").get_weights()[0].copy()
    gain = model.get_layer("gain").get_weights()[0].copy()
    train(model, Split(IDS, TARGETS), None, TrainOptions(epochs=3, batch=8), lambda _: None)
    after = model.get_layer("table").get_weights()[0]
    assert not before[0].any()
    assert not after[0].any()
    assert (np.abs(after - before).max(1) > 1e-4).sum() > 20
    np.testing.assert_array_equal(model.get_layer("gain").get_weights()[0], gain)


def test_padding_does_not_change_the_answer() -> None:
    """The logits are those of the n-grams alone: sum of rows / √n, dense."""
    model = spread(fresh())
    table, dense = model.get_layer("table").get_weights()[0], model.get_layer("logits").get_weights()
    for row, got in zip(IDS, predict(model, IDS), strict=True):
        summed = table[row[1 : row[0] + 1]].sum(0) / np.sqrt(max(row[0], 16))
        np.testing.assert_allclose(got, summed @ dense[0] + dense[1], atol=1e-5)


def test_dropped_tokens_leave_right_counts() -> None:
    import tensorflow as tf

    tf.random.set_seed(0)
    ids = np.repeat(IDS, 20, axis=0)
    dropped = drop_tokens(tf.constant(ids), 0.3).numpy()
    assert dropped.dtype == np.int32
    assert dropped.shape == ids.shape
    np.testing.assert_array_equal(dropped[:, 0], (dropped[:, 1:] > 0).sum(1))
    kept = dropped[:, 1:] > 0
    np.testing.assert_array_equal(dropped[:, 1:][kept], ids[:, 1:][kept])
    share = 1 - dropped[:, 0].sum() / ids[:, 0].sum()
    assert share == pytest.approx(0.3, abs=0.03)
    assert len(np.unique(dropped[:20], axis=0)) > 1, "every row of a batch is thinned on its own"


def test_no_token_dropout_is_no_change() -> None:
    assert drop_tokens(IDS, 0.0) is IDS


def test_the_kept_weights_are_those_of_the_reported_epoch() -> None:
    model, seen = fresh(), []
    held = Split(IDS[::2], TARGETS[::2])
    options = TrainOptions(epochs=8, batch=4, learning_rate=0.02)
    trained = train(model, Split(IDS[1::2], TARGETS[1::2]), held, options, seen.append)
    assert len(trained.history) == len(seen) == 8
    assert trained.holdout_accuracy == accuracy(predict(model, held.ids), held.targets)
    assert trained.history[trained.best_epoch - 1] == pytest.approx(trained.holdout_accuracy, abs=1e-5)
    least = within_one_error(max(trained.history), len(held.ids))
    assert trained.history[trained.best_epoch - 1] >= least - 1e-5
    assert all(score < least for score in trained.history[trained.best_epoch :]), "the last of the equals"


def test_without_a_holdout_the_last_epoch_stays() -> None:
    trained = train(fresh(), Split(IDS, TARGETS), None, TrainOptions(epochs=2, batch=8), lambda _: None)
    assert (trained.best_epoch, trained.holdout_accuracy, trained.history) == (2, None, ())


@pytest.mark.parametrize(
    ("sequence", "best"),
    [
        # One standard error of 100 rows: 0.03 below 0.90, 0.04 below 0.80, 0.0218 below 0.95.
        ((0.50, 0.90, 0.86, 0.88, 0.86, 0.869), 4),
        ((0.80, 0.77, 0.95, 0.92, 0.90), 3),
        ((0.80, 0.79, 0.77, 0.761), 4),
        ((0.90, 0.80, 0.70), 1),
        ((0.90, 0.90, 0.90), 3),
        ((0.0, 0.0), 2),
    ],
)
def test_the_last_epoch_within_one_standard_error_wins(
    monkeypatch: pytest.MonkeyPatch, sequence: tuple[float, ...], best: int
) -> None:
    model, after = fresh(), []
    told = iter(sequence)
    monkeypatch.setattr("edgekd.distill.train.accuracy", lambda *_: next(told))
    held = Split(np.resize(IDS, (100, IDS.shape[1])), np.resize(TARGETS, 100))
    options = TrainOptions(epochs=len(sequence), batch=8, learning_rate=0.02)
    trained = train(model, Split(IDS, TARGETS), held, options, lambda _: after.append(model.get_weights()))
    assert (trained.best_epoch, trained.holdout_accuracy, trained.history) == (best, sequence[best - 1], sequence)
    kept = model.get_weights()
    same = [all(np.array_equal(a, b) for a, b in zip(kept, other, strict=True)) for other in after]
    assert same == [epoch == best for epoch in range(1, len(sequence) + 1)]


def test_stopping_early_is_the_same_training_cut_short() -> None:
    """``stop_after`` leaves the schedule of the learning rate that of all epochs."""
    long, short, brief = fresh(), fresh(), fresh()
    options = TrainOptions(epochs=6, batch=8, learning_rate=0.02, token_dropout=0.0)
    at_two: list[Any] = []
    train(long, Split(IDS, TARGETS), None, options, lambda _: at_two.append(long.get_weights()))
    stopped = train(short, Split(IDS, TARGETS), None, options, lambda _: None, stop_after=2)
    assert (stopped.best_epoch, stopped.holdout_accuracy, stopped.history) == (2, None, ())
    assert all(np.array_equal(a, b) for a, b in zip(short.get_weights(), at_two[1], strict=True))
    train(brief, Split(IDS, TARGETS), None, replace(options, epochs=2), lambda _: None)
    assert not all(np.array_equal(a, b) for a, b in zip(brief.get_weights(), at_two[1], strict=True))


def test_one_standard_error() -> None:
    assert within_one_error(0.9, 100) == pytest.approx(0.87)  # √(0.9 · 0.1 / 100) = 0.03
    assert within_one_error(0.8, 25) == pytest.approx(0.72)  # √(0.8 · 0.2 / 25) = 0.08
    assert within_one_error(0.5, 4) == pytest.approx(0.25)  # √(0.5 · 0.5 / 4) = 0.25
    assert within_one_error(1.0, 10) == 1.0
    assert within_one_error(0.0, 10) == 0.0


def test_accuracy() -> None:
    logits = np.array([[1, 0], [0, 1], [3, 2], [0, 9]], np.float32)
    assert accuracy(logits, np.array([0, 1, 1, 1], np.int32)) == 0.75


def test_predicting_in_pieces_is_predicting() -> None:
    many = np.tile(IDS, (30, 1))
    model = spread(fresh())
    np.testing.assert_allclose(predict(model, many)[-24:], predict(model, IDS), atol=1e-6)


@pytest.mark.parametrize("depth", [0, 2])
def test_the_students_shape(depth: int) -> None:
    shape = StudentOptions(buckets=100, width=6, depth=depth, hidden=10, length=32)
    model = fresh(shape)
    assert model.input_shape == (None, 32)
    assert model.output_shape == (None, CLASSES)
    wide = 10 if depth else 6
    hidden = (6 * 10 + 10) + (10 * 10 + 10) if depth else 0
    assert model.count_params() == 100 * 6 + 32 + hidden + wide * CLASSES + CLASSES
