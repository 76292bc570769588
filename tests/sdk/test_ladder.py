"""What is tried when int8 does not pass the gate, on a network with one layer poisoned by an outlier channel."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from tests.sdk.poison import inner_convolution, poisoned

from edgekd import ladder as ladder_module
from edgekd.culprits import find_culprits
from edgekd.errors import GateError
from edgekd.gate import judge
from edgekd.ladder import Candidate, Ladder, full_integer, settle
from edgekd.layers import layer_errors
from edgekd.metrics import Truth, score
from edgekd.verify import side_by_side
from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import read_graph
from edgekd_converters.integer import integer_fraction
from edgekd_converters.observe import feeds
from edgekd_converters.quantize import quantize_int8
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.wire import metadata

Cli = Callable[..., Result]
Tried = tuple[Candidate, Ladder]


@pytest.fixture(scope="module")
def failed(pictures: Any) -> Tried:
    """int8 of the poisoned network, judged by its agreement with float, and the ladder from there."""
    sound = read_graph(pictures.model.read_bytes())
    graph = poisoned(sound, inner_convolution(sound), 300.0)
    columns = {"image": pictures.images[:80]}
    ranges = calibrate_minmax(graph, feeds(columns))
    int8_graph = quantize_int8(graph, ranges)
    runs, truth = side_by_side([graph, int8_graph], columns), Truth()
    scores = [score(run.outputs, truth, runs[0].outputs) for run in runs]
    culprits = find_culprits(graph, int8_graph, columns, layer_errors(graph, int8_graph, columns))
    verdict = judge("agreement", 0.005, [scores[0], *scores])
    ladder = Ladder([graph], ranges, culprits, columns, truth, runs[0], scores[:1] * 2, "agreement", 0.005)
    return full_integer(int8_graph, runs[1], scores[1], verdict), ladder


def settled(failed: Tried, ladder: Ladder | None = None, told: list[str] | None = None) -> Any:
    int8, usual = failed
    notes: list[str] = [] if told is None else told
    return settle(int8, ladder or usual, fallback=True, shrunk=False, advance=notes.append)


def test_int8_fails_and_the_culprit_is_named(failed: Tried) -> None:
    int8, ladder = failed
    assert not int8.verdict.met
    with pytest.raises(GateError, match=r"culprits: CONV_2D .*--allow-fallback would try") as caught:
        settle(int8, ladder, fallback=False, shrunk=False, advance=print)
    assert repr(ladder.culprits[0].tensor) in str(caught.value)


def test_16_bits_come_first(failed: Tried) -> None:
    told: list[str] = []
    result, tried = settled(failed, told=told)
    assert (result.precision, result.verdict.met) == ("int8-int16", True)
    culprit = failed[1].culprits[0].tensor
    assert {t.name: t.dtype for t in result.graph.tensors}[culprit] == "INT16"
    assert {t.dtype for t in (*result.graph.inputs, *result.graph.outputs)} == {"INT8"}
    assert 0.5 < integer_fraction(result.graph) < 1, "int8 becomes int16 by way of float"
    assert re.match(r"int8, but 16-bit activations in 2 of \d+ ops: CONV_2D '.*', CONV_2D '", result.note)
    assert [(one.precision, one.tensors) for one in tried] == [("int8-int16", (culprit,))]
    assert tried[0].value == result.score.agreement
    assert told == ["int8-int16 1"]


def test_then_floats_where_16_bits_cannot_be_written(failed: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ladder_module.quantize_mixed

    def narrow(graph: Any, ranges: Any, tensors: Any, wide: str) -> Any:
        if wide == "INT16":
            raise QuantizeError("no 16-bit kernel")
        return real(graph, ranges, tensors, wide)  # type: ignore[arg-type]

    monkeypatch.setattr(ladder_module, "quantize_mixed", narrow)
    result, tried = settled(failed)
    assert result.precision == "int8-float"
    culprit = failed[1].culprits[0].tensor
    assert {t.name: t.dtype for t in result.graph.tensors}[culprit] == "FLOAT32"
    assert "float arithmetic in 2 of" in result.note
    assert {one.skipped for one in tried if one.precision == "int8-int16"} == {"no 16-bit kernel"}
    assert tried[-1].skipped is None


def test_floats_are_tried_without_what_was_adjusted_to_int8(failed: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    real, graph = ladder_module.quantize_mixed, failed[1].graphs[0]
    adjusted = replace(graph)
    seen: list[tuple[str, bool]] = []

    def noted(source: Any, ranges: Any, tensors: Any, wide: str) -> Any:
        seen.append((wide, source is adjusted))
        if wide == "INT16":
            raise QuantizeError("no 16-bit kernel")
        worse = {name: (low / 4, high / 4) for name, (low, high) in ranges.items()}
        return real(graph, worse if source is adjusted else ranges, tensors, wide)  # type: ignore[arg-type]

    monkeypatch.setattr(ladder_module, "quantize_mixed", noted)
    result, tried = settled(failed, replace(failed[1], graphs=[adjusted, graph]))
    assert result.precision == "int8-float"
    widths = len([one for one in tried if one.precision == "int8-int16"])
    assert seen == [("INT16", True)] * widths + [("FLOAT32", True), ("FLOAT32", False)] * (len(tried) - widths)
    alone, _ = settled(failed, replace(failed[1], graphs=[graph]))
    assert result.score == alone.score


def test_then_dynamic(failed: Tried, pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is no help against an outlier channel, so on the sound network."""

    def refused(*_: Any) -> Any:
        raise QuantizeError("no")

    monkeypatch.setattr(ladder_module, "quantize_mixed", refused)
    sound = replace(failed[1], graphs=[read_graph(pictures.model.read_bytes())], max_drop=0.02)
    result, tried = settled(failed, sound)
    assert (result.precision, len(result.graph.content) < len(sound.graphs[0].content)) == ("dynamic-int8", True)
    assert "not full integer" in result.note
    assert {t.dtype for t in (*result.graph.inputs, *result.graph.outputs)} == {"FLOAT32"}
    assert (tried[-1].precision, tried[-1].tensors) == ("dynamic-int8", ())


def test_if_nothing_passes_all_rungs_are_told(failed: Tried) -> None:
    strict = replace(failed[1], max_drop=-1.0)  # of the rungs alone
    with pytest.raises(GateError) as caught:
        settled(failed, strict)
    message = str(caught.value)
    assert re.search(r"int8-int16 on \d+ culprits: agreement \d", message)
    assert re.search(r"int8-float on \d+ culprits: agreement \d", message)
    assert re.search(r"; dynamic-int8: agreement \d", message)
    assert message.endswith("Nothing was written")


def test_no_rung_is_tried_where_the_float_model_fails(failed: Tried) -> None:
    told: list[str] = []
    verdict = replace(failed[0].verdict, between=0.5)
    with pytest.raises(GateError, match="the float model does not pass either"):
        settled((replace(failed[0], verdict=verdict), failed[1]), told=told)
    assert told == []


def test_a_fallback_needs_a_gate(fails: Callable[..., str], pictures: Any, tmp_path: Path) -> None:
    data = ["--samples", pictures.samples, "--output", tmp_path / "out", "--allow-fallback"]
    assert "--allow-fallback needs --max-drop" in fails(2, "convert", pictures.model, *data)


def test_int8_that_passes_is_kept(failed: Tried) -> None:
    int8 = replace(failed[0], verdict=replace(failed[0].verdict, max_drop=1.0))
    assert settled((int8, failed[1])) == (int8, [])


@pytest.fixture(scope="module")
def bad_ranges(pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A range that clips nearly all of the first convolution's output."""
    graph = read_graph(pictures.model.read_bytes())
    name = next(op.outputs[0].name for op in graph.main if op.name == "CONV_2D")
    path = tmp_path_factory.mktemp("ranges") / "bad.json"
    path.write_text(json.dumps({"edgekd": "ranges", "schema_version": 1, "ranges": {name: [0, 1e-3]}}))
    return path


@pytest.fixture(scope="module")
def fallen(cli: Cli, pictures: Any, bad_ranges: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted with that range, and a fallback. Do not write into it."""
    output = tmp_path_factory.mktemp("fallen") / "stripes"
    (output / "int8.tflite").parent.mkdir()
    (output / "int8.tflite").write_bytes(b"of an earlier conversion")
    data = ["--samples", pictures.samples, "--eval", pictures.eval, "--max-drop", "0.05", "--ranges", bad_ranges]
    result = cli("convert", pictures.model, *data, "--output", output, "--allow-fallback")
    assert result.exit_code == 0, result.output
    assert "note: the result is int8-float: int8, but float arithmetic in" in " ".join(result.output.split())
    return output


def test_without_leave_the_conversion_fails(
    fails: Callable[..., str], pictures: Any, bad_ranges: Path, tmp_path: Path
) -> None:
    data = ["--samples", pictures.samples, "--eval", pictures.eval, "--max-drop", "0.05", "--ranges", bad_ranges]
    message = fails(3, "convert", pictures.model, *data, "--output", tmp_path / "out")
    assert "culprits: CONV_2D" in message
    assert "--allow-fallback" in message
    assert not (tmp_path / "out").exists()


def test_every_surface_says_what_it_is(fallen: Path) -> None:
    report = json.loads((fallen / "report.json").read_text("utf-8"))
    assert {path.name for path in fallen.glob("*.tflite")} == {"float.tflite", "int8-float.tflite"}
    assert (report["precision"], report["stages"][-1]["stage"]) == ("int8-float", "int8-float")
    assert report["precision_note"].startswith("int8, but float arithmetic in ")
    assert report["integer_op_fraction"] < 1
    assert report["bytes"]["int8"] == (fallen / "int8-float.tflite").stat().st_size
    assert report["accuracy"]["int8"] == report["gate"]["after"] > report["accuracy"]["float"] - 0.05
    tried = report["gate"]["fallbacks"]
    assert [one["precision"] for one in tried[:1]] == ["int8-int16"]
    assert (tried[-1]["precision"], tried[-1]["drop"] <= 0.05) == ("int8-float", True)
    bundle = load_bundle(fallen / "stripes.edgekd")
    assert (bundle.precision, bundle.precision_note) == ("int8-float", report["precision_note"])
    parameters = metadata.model(Engine(bundle))["parameters"]
    assert (parameters["precision"], parameters["precision_note"]) == (bundle.precision, bundle.precision_note)
    assert "int8-float" in (fallen / "report.html").read_text("utf-8")


def test_what_was_measured_is_what_is_served(fallen: Path, pictures: Any) -> None:
    engine = Engine(load_bundle(fallen / "stripes.edgekd"))
    scores = np.concatenate([engine.infer({"image": image[None]})["scores"] for image in pictures.images])
    report = json.loads((fallen / "report.json").read_text("utf-8"))
    assert (scores.argmax(1) == pictures.targets).mean() == report["accuracy"]["int8"]
