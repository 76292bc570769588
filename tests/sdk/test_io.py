"""``--io``: files with int8 and with float32 ends; clients that send floats, stored int8 or pictures to either."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from edgekd_converters.ends import input_grids
from edgekd_converters.graph import read_graph
from edgekd_converters.integer import integer_fraction, precision_of
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.wire import metadata

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def builds(cli: Cli, pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same conversion with both kinds of ends, and a preprocessing that makes −2 … 2 of a picture."""
    folder = tmp_path_factory.mktemp("io")
    how = ["--samples", pictures.samples, "--eval", pictures.eval, "--scale", "1/64", "--mean", "2"]
    for ends in ("int8", "float32"):
        result = cli("convert", pictures.model, *how, "--output", folder / ends, "--name", "stripes", "--io", ends)
        assert result.exit_code == 0, result.output
    return {ends: folder / ends for ends in ("int8", "float32")}


@pytest.fixture(scope="module")
def engines(builds: dict[str, Path]) -> dict[str, Engine]:
    return {ends: Engine(load_bundle(folder / "stripes.edgekd")) for ends, folder in builds.items()}


def test_the_files_have_those_ends(builds: dict[str, Path]) -> None:
    for ends, folder in builds.items():
        graph = read_graph((folder / "int8.tflite").read_bytes())
        assert {tensor.dtype for tensor in (*graph.inputs, *graph.outputs)} == {ends.upper()}
        turned = sum(op.name in ("QUANTIZE", "DEQUANTIZE") for op in graph.main)
        assert turned == (2 if ends == "float32" else 0)
        assert (integer_fraction(graph), precision_of(graph)) == (1 - turned / len(graph.main), "int8")
        assert [*graph.signature.inputs, *graph.signature.outputs] == ["image", "scores"]


def test_what_is_said_of_it(builds: dict[str, Path], engines: dict[str, Engine]) -> None:
    reports = {ends: json.loads((folder / "report.json").read_text("utf-8")) for ends, folder in builds.items()}
    assert [report["io"] for report in reports.values()] == ["int8", "float32"]
    assert reports["float32"]["precision"] == "int8"
    assert reports["float32"]["precision_note"].endswith("arithmetic in int8; inputs and outputs in float32")
    assert reports["float32"]["accuracy"] == reports["int8"]["accuracy"]
    assert [layer["tensor"] for layer in reports["float32"]["layers"]] == [
        layer["tensor"] for layer in reports["int8"]["layers"]
    ]
    grids = [engine.bundle.grids for engine in engines.values()]
    assert grids[0] == grids[1]
    ((name, (scale, zero_point)),) = grids[0].items()
    spec = engines["int8"].inputs[0]
    assert (name, scale, zero_point) == (spec.name, pytest.approx(spec.scale), spec.zero_point)
    for engine in engines.values():
        described = metadata.model(engine)["inputs"][0]  # the picture itself, of the same name here, comes after it
        assert (described["name"], described["datatype"]) == ("image", "FP32")
        assert described["parameters"] == {"int8_scale": scale, "int8_zero_point": zero_point}


def test_floats_and_stored_values_give_the_same_on_both(engines: dict[str, Engine], pictures: Any) -> None:
    images = pictures.images[:20]
    stored = engines["int8"].inputs[0].quantize(images)
    answers = [engine.infer({"image": array})["scores"] for engine in engines.values() for array in (images, stored)]
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=1e-5)
    assert stored.dtype == np.int8
    assert answers[0].dtype == np.float32


def test_a_picture_gives_the_same_on_both(engines: dict[str, Engine]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (12, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    real = (pixels / 64 - 2).astype(np.float32)[None]
    wanted = engines["int8"].infer({"image": real})["scores"]
    for engine in engines.values():
        got = engine.outputs_of(engine.preprocess(file.getvalue()))["scores"]
        np.testing.assert_allclose(got, wanted, atol=2 * engines["int8"].outputs[0].scale)


def test_other_integers_are_still_refused(engines: dict[str, Engine], pictures: Any) -> None:
    for engine in engines.values():
        with pytest.raises(InputError, match="must be"):
            engine.infer({"image": pictures.images[:1].astype(np.uint8)})


def test_the_golden_samples_are_what_the_file_takes(engines: dict[str, Engine]) -> None:
    for ends, engine in engines.items():
        golden = engine.bundle.golden
        assert golden is not None
        assert {array.dtype.name for array in (golden.inputs["image"], golden.outputs["scores"])} == {ends}


def test_the_grid_of_a_float_end_is_found(builds: dict[str, Path]) -> None:
    found = [input_grids(read_graph((folder / "int8.tflite").read_bytes())) for folder in builds.values()]
    assert found[0] == found[1]
    assert input_grids(read_graph((builds["int8"] / "float.tflite").read_bytes())) == {}


def test_text_ids_stay_integers(cli: Cli, student_folder: Path, task: Any, tmp_path: Path) -> None:
    result = cli("convert", student_folder, "--samples", task.train, "--output", tmp_path / "out", "--io", "float32")
    assert result.exit_code == 0, result.output
    engine = Engine(load_bundle(tmp_path / "out/out.edgekd"))
    assert (engine.inputs[0].dtype, engine.outputs[0].dtype) == (np.int32, np.float32)
    assert engine.classify("where is my parcel, track it").label == "order"
