"""``.npz`` and ``.npy`` data as people have it: read right, or refused with file and array; mapped, and never run."""

import hashlib
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.archive import open_archive
from edgekd.arrays import ArrayData, read_arrays
from edgekd.columns import select
from edgekd.errors import DataError, MissingExtraError
from edgekd_converters.graph import Tensor
from edgekd_runtime.preprocess import Image


def spec(shape: tuple[int, ...], dtype: str = "FLOAT32", index: int = 0) -> Tensor:
    return Tensor(index, f"tensor_{index}", dtype, (1, *shape), False)


ONE = {"image": spec((2, 3))}
TWO = {"image": spec((2, 3)), "ids": spec((4,), "INT32", 1)}


def read(path: Path, inputs: dict[str, Tensor] = ONE, classes: int | None = 3, **arrays: Any) -> ArrayData:
    np.savez(path / "a.npz", **arrays)
    return read_arrays(path / "a.npz", inputs, classes)


def refusal(path: Path, inputs: dict[str, Tensor] = ONE, classes: int | None = 3, **arrays: Any) -> str:
    """The one-line message with which the arrays are refused, without the path."""
    with pytest.raises(DataError) as caught:
        read(path, inputs, classes, **arrays)
    return one_line(caught.value, path / "a.npz")


def one_line(error: DataError, path: Path) -> str:
    assert error.exit_code == 2
    assert "\n" not in str(error)
    assert str(error).startswith(f"{path}: ")
    return str(error).removeprefix(f"{path}: ")


def test_arrays_by_the_names_of_the_inputs(tmp_path: Path) -> None:
    image = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    ids = np.arange(16).reshape(4, 4)
    data = read(tmp_path, TWO, image=image, ids=ids, y=np.array([0, 2, 1, 0]))
    assert list(data.columns) == ["image", "ids"]
    np.testing.assert_array_equal(data.columns["image"], image)
    assert data.columns["ids"].dtype == np.int32
    np.testing.assert_array_equal(data.columns["ids"], ids)
    assert data.labels is not None
    assert (data.labels.dtype, data.labels.tolist()) == (np.int32, [0, 2, 1, 0])
    assert data.sha256 == hashlib.sha256((tmp_path / "a.npz").read_bytes()).hexdigest()


def test_x_will_do_for_a_single_input(tmp_path: Path) -> None:
    first, second = np.zeros((2, 2, 3), np.float32), np.ones((2, 2, 3), np.float32)
    assert np.max(read(tmp_path, x=second).columns["image"][:]) == 1
    assert np.max(read(tmp_path, x=second, image=first).columns["image"][:]) == 0, "its own name comes first"
    message = refusal(tmp_path, TWO, x=first, ids=np.zeros((2, 4), np.int32))
    assert message == "there is no array 'image' for the model's input; the arrays are: 'x', 'ids'"


def test_compressed_files_are_read(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    np.savez_compressed(tmp_path / "a.NPZ", image=image)
    (tmp_path / "a.NPZ.npz").rename(tmp_path / "a.NPZ")
    data = read_arrays(tmp_path / "a.NPZ", ONE, 3)
    np.testing.assert_array_equal(data.columns["image"], image)
    assert data.notes == (), "so few are not worth a note"
    np.savez_compressed(tmp_path / "b.npz", image=np.zeros((60_000, 2, 3), np.float32))
    (note,) = read_arrays(tmp_path / "b.npz", ONE, 3).notes
    assert "'image' is compressed" in note


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float64", ">f4"])
def test_numbers_for_a_float_input_are_taken_as_they_are(tmp_path: Path, dtype: str) -> None:
    image = np.array([[[0, 1, 2], [127, 200, 255]]]).astype(dtype)
    (column,) = read(tmp_path, image=image).columns.values()
    assert column.dtype == np.dtype(np.float32)
    assert column[:].tolist() == [[[0, 1, 2], [127, 200, 255]]]


@pytest.mark.parametrize("dtype", ["UINT8", "INT64", "BOOL"])
def test_inputs_of_other_types(tmp_path: Path, dtype: str) -> None:
    inputs = {"flags": spec((2,), dtype)}
    (column,) = read(tmp_path, inputs, flags=np.array([[0, 1]], dtype.lower())).columns.values()
    assert column.dtype == np.dtype(dtype.lower())
    assert column[:].tolist() == [[0, 1]]


def test_labels_are_read_only_where_there_are_classes_to_name(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.float32)
    assert read(tmp_path, image=image).labels is None
    assert read(tmp_path, classes=None, image=image, y=np.zeros((2, 5))).labels is None
    data = read(tmp_path, {"y": spec((2, 3))}, y=image)
    assert (data.labels, data.columns["y"].shape) == (None, (2, 2, 3)), "here y is the input"


GOOD = np.zeros((4, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"picture": GOOD}, "there is no array 'image' or 'x' for the model's input; the arrays are: 'picture'"),
        ({}, "there is no array 'image' or 'x' for the model's input; the arrays are: none"),
        ({"image": GOOD[0]}, "'image' must have shape [n, 2, 3], not [2, 3]"),
        ({"x": GOOD[..., None]}, "'x' must have shape [n, 2, 3], not [4, 2, 3, 1]"),
        ({"image": GOOD.transpose(0, 2, 1)}, "'image' must have shape [n, 2, 3], not [4, 3, 2]"),
        ({"image": np.float32(1)}, "'image' must have shape [n, 2, 3], not []"),
        ({"image": GOOD[:0]}, "the file holds no rows"),
        ({"image": GOOD * np.nan}, "'image' holds NaN or infinity"),
        ({"image": GOOD - np.inf}, "'image' holds NaN or infinity"),
        ({"image": GOOD.astype(float) + 1e39}, "'image' holds numbers that float32 cannot (1e+39 to 1e+39)"),
        ({"image": GOOD.astype(complex)}, "'image' must be float32, not complex128"),
        ({"image": GOOD.astype(bool)}, "'image' must be float32, not bool"),
        ({"image": GOOD.astype(str)}, "'image' must be float32, not <U32"),
        ({"image": GOOD, "y": np.arange(3)}, "the arrays differ in rows: image has 4, y has 3"),
        ({"image": GOOD, "y": np.int64(1)}, "the arrays differ in rows: image has 4, y has 0"),
        ({"image": GOOD, "y": np.zeros((4, 1), int)}, "'y' must be integers of shape [n], not int64 [4, 1]"),
        ({"image": GOOD, "y": np.zeros(4)}, "'y' must be integers of shape [n], not float64 [4]"),
        ({"image": GOOD, "y": np.array([0, 1, 3, 2])}, "'y' runs from 0 to 3; the model's classes are 0 to 2"),
        ({"image": GOOD, "y": np.array([0, -1, 0, 2])}, "'y' runs from -1 to 2; the model's classes are 0 to 2"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    assert refusal(tmp_path, **arrays) == words


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.zeros((4, 4)), "'ids' must be int32, not float64"),
        (np.full((4, 4), 2**31), "'ids' holds numbers that int32 cannot (2147483648 to 2147483648)"),
        (np.zeros((3, 4), int), "the arrays differ in rows: image has 4, ids has 3"),
    ],
)
def test_a_second_input_that_does_not_fit(tmp_path: Path, ids: Any, words: str) -> None:
    assert refusal(tmp_path, TWO, image=GOOD, ids=ids) == words


class Runs:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "the-code-has-run"
    message = refusal(tmp_path, image=np.array([Runs(mark)], object))
    assert re.match("array 'image' cannot be read: .*pickle", message)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("image", pickle.dumps(Runs(mark)))
    with pytest.raises(DataError) as caught:
        read_arrays(tmp_path / "b.npz", ONE, 3)
    message = one_line(caught.value, tmp_path / "b.npz")
    assert message == "array 'image' cannot be read: it is not an array of numbers"
    assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(mark)))
    assert mark.exists(), "the trap works"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"", "array 'x' cannot be read"),
        ("a.npy", b"\x93NUMPY\x03\0\0\0\0\0", "format version (3, 0) is not known"),
        ("a.csv", b"text\nhi\n", "must be .npz, .npy or a folder, not .csv"),
        ("a", b"", "must be .npz, .npy or a folder, not this"),
        ("a.npz", b"", "not an .npz file"),
        ("a.npz", b"text\nhi\n", "not an .npz file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(words)):
        read_arrays(tmp_path / name, ONE, 3)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    for name in ("none.npz", "none.npy", "folder.npz"):
        with pytest.raises(DataError) as caught:
            read_arrays(tmp_path / name, ONE, 3)
        one_line(caught.value, tmp_path / name)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 10_000), value=st.integers(1, 255), cut=st.booleans(), compressed=st.booleans())
def test_damage_is_refused_or_does_no_harm(tmp_path: Path, where: int, value: int, cut: bool, compressed: bool) -> None:
    """A byte changed or the end missing: one line, or the very numbers that were written."""
    image = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    path = tmp_path / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, image=image, y=np.array([0, 1, 2, 0]))
    content = bytearray(path.read_bytes())
    where %= len(content)
    content[where] ^= value
    path.write_bytes(content[:where] if cut else content)
    try:
        data = read_arrays(path, ONE, 3)
    except DataError as error:
        one_line(error, path)
    else:
        np.testing.assert_array_equal(data.columns["image"], image)
        assert data.labels is None or data.labels.tolist() == [0, 1, 2, 0]


# --- mapped, not read ---


def test_a_member_is_mapped_where_it_lies(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    np.savez(tmp_path / "a.npz", y=np.arange(5) % 3, image=np.asfortranarray(image))
    array = open_archive(tmp_path / "a.npz").read("image")
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
    np.testing.assert_array_equal(array, image)


def test_a_lone_npy_and_a_folder_of_them(tmp_path: Path) -> None:
    image, ids = np.arange(24.0).reshape(4, 2, 3), np.arange(16).reshape(4, 4)
    (tmp_path / "both").mkdir()
    np.save(tmp_path / "a.npy", image)
    for name, array in (("image", image), ("ids", ids), ("y", np.array([0, 2, 1, 0]))):
        np.save(tmp_path / "both" / f"{name}.npy", array)
    alone = read_arrays(tmp_path / "a.npy", ONE, 3)
    np.testing.assert_array_equal(alone.columns["image"], image)
    assert alone.labels is None
    assert alone.sha256 == hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    both = read_arrays(tmp_path / "both", TWO, 3)
    np.testing.assert_array_equal(both.columns["ids"], ids)
    assert both.labels is not None
    assert both.labels.tolist() == [0, 2, 1, 0]
    before = both.sha256
    np.save(tmp_path / "both" / "y.npy", np.array([0, 2, 1, 1]))
    assert read_arrays(tmp_path / "both", TWO, 3).sha256 != before


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    """800 MB of float64 (sparse) for a float32 input, read in a process that may take 200 MB."""
    shape = (100_000, 1000)
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, shape).flush()
    program = f"""
import resource, numpy as np
from pathlib import Path
from edgekd.arrays import read_arrays
from edgekd.columns import select
from edgekd_converters.graph import Tensor
held = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
resource.setrlimit(resource.RLIMIT_DATA, ((200 << 20) + int(held[0].split()[1]) * 1024,) * 2)
data = read_arrays(Path({str(tmp_path / "x.npy")!r}), {{"x": Tensor(0, "t", "FLOAT32", (1, 1000), False)}}, None)
column = select(data.columns, np.arange(0, 100_000, 2))["x"]
print(len(column), column[7:9].dtype, float(column[np.array([5, 49_999])].sum()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["50000", "float32", "0.0"], done.stderr


@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_columns_answer_as_arrays_do(tmp_path: Path, stored: type) -> None:
    image = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(stored)
    column = read(tmp_path, image=image).columns["image"]
    wanted = image.astype(np.float32)
    assert (len(column), column.shape, column.ndim, column.dtype) == (7, (7, 2, 3), 3, np.dtype(np.float32))
    for rows in (slice(2, 5), slice(None, None, 2), np.array([5, 0, 5]), slice(6, 99), slice(3, 3), 4, -1):
        got = column[rows]
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, wanted[rows])
    chosen = select({"image": column}, np.array([6, 1, 3]))["image"]
    np.testing.assert_array_equal(chosen[1:], wanted[[1, 3]])
    np.testing.assert_array_equal(select({"image": chosen}, slice(1))["image"], wanted[[6]])
    assert select({"image": wanted}, slice(1))["image"].shape == (1, 2, 3)


def test_the_sources_own_layout_becomes_the_graphs(tmp_path: Path) -> None:
    """The graph takes (1, 5, 4, 3) where the source took (1, 3, 5, 4)."""
    inputs, layouts = {"image": spec((5, 4, 3))}, {"image": (0, 2, 3, 1)}
    image = np.random.default_rng(0).normal(size=(6, 3, 5, 4)).astype(np.float32)
    np.savez(tmp_path / "a.npz", image=image)
    column = read_arrays(tmp_path / "a.npz", inputs, None, layouts=layouts).columns["image"]
    assert column.shape == (6, 5, 4, 3)
    np.testing.assert_array_equal(column[2:4], image.transpose(0, 2, 3, 1)[2:4])
    np.savez(tmp_path / "b.npz", image=image[..., None])
    with pytest.raises(DataError, match=r"'image' must have shape \[n, 3, 5, 4\], not \[6, 3, 5, 4, 1\]"):
        read_arrays(tmp_path / "b.npz", inputs, None, layouts=layouts)


def test_nan_is_found_wherever_it_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.columns._CHUNK_BYTES", 50)
    for row in (0, 3, 6):
        image = np.ones((7, 2, 3), np.float32)
        image[row, 1, 2] = np.nan
        assert refusal(tmp_path, image=image) == "'image' holds NaN or infinity"


# --- pixels and a preprocessing ---


def test_pixels_go_through_the_preprocessing_and_numbers_do_not(tmp_path: Path) -> None:
    shown = Image(2, 3, scale=1 / 255, color="bgr", interpolation="nearest")
    inputs = {"image": spec((2, 3, 3))}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 2, 3, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels)
    data = read_arrays(tmp_path / "a.npz", inputs, None, preprocess=shown)
    np.testing.assert_allclose(data.columns["image"], pixels[..., ::-1] / 255, rtol=1e-6)
    assert "holds pixels (uint8), which go through" in data.notes[0]
    numbers = pixels.astype(np.float32)
    np.savez(tmp_path / "b.npz", x=numbers)
    data = read_arrays(tmp_path / "b.npz", inputs, None, preprocess=shown)
    np.testing.assert_array_equal(data.columns["image"], numbers)
    assert "holds float32, taken as the model's own input" in data.notes[0]
    np.savez(tmp_path / "c.npz", x=pixels[..., :2])
    with pytest.raises(DataError, match=r"pixels \(uint8\) must have shape \[n, height, width, 3 or 1\]"):
        read_arrays(tmp_path / "c.npz", inputs, None, preprocess=shown)


def test_pixels_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2, 3, 3), np.uint8))
    data = read_arrays(tmp_path / "a.npz", {"image": spec((2, 3, 3))}, None, preprocess=Image(2, 3))
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match="pictures need Pillow"):
        data.columns["image"][0]


# --- files that lie ---


@pytest.mark.parametrize("size", [10**6, 10**15])
def test_a_header_that_promises_too_much(tmp_path: Path, size: int) -> None:
    """Neither mapped beyond the end nor given memory for."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size}, 2, 3)}}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 24
    (tmp_path / "a.npy").write_bytes(content)
    for name, how in (("stored.npz", zipfile.ZIP_STORED), ("packed.npz", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / name, "w", how) as archive:
            archive.writestr("x.npy", content)
    for name in ("a.npy", "stored.npz", "packed.npz"):
        with pytest.raises(DataError, match="array 'x' cannot be read"):
            read_arrays(tmp_path / name, ONE, None)


def test_a_compressed_member_beyond_all_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.archive._MAX_UNPACKED", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((100, 2, 3), np.float32))
    with pytest.raises(DataError, match="unpacks to 2528 bytes, too many"):
        read_arrays(tmp_path / "a.npz", ONE, None)
