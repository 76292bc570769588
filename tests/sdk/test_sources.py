"""Folders of pictures and sounds, and samples that a program hands over, become the columns that the model takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime import files

from edgekd import columns
from edgekd.arrays import ArrayData
from edgekd.errors import DataError, MissingExtraError
from edgekd.inputs import Inputs, golden_files
from edgekd.metrics import Truth
from edgekd.sources import read_samples
from edgekd_converters.graph import Tensor
from edgekd_runtime.preprocess import Audio, Image

EYE = Image(2, 3, interpolation="nearest", scale=1 / 255)
EAR = Audio(8000, 4)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 3), np.uint8)


def tensor(shape: tuple[int, ...], dtype: str = "FLOAT32", index: int = 0) -> Tensor:
    return Tensor(index, f"t{index}", dtype, (1, *shape), False)


PICTURES = {"image": tensor((2, 3, 3))}
SOUNDS = {"wave": tensor((4, 1))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cat/0.png, cat/deep/1.PNG, dog/2.png, and what else lies about."""
    root = tmp_path / "photos"
    for name, number in (("cat/0.png", 0), ("cat/deep/1.PNG", 1), ("dog/2.png", 2)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(files.picture(PIXELS[number]))
    (root / "empty").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "9.png").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("a cat")
    (root / "cat" / "._0.png").write_bytes(b"left by a Mac")
    (root / "README").write_text("photos")
    return root


def read(source: Any, classes: int | None = 2, **options: Any) -> ArrayData:
    return read_samples(source, PICTURES, classes, **{"preprocess": EYE, **options})


def refusal(source: Any, classes: int | None = 2, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(source, classes, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{source}")
    return str(caught.value)


# --- folders ---


def test_class_folders_give_the_labels(folder: Path) -> None:
    data = read(folder)
    assert [one.relative_to(folder).as_posix() for one in data.files] == ["cat/0.png", "cat/deep/1.PNG", "dog/2.png"]
    assert data.labels is not None
    assert (data.labels.dtype, data.labels.tolist(), data.classes) == (np.int32, [0, 0, 1], ("cat", "dog"))
    column = data.columns["image"]
    assert (column.shape, column.dtype) == ((3, 2, 3, 3), np.float32)
    np.testing.assert_allclose(column, PIXELS[:3] / 255, rtol=1e-6)


def test_the_models_labels_say_which_class_a_folder_is(folder: Path) -> None:
    data = read(folder, 3, labels=("dog", "bird", "cat"))
    assert data.labels is not None
    assert data.labels.tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("classes", "labels", "words"),
    [
        (3, (), "there are 2 class folders and 3 classes; --labels can say which is which"),
        (2, ("cat", "horse"), "the model has no label 'dog', which a folder is named"),
    ],
)
def test_folders_that_are_not_the_classes(folder: Path, classes: int, labels: tuple[str, ...], words: str) -> None:
    assert words in refusal(folder, classes, labels=labels, labelled=True)
    data = read(folder, classes, labels=labels)
    assert data.labels is None, "samples without labels calibrate as well"
    assert words in data.notes[0]


def test_folders_without_classes(folder: Path) -> None:
    assert read(folder, None).labels is None
    flat = read(folder / "dog")
    assert (flat.labels, len(flat.columns["image"]), flat.notes) == (None, 1, ())
    assert "labels are needed" in refusal(folder / "dog", labelled=True)


def test_numbered_folders_are_told(folder: Path) -> None:
    for number in range(11):
        (folder / "n" / str(number)).mkdir(parents=True)
        (folder / "n" / str(number) / "a.png").write_bytes(files.picture(PIXELS[0]))
    data = read(folder / "n", 11)
    assert data.classes[:3] == ("0", "1", "10")
    assert "numbered as text" in data.notes[0]
    assert read(folder / "n", 11, labels=tuple(map(str, range(11)))).notes == ()


def test_a_stray_file_among_class_folders(folder: Path) -> None:
    (folder / "stray.jpg").write_bytes(files.picture(PIXELS[0], "JPEG"))
    assert "both class folders and files that are in none, 'stray.jpg'" in refusal(folder)


def test_folders_with_nothing_of_use(folder: Path, tmp_path: Path) -> None:
    assert "holds no image files (.jpg, .jpeg, .png, .webp, .bmp)" in refusal(folder / "empty")
    assert "holds no audio files" in refusal(folder, preprocess=EAR)
    assert "holds image files; say how" in refusal(folder, preprocess=None)
    assert "holds no arrays (.npy), pictures or sounds" in refusal(folder / "empty", preprocess=None)
    assert "No such file" in refusal(tmp_path / "none", preprocess=None)
    with pytest.raises(DataError, match="a model of one input, not 2"):
        read_samples(folder, {**PICTURES, "more": tensor((1,), index=1)}, 2, preprocess=EYE)


def test_a_damaged_file_is_named_when_it_is_read(folder: Path) -> None:
    (folder / "dog" / "3.png").write_bytes(b"no picture")
    column = read(folder).columns["image"]
    assert column[:3].shape == (3, 2, 3, 3)
    with pytest.raises(DataError, match=r"dog/3\.png: not a picture"):
        column[3]
    (folder / "dog" / "3.png").unlink()
    with pytest.raises(DataError, match=r"dog/3\.png: No such file"):
        column[3]


def test_files_are_decoded_once_as_far_as_memory_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_KEPT_BYTES", 2 * 18 + 1)  # two pictures of 18 bytes
    column = read(folder).columns["image"]
    before = column[:]
    for name in ("cat/0.png", "cat/deep/1.PNG"):
        (folder / name).unlink()
    np.testing.assert_array_equal(column[:], before)
    (folder / "dog" / "2.png").unlink()
    np.testing.assert_array_equal(column[:2], before[:2])
    with pytest.raises(DataError, match="No such file"):
        column[2]


def test_no_rows_of_files_are_an_empty_array(folder: Path) -> None:
    empty = read(folder).columns["image"][3:]
    assert (empty.shape, empty.dtype) == ((0, 2, 3, 3), np.float32)


def test_the_hash_follows_names_and_content(folder: Path) -> None:
    seen = {read(folder).sha256}
    (folder / "dog" / "2.png").rename(folder / "dog" / "3.png")
    seen.add(read(folder).sha256)
    (folder / "dog" / "3.png").write_bytes(files.picture(PIXELS[3]))
    seen.add(read(folder).sha256)
    assert len(seen) == 3
    (folder / "README").unlink()
    assert read(folder).sha256 in seen, "what is not read does not count"


def test_without_pillow_the_remedy_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    column = read(folder).columns["image"]
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match="edgekd-runtime"):
        column[0]


def test_sounds(tmp_path: Path) -> None:
    wave = np.array([0, 8192, 16384, 24576], "<i2")
    for name in ("no", "yes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_bytes(files.sound(wave, 8000))
    data = read_samples(tmp_path, SOUNDS, 2, preprocess=EAR)
    assert data.labels is not None
    assert (data.labels.tolist(), data.classes) == ([0, 1], ("no", "yes"))
    np.testing.assert_array_equal(data.columns["wave"][1:], [[[0], [0.25], [0.5], [0.75]]])


def test_an_input_of_integers_takes_pixels_as_they_are(folder: Path) -> None:
    shown = Image(2, 3, interpolation="nearest")
    column = read_samples(folder, {"image": tensor((2, 3, 3), "UINT8")}, 2, preprocess=shown).columns["image"]
    assert column.dtype == np.uint8
    np.testing.assert_array_equal(column, PIXELS[:3])


# --- golden files ---


def test_a_few_small_files_are_packed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = tuple(folder / name for name in ("cat/0.png", "cat/deep/1.PNG", "dog/2.png"))
    nothing: dict[str, Any] = dict.fromkeys(("training", "labels", "evaluation", "targets", "out_of_scope"))
    nothing["truth"] = Truth()
    data = Inputs(samples={}, texts=(), answers={}, files={}, paths=paths, **nothing)
    raw = [path.read_bytes() for path in paths]
    assert golden_files(data, np.array([2, 0])) == (raw[2], raw[0])
    monkeypatch.setattr("edgekd.inputs._GOLDEN_FILES", 1)
    assert golden_files(data, np.array([2, 0])) == (raw[2], b"")
    monkeypatch.setattr("edgekd.inputs._GOLDEN_FILE_BYTES", 10)
    assert golden_files(data, np.array([2, 0])) == ()
    assert golden_files(Inputs(samples={}, texts=(), answers={}, files={}, **nothing), np.array([0])) == ()


# --- a program's own samples ---


def test_arrays_one_by_one_and_in_batches() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 2, 3, 3)).astype(np.float32)

    def samples() -> Iterator[Any]:
        yield rows[0]
        yield {"image": rows[1:2]}
        yield {"x": rows[2:5].astype(np.float64)}
        yield [row.tolist() for row in rows[5]]

    data = read(samples(), preprocess=None)
    np.testing.assert_allclose(data.columns["image"], rows, rtol=1e-6)
    assert (data.labels, data.files) == (None, ())
    assert read(list(rows), preprocess=None).sha256 == data.sha256, "batches are only a way to hand them over"


def test_labels_come_in_pairs_or_as_y() -> None:
    rows = np.zeros((3, 2, 3, 3), np.float32)
    data = read([(rows[0], 1), {"image": rows[1], "y": np.int64(0)}, (rows[1:], [1, 0])], preprocess=None)
    assert data.labels is not None
    assert (data.labels.dtype, data.labels.tolist()) == (np.int32, [1, 0, 1, 0])
    assert read([(rows[0], 1)], None, preprocess=None).labels is None


def test_several_inputs_and_layouts() -> None:
    inputs = {"image": tensor((4, 5, 3)), "ids": tensor((2,), "INT32", 1)}
    image, ids = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32), np.array([[1, 2], [3, 4]])
    items = [{"ids": ids[i], "image": image[i]} for i in range(2)]
    data = read_samples(iter(items), inputs, None, layouts={"image": (0, 2, 3, 1)})
    np.testing.assert_array_equal(data.columns["image"], image.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(data.columns["ids"], ids)


def test_files_bytes_and_pixels_are_preprocessed(folder: Path) -> None:
    items = [folder / "cat" / "0.png", files.picture(PIXELS[1]), PIXELS[2], (PIXELS[3] / 255).astype(np.float32)]
    np.testing.assert_allclose(read(items).columns["image"], PIXELS[:4] / 255, rtol=1e-6)
    with pytest.raises(DataError, match="item 0, 'image': not a picture"):
        read([b"no picture"])
    with pytest.raises(DataError, match=r"item 0, 'image', .*none\.png: No such file"):
        read([folder / "none.png"])


GOOD = np.zeros((2, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "there are none"),
        ([GOOD, GOOD[0]], "item 1, 'image': must have shape [2, 3, 3], not [3, 3]"),
        ([{"picture": GOOD}], "item 0 has 'picture'; the model's inputs are 'image'"),
        ([{}], "item 0 has none; the model's inputs are 'image'"),
        ([GOOD + np.nan], "item 0, 'image' holds NaN or infinity"),
        ([GOOD.astype(str)], "item 0, 'image' must be float32"),
        ([["a"]], "item 0, 'image': must have shape"),
        ([(GOOD, 1), GOOD], "1 of 2 have a label; either all have one or none"),
        ([(GOOD, 2)], "'y' runs from 2 to 2; the model's classes are 0 to 1"),
        ([(GOOD, 0.5)], "'y' must be integers"),
        ([(GOOD, [0, 1])], "item 0 has 2 labels for 1"),
    ],
)
def test_items_that_do_not_fit(items: list[Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        read(items, preprocess=None)
    assert words in str(caught.value)
    assert str(caught.value).startswith("samples: ")


def test_the_callers_own_errors_are_his() -> None:
    def broken() -> Iterator[Any]:
        yield GOOD
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read(broken(), preprocess=None)
