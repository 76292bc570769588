"""The out-of-scope threshold, the layers' errors, the stages' bookkeeping and the words of the report."""

from typing import Any

import numpy as np
import pytest

from edgekd import scope
from edgekd.errors import DataError, GateError, StageError, UsageError
from edgekd.report.tables import convert_rows
from edgekd.report.words import kilobytes, percent
from edgekd.stages import Stages
from edgekd_converters.errors import QuantizeError, SourceNotFoundError
from edgekd_runtime.errors import BundleError, InputError


def logits(*scores: float) -> Any:
    """Two-class logits whose greatest softmax score is ``scores[i]``."""
    return np.array([[np.log(score / (1 - score)), 0.0] for score in scores], np.float32)


def test_top_scores() -> None:
    np.testing.assert_allclose(scope.top_scores(logits(0.6, 0.9)), [0.6, 0.9], rtol=1e-5)
    huge = np.array([[1e4, -1e4, 0], [3, 3, 3]], np.float32)
    np.testing.assert_allclose(scope.top_scores(huge), [1, 1 / 3], rtol=1e-6)


def test_top_scores_of_probabilities_are_their_own() -> None:
    given = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    assert scope.top_scores(given, "probabilities").tolist() == [0.75, 0.5]


def test_the_threshold_on_probabilities() -> None:
    top = np.linspace(0.6, 0.99, 100, dtype=np.float32)
    inside, outside = (np.stack([scores, 1 - scores], 1) for scores in (top, np.array([0.55, 0.61, 0.98], np.float32)))
    bounds = scope.measure(inside, outside, "probabilities")
    assert 0.61 < bounds.threshold < 0.63
    assert bounds.in_scope_accepted == pytest.approx(0.96, abs=0.011)
    assert bounds.out_of_scope_rejected == pytest.approx(2 / 3)


def test_the_threshold_stays_below_1_where_rounding_passes_it() -> None:
    bounds = scope.measure(np.array([[1.004, 0], [1.004, 0]], np.float32), None, "probabilities")
    assert (bounds.threshold, bounds.in_scope_accepted) == (pytest.approx(1, abs=2e-6), 1.0)
    assert bounds.threshold < 1


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([[0.2, 0.8], [1, 0]], "probabilities"),
        ([[0.2, 0.8004], [1, 0]], "probabilities"),  # rounded
        ([[0.2, 0.8], [1, 0.5]], "logits"),  # a sigmoid for each class
        ([[-0.5, 1.5], [1, 0]], "logits"),
        ([[np.nan, 0.8]], "logits"),
        ([[1.0], [1.0]], "logits"),  # no classifier
    ],
)
def test_what_the_outputs_are(outputs: list[list[float]], kind: str) -> None:
    assert scope.kind_of(np.array(outputs, np.float32)) == kind


def test_the_threshold_is_what_95_percent_reach() -> None:
    inside = logits(*np.linspace(0.6, 0.99, 100))
    outside = logits(0.55, 0.58, 0.61, 0.98)
    bounds = scope.measure(inside, outside)
    assert bounds.in_scope_accepted >= 0.95
    assert bounds.in_scope_accepted == pytest.approx(0.96, abs=0.011)
    assert 0.61 < bounds.threshold < 0.63
    assert bounds.out_of_scope_rejected == 0.75


def test_foreign_texts_do_not_move_the_threshold() -> None:
    inside = logits(*np.linspace(0.6, 0.99, 40))
    assert scope.measure(inside, logits(0.97)).threshold == scope.measure(inside, None).threshold
    assert scope.measure(inside, None).out_of_scope_rejected is None


def test_scores_that_are_all_alike_are_all_accepted() -> None:
    bounds = scope.measure(logits(0.8, 0.8, 0.8), logits(0.8, 0.7))
    assert (bounds.in_scope_accepted, bounds.out_of_scope_rejected) == (1.0, 0.5)


def test_one_sample_is_enough() -> None:
    inside = logits(0.7)
    bounds = scope.measure(inside, None)
    assert bounds.threshold == float(scope.top_scores(inside)[0]) * (1 - 1e-6), "a hair below the score"
    assert bounds.threshold == pytest.approx(0.7, rel=2e-6)
    assert bounds.in_scope_accepted == 1.0


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.9263, "92.63 %"), (1.0, "100.00 %"), (0.0, "0.00 %"), (None, "–"), (0.00004, "0.00 %")]
)
def test_percent(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


def test_kilobytes_are_of_1000_bytes() -> None:
    assert kilobytes(806_100) == "806.1 kB"
    assert kilobytes(0) == "0.0 kB"


REPORT: dict[str, Any] = {
    "precision": "int8",
    "source": {"format": "keras", "equivalence": {"max_difference": 1.2e-6}},
    "accuracy": {"float": 0.92, "int8": 0.915},
    "bytes": {"float": 3_000_000, "int8": 800_000},
    "integer_op_fraction": 1.0,
    "invoke_us": {"float": 12.34, "int8": 5.0},
    "agreement": 0.99,
    "worst_layer": {"tensor": "t", "op": "SUM", "relative_rmse": 0.01},
    "out_of_scope": {"threshold": 0.4, "in_scope_accepted": 0.95, "out_of_scope_rejected": None},
}


def test_the_table_of_a_conversion() -> None:
    rows = dict(convert_rows(REPORT))
    assert rows["source"] == "keras, float graph differs by 1.2e-06 at most"
    assert rows["float accuracy"] == "92.00 %"
    assert rows["int8 accuracy"] == "91.50 %"
    assert rows["int8 model"] == "800.0 kB"
    assert rows["worst layer error"] == "1.00 % at SUM 't'"
    assert rows["in scope accepted"] == "95.00 %"
    assert "out of scope refused" not in rows


def test_the_table_leaves_out_what_was_not_measured() -> None:
    rows = dict(convert_rows({**REPORT, "accuracy": None, "out_of_scope": None}))
    assert not {"float accuracy", "int8 accuracy", "in scope accepted"} & set(rows)
    assert {"float model", "agreement float–int8"} <= set(rows)


@pytest.mark.parametrize(
    ("error", "code"),
    [(QuantizeError("no"), 1), (SourceNotFoundError("no"), 2), (BundleError("no"), 1), (InputError("no"), 2)],
)
def test_a_failure_names_its_stage_and_keeps_its_code(error: Exception, code: int) -> None:
    stages = Stages(quiet=True)
    with pytest.raises(StageError, match=r"^quantise: no$") as caught, stages.stage("quantise"):
        raise error
    assert caught.value.exit_code == code
    assert "quantise" not in stages.seconds


@pytest.mark.parametrize("error", [DataError("no"), UsageError("no"), GateError("no")])
def test_the_tools_own_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, Stages(quiet=True).stage("read"):
        raise error
    assert caught.value is error


def test_memory_running_out_is_named() -> None:
    with pytest.raises(StageError, match="load: not enough memory"), Stages(quiet=True).stage("load"):
        raise MemoryError


def test_other_exceptions_are_bugs_and_stay_visible() -> None:
    with pytest.raises(ZeroDivisionError), Stages(quiet=True).stage("load"):
        raise ZeroDivisionError


def test_stages_are_timed_in_order() -> None:
    stages = Stages(quiet=True)
    for name in ("one", "two"):
        with stages.stage(name, steps=1) as step:
            step.advance("note")
    assert list(stages.seconds) == ["one", "two"]
    assert all(0 <= seconds < 5 for seconds in stages.seconds.values())


def test_exit_codes() -> None:
    assert (StageError.exit_code, UsageError.exit_code, DataError.exit_code, GateError.exit_code) == (1, 2, 2, 3)
