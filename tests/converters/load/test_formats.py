"""What a file is, told from its content: every file here has a name that says something else."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekd_converters.errors import LoadError, SourceNotFoundError
from edgekd_converters.graph import Graph
from edgekd_converters.load.formats import detect


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def onnx_bytes() -> bytes:
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    content: bytes = onnx.helper.make_model(graph).SerializeToString()
    return content


def torch_bytes(save: Callable[[Any, Any, io.BytesIO], None]) -> bytes:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    save(torch, torch.nn.Linear(3, 2), buffer)
    return buffer.getvalue()


def zip_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def makers(keras: Any, conv_graph: Graph, folder: Path) -> dict[str, Callable[[], bytes]]:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for name in ("m.keras", "m.h5"):
        model.save(folder / name)
    return {
        "keras": (folder / "m.keras").read_bytes,
        "h5": (folder / "m.h5").read_bytes,
        "onnx": onnx_bytes,
        "tflite": lambda: conv_graph.content,
        "torch": lambda: torch_bytes(lambda torch, model, file: torch.save(model, file)),
        "torch, old": lambda: torch_bytes(
            lambda torch, model, file: torch.save(model, file, _use_new_zipfile_serialization=False)
        ),
        "torch, script": lambda: torch_bytes(
            lambda torch, model, file: torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3)), file)
        ),
        "pt2": lambda: torch_bytes(
            lambda torch, model, file: torch.export.save(torch.export.export(model, (torch.zeros(1, 3),)), file)
        ),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript is
@pytest.mark.parametrize("kind", ["keras", "h5", "onnx", "tflite", "torch", "torch, old", "torch, script", "pt2"])
def test_a_file_is_what_it_holds(makers: dict[str, Callable[[], bytes]], tmp_path: Path, kind: str) -> None:
    content = makers[kind]()
    for name in ("model.bin", "model.keras", "model.pt", "model.tflite"):
        (tmp_path / name).write_bytes(content)
        assert detect(tmp_path / name) == kind.split(",")[0]


def test_a_folder_with_a_saved_model_is_one(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    (tmp_path / "model.onnx/saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    assert detect(tmp_path / "model.onnx") == "savedmodel"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello, world", "text and begins with 'hello, world'"),
        (bytes(range(200)), "begins with the bytes 00 01 02"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "begins with the bytes 89 50 4e 47"),
        (pickle.dumps({"a": 1}), "Python pickle, which is code"),
        (b"\x08\x01\x12\x03abc", "saved_model.pb of a SavedModel; give the folder"),
        (zip_of("a.npy", "b.npy"), "zip archive, but of no model.*'a.npy', 'b.npy'"),
        (zip_of("a.npy", "b.npy")[:-30], "damaged or cut short"),
        (b"\x08\x09\x10\x01", "begins with the bytes 08 09"),
    ],
    ids=["empty", "text", "bytes", "png", "pickle", "saved_model.pb", "npz", "cut zip", "protobuf"],
)
def test_what_is_no_model_is_described(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(LoadError, match=said) as caught:
        detect(tmp_path / "model.keras")
    assert str(caught.value).startswith(str(tmp_path / "model.keras"))
    assert "\n" not in str(caught.value)


def test_a_folder_of_other_things_is_described(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"x")
    with pytest.raises(LoadError, match=r"not a SavedModel folder.*it holds 'cat\.jpg'"):
        detect(tmp_path)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file"):
        detect(tmp_path / "none")


def test_a_damaged_onnx_is_still_one(tmp_path: Path) -> None:
    """So that its front end says what is wrong."""
    content = onnx_bytes()
    (tmp_path / "a").write_bytes(content[: len(content) - 5])
    assert detect(tmp_path / "a") == "onnx"


def test_weights_in_numpy_do_not_look_like_onnx(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(1000))
    with pytest.raises(LoadError, match="begins with the bytes 93 4e 55 4d"):
        detect(tmp_path / "a.npy")
