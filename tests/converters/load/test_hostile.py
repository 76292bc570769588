"""Files that lie, unpack without end or reach out: one line each, soon, in bounded memory, and nothing written."""

import json
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.graph import write_model

SECONDS = 10  # of processor time; the machine that runs the tests may be busy
BYTES = 1_500_000_000
OPEN = """
import json, resource, sys
from pathlib import Path
from edgekd_converters.errors import LoadError
from edgekd_converters.load import open_model
try:
    with open_model(Path(sys.argv[1])):
        said = "opened"
except LoadError as error:
    said = str(error)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([said, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def members(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Of an archive as Keras writes it: 4 inputs, a layer of 3 units."""
    path = tmp_path_factory.mktemp("whole") / "whole.keras"
    keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, name="d")]).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def said_of(path: Path) -> str:
    """What is said of a file that must not open, in a process that is measured, from an empty working folder."""
    folder = path.with_name("work")
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", OPEN, path], capture_output=True, text=True, timeout=300, check=True, cwd=folder
    )
    said, seconds, peak_bytes = json.loads(done.stdout)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert seconds < SECONDS
    assert peak_bytes < BYTES
    assert done.stderr == ""
    assert list(folder.iterdir()) == []
    return str(said)


def with_config(members: Members, edit: Callable[[Any], None]) -> Members:
    config = json.loads(members["config.json"])
    edit(config["config"]["layers"])
    return {**members, "config.json": json.dumps(config).encode()}


def with_weights(members: Members, folder: Path, edit: Callable[[Any], None]) -> Members:
    """``edit``: the group that has the kernel as ``0``, which it is to make anew."""
    path = folder / "weights.h5"
    path.write_bytes(members["model.weights.h5"])
    with h5py.File(path, "a") as file:
        group = file["layers/dense/vars"]
        del group["0"]
        edit(group)
    return {**members, "model.weights.h5": path.read_bytes()}


def test_the_whole_archive_opens(members: Members, tmp_path: Path) -> None:
    """So that the others are refused for what was done to them."""
    path = packed(tmp_path / "m.keras", members)
    done = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout)[0] == "opened"


@pytest.mark.parametrize("member", ["assets/zeros", "config.json"])
def test_a_zip_bomb(members: Members, tmp_path: Path, member: str) -> None:
    path = packed(tmp_path / "m.keras", {**members, member: bytes(200_000_000)}, zipfile.ZIP_DEFLATED)
    assert re.search("a zip bomb: 19. kB that unpack to 200 MB", said_of(path))


def test_a_zip_bomb_that_hides_its_size(members: Members, tmp_path: Path) -> None:
    path = packed(tmp_path / "m.keras", {"config.json": bytes(200_000_000)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 100)
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", members["metadata.json"])
    assert "not a .keras archive, or a damaged one: BadZipFile: Bad CRC-32" in said_of(path)


@pytest.mark.parametrize("member", ["../../evil", "/tmp/evil", "..\\evil", "C:\\evil"])
def test_a_path_out_of_the_archive(members: Members, tmp_path: Path, member: str) -> None:
    path = packed(tmp_path / "m.keras", {**members, member: b"x"})
    assert "points out of it" in said_of(path)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.6, 0.99])
def test_an_archive_cut_short(members: Members, tmp_path: Path, part: float) -> None:
    path = packed(tmp_path / "m.keras", members)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert ("the file is empty" if part == 0 else "damaged or cut short") in said_of(path)


@pytest.mark.parametrize(
    "text", [b'{"a":' * 10**6 + b"1" + b"}" * 10**6, b"[" * 10**5 + b"]" * 10**5], ids=["objects", "lists"]
)
def test_a_config_nested_absurdly(members: Members, tmp_path: Path, text: bytes) -> None:
    assert "nested too deeply" in said_of(packed(tmp_path / "m.keras", {**members, "config.json": text}))


def test_models_within_models_without_end(members: Members, tmp_path: Path) -> None:
    """Shallow enough for JSON, too deep for Keras."""
    text = json.dumps(json.loads(members["config.json"])["config"]["layers"][1])
    for i in range(150):
        text = f'{{"module":"keras","class_name":"Sequential","config":{{"name":"s{i}","layers":[{text}]}}}}'
    assert "keras cannot load it" in said_of(packed(tmp_path / "m.keras", {**members, "config.json": text.encode()}))


def test_a_layer_that_declares_terabytes(members: Members, tmp_path: Path) -> None:
    vast = with_config(members, lambda layers: layers[1]["config"].update(units=10**12))
    said = said_of(packed(tmp_path / "m.keras", vast))
    assert "its layers declare 5,000,000,000,000 weights, but the file has 60 bytes of them" in said


def test_weights_that_declare_terabytes(members: Members, tmp_path: Path) -> None:
    def edit(group: Any) -> None:
        group.create_dataset("0", (10**6, 10**6), "f4", chunks=(1000, 1000))

    path = packed(tmp_path / "m.keras", with_weights(members, tmp_path, edit))
    assert "its arrays declare 4 TB, but the file has" in said_of(path)


def test_weights_in_another_file(members: Members, tmp_path: Path) -> None:
    """Which would end up in the model, and with it wherever it goes."""

    def link(group: Any) -> None:
        group["0"] = h5py.ExternalLink("/etc/passwd", "x")

    path = packed(tmp_path / "m.keras", with_weights(members, tmp_path, link))
    assert "'layers/dense/vars/0' is a link to elsewhere" in said_of(path)


def test_weights_out_of_another_file(members: Members, tmp_path: Path) -> None:
    def external(group: Any) -> None:
        group.create_dataset("0", (4, 3), "f4", external=[("/etc/passwd", 0, 48)])

    path = packed(tmp_path / "m.keras", with_weights(members, tmp_path, external))
    assert "'/layers/dense/vars/0' is kept in another file" in said_of(path)


def test_an_old_model_that_declares_terabytes(tmp_path: Path) -> None:
    layer = {"name": "d", "units": 10**9, "batch_input_shape": [None, 1000], "dtype": "float32"}
    config = {"name": "s", "layers": [{"class_name": "Dense", "config": layer}]}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
        file.create_group("model_weights")
    assert "its layers declare 1,001,000,000,000 weights, but the file has 0 bytes" in said_of(tmp_path / "m.h5")


def test_an_old_model_cut_short(conv_net: Any, tmp_path: Path) -> None:
    conv_net.save(tmp_path / "m.h5")
    content = (tmp_path / "m.h5").read_bytes()
    (tmp_path / "m.h5").write_bytes(content[: len(content) // 2])
    assert "the HDF5 data are damaged or cut short" in said_of(tmp_path / "m.h5")


@pytest.mark.parametrize("size", [40_000, 200_000])
def test_a_tflite_whose_tensors_are_vast(conv_graph: Any, tmp_path: Path, size: int) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(conv_graph.content, 0))
    main = model.subgraphs[0]
    image = main.tensors[main.inputs[0]]
    image.shape, image.shapeSignature = np.array([1, size, size, 3], np.int32), np.array([-1, size, size, 3], np.int32)
    (tmp_path / "m.tflite").write_bytes(write_model(model))
    assert "it needs more memory than a model of its size may take" in said_of(tmp_path / "m.tflite")
