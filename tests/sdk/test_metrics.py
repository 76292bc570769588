"""Figures of merit against values worked out by hand, and their properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.flips import find_flips
from edgekd.metric import drop
from edgekd.metrics import Score, Truth, auc, macro_f1, score


def outputs_of(*answers: int) -> np.ndarray:
    """``(n, 3)`` logits whose greatest is at ``answers[i]``."""
    return np.eye(3, dtype=np.float32)[list(answers)]


def test_a_classifier_with_labels() -> None:
    truth = Truth(classes=np.array([0, 0, 0, 1, 2], np.int32))
    found = score(outputs_of(0, 0, 1, 1, 1), truth, outputs_of(0, 1, 1, 1, 1))
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.macro_f1 == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)
    assert found.agreement == pytest.approx(4 / 5)
    assert (found.mse, found.auc, found.relative_rmse) == (None, None, None)
    assert found.default_metric() == "accuracy"


def test_a_classifier_without_labels() -> None:
    found = score(outputs_of(0, 1), Truth(), outputs_of(0, 2))
    assert found == Score(agreement=0.5)
    assert found.default_metric() == "agreement"


def test_macro_f1_counts_a_class_that_is_only_guessed() -> None:
    assert macro_f1(np.array([0, 1]), np.array([0, 0])) == pytest.approx((2 / 3 + 0) / 2)


def test_a_regressor() -> None:
    outputs = np.array([[1.0], [3.0]], np.float32)
    found = score(outputs, Truth(values=np.array([[0.0], [1.0]], np.float32)), outputs / 2)
    assert found.mse == pytest.approx((1 + 4) / 2)
    assert found.relative_rmse == pytest.approx(1.0)
    assert (found.accuracy, found.agreement, found.default_metric()) == (None, None, "mse")


def test_an_autoencoder_finds_the_odd_rows() -> None:
    inputs = np.zeros((4, 5), np.float32)
    outputs = np.array([[0.1] * 5, [0.2] * 5, [0.5] * 5, [0.15] * 5], np.float32)
    found = score(outputs, Truth(values=inputs, positives=np.array([False, False, True, True])))
    assert found.auc == pytest.approx(3 / 4)
    assert found.default_metric() == "auc"
    assert found.accuracy is None, "its outputs are not classes, though they look so"


def test_auc_of_two_classes() -> None:
    logits = np.array([[0, 1], [0, 3], [0, 2]], np.float32)
    truth = Truth(classes=np.array([0, 1, 1], np.int32), positives=np.array([False, True, True]))
    assert score(logits, truth).auc == 1.0


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores, positives = (np.array(column) for column in zip(*rows, strict=True))
    odd, plain = scores[positives], scores[~positives]
    found = auc(scores.astype(np.float64), positives)
    if not len(odd) or not len(plain):
        assert found is None
    else:
        difference = odd[:, None] - plain
        assert found == pytest.approx((difference > 0).mean() + (difference == 0).mean() / 2)


@pytest.mark.parametrize(
    ("metric", "before", "after", "worse"),
    [
        ("accuracy", 0.9, 0.88, 0.02),
        ("mse", 2.0, 2.5, 0.25),
        ("relative_rmse", 0.0, 0.03, 0.03),
        ("auc", 0.8, 0.9, -0.1),
    ],
)
def test_what_a_drop_is(metric: object, before: float, after: float, worse: float) -> None:
    assert drop(metric, before, after) == pytest.approx(worse)  # type: ignore[arg-type]


class TestFlips:
    before = np.array([0, 0, 1, 2, 2, 1])
    after = np.array([0, 1, 0, 2, 1, 0])
    wanted = np.array([0, 0, 0, 2, 0, 1])

    def test_by_the_right_class(self) -> None:
        found = find_flips(self.before, self.after, self.wanted, ("a", "b", "c"))
        assert (found.rows, found.changed, found.lost, found.won, found.by_truth) == (6, 4, 2, 1, True)
        a, b = found.classes
        assert (a.label, a.rows, a.right_before, a.right_after, a.changed, a.lost, a.won) == ("a", 4, 2, 2, 3, 1, 1)
        assert (b.label, b.rows, b.right_before, b.right_after, b.changed, b.lost, b.won) == ("b", 1, 1, 0, 1, 1, 0)
        assert found.pairs[0] == (1, 0, 2)
        assert found.to_dict(("a", "b", "c"))["pairs"][0] == {"before": "b", "after": "a", "rows": 2}

    def test_without_labels_by_the_first_answer(self) -> None:
        found = find_flips(self.before, self.after, None)
        assert (found.by_truth, found.changed, found.lost, found.won) == (False, 4, 4, 0)
        assert [(one.number, one.label, one.changed) for one in found.classes] == [
            (1, None, 2),
            (0, None, 1),
            (2, None, 1),
        ]

    def test_none(self) -> None:
        found = find_flips(self.before, self.before, self.wanted)
        assert (found.changed, found.classes, found.pairs) == (0, (), ())
