"""``.keras`` → float ``.tflite``: same numbers, same names, and no code out of the archive is ever run."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekd_converters.errors import LoadError, SourceNotFoundError
from edgekd_converters.graph import Graph
from edgekd_converters.keras_model import convert_keras, load_keras

Rows = list[npt.NDArray[Any]]


def run(graph: Graph, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """A fresh stock interpreter, through the signature: what anybody would do with the file."""
    runner = Interpreter(model_content=graph.content).get_signature_runner(graph.signature.key)
    outputs: dict[str, npt.NDArray[Any]] = runner(**inputs)
    return outputs


def test_a_text_student_gives_what_keras_gives(student: Any, student_graph: Graph, student_rows: Rows) -> None:
    assert list(student_graph.signature.inputs) == ["ids"]
    assert list(student_graph.signature.outputs) == ["logits"]
    for row in student_rows[:10]:
        wanted = np.asarray(student(row, training=False))
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(run(student_graph, ids=row)["logits"], wanted, rtol=0, atol=1e-5)


def test_a_conv_net_gives_what_keras_gives(conv_net: Any, conv_graph: Graph, images: Rows) -> None:
    for image in images[:10]:
        wanted = np.asarray(conv_net(image, training=False))
        assert np.abs(wanted).max() > 0.01
        np.testing.assert_allclose(run(conv_graph, image=image)["scores"], wanted, rtol=0, atol=1e-5)


def test_the_file_converts_like_the_model(conv_net: Any, conv_graph: Graph, images: Rows, tmp_path: Path) -> None:
    conv_net.save(tmp_path / "net.keras")
    graph = load_keras(tmp_path / "net.keras")
    assert graph.signature.inputs.keys() == conv_graph.signature.inputs.keys()
    np.testing.assert_array_equal(run(graph, image=images[0])["scores"], run(conv_graph, image=images[0])["scores"])


def test_several_inputs_and_outputs_keep_their_names_and_order(keras: Any) -> None:
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    total = keras.layers.Dense(4, name="total")(keras.layers.Concatenate()([left, right]))
    double = keras.layers.Rescaling(2.0, name="double")(left)
    model = keras.Model([left, right], [total, double])
    graph = convert_keras(model)
    assert set(graph.signature.inputs) == {"left", "right"}
    assert set(graph.signature.outputs) == {"total", "double"}
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[-1, 5]], np.float32)
    got, wanted = run(graph, left=a, right=b), model([a, b])
    np.testing.assert_allclose(got["total"], np.asarray(wanted[0]), atol=1e-5)
    np.testing.assert_array_equal(got["double"], 2 * a)


def test_an_input_of_unknown_size_is_refused_by_name(keras: Any) -> None:
    sequence = keras.Input((None, 4), name="sequence")
    model = keras.Model(sequence, keras.layers.GlobalAveragePooling1D()(sequence))
    with pytest.raises(LoadError, match=r"'sequence'.*\[1, \?, 4\].*--shape sequence=1,128,4"):
        convert_keras(model)


def test_a_lambda_layer_is_refused_and_not_run(keras: Any, tmp_path: Path) -> None:
    marker = tmp_path / "the-code-has-run"

    write = f"__import__('pathlib').Path({str(marker)!r}).write_text('run')"
    harmless_looking = eval(f"lambda x: ({write}, x)[1]")  # Keras stores the bytecode of lambdas only
    inputs = keras.Input((3,))
    model = keras.Sequential([inputs, keras.layers.Lambda(harmless_looking)])
    model.save(tmp_path / "lambda.keras")
    marker.unlink()
    keras.models.load_model(tmp_path / "lambda.keras", safe_mode=False)
    assert marker.exists(), "loading it carelessly does run the code"
    marker.unlink()
    with pytest.raises(LoadError) as caught:
        load_keras(tmp_path / "lambda.keras")
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert "lambda" in str(caught.value).lower()


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file") as caught:
        load_keras(tmp_path / "none.keras")
    assert caught.value.exit_code == 2


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        load_keras(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + b"\x00" * 500], ids=["empty", "text", "h5"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(LoadError, match=r"not a \.keras archive"):
        load_keras(tmp_path / "model.keras")


@pytest.mark.parametrize("part", [0.2, 0.6, 0.98])
def test_a_truncated_archive_is_refused(student: Any, tmp_path: Path, part: float) -> None:
    student.save(tmp_path / "whole.keras")
    content = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: int(part * len(content))])
    with pytest.raises(LoadError) as caught:
        load_keras(tmp_path / "cut.keras")
    assert "\n" not in str(caught.value)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(LoadError, match=r"other\.keras") as caught:
        load_keras(tmp_path / "other.keras")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["weights", "config", "class"])
def test_an_archive_damaged_within_is_refused(student: Any, tmp_path: Path, damage: str) -> None:
    student.save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    if damage == "weights":
        members["model.weights.h5"] = members["model.weights.h5"][:200]
    elif damage == "config":
        members["config.json"] = members["config.json"][:50]
    else:
        config = json.loads(members["config.json"])
        config["class_name"] = config["registered_name"] = "NoSuchModel"
        members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "damaged.keras", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(LoadError) as caught:
        load_keras(tmp_path / "damaged.keras")
    assert "\n" not in str(caught.value)


def test_a_model_of_foreign_ops_is_refused_with_one_line(keras: Any) -> None:
    inputs = keras.Input((4,), name="x")
    with pytest.raises(LoadError, match="TensorFlow cannot convert") as caught:
        convert_keras(keras.Model(inputs, keras.ops.erf(inputs)))
    assert "\n" not in str(caught.value)
    assert "Erf" in str(caught.value)


def test_converting_writes_nothing_to_standard_error(conv_net: Any, capfd: pytest.CaptureFixture[str]) -> None:
    convert_keras(conv_net)
    assert capfd.readouterr() == ("", "")
