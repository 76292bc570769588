"""``--preprocess`` and its flags: what is said, and what follows from the model's own input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgekd.cli import common, preprocess
from edgekd.errors import DataError, UsageError
from edgekd.preprocessing import check_preprocess, preprocess_for, read_given
from edgekd_converters.graph import Tensor
from edgekd_runtime.preprocess import Audio, Image, TextNgram


def takes(*shape: int, dtype: str = "FLOAT32") -> dict[str, Tensor]:
    return {"x": Tensor(0, "t", dtype, (1, *shape), False)}


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((224, 192, 3), Image(224, 192)),
        ((3, 224, 192), Image(224, 192, layout="chw")),
        ((28, 28, 1), Image(28, 28, color="gray")),
        ((1, 28, 28), Image(28, 28, color="gray", layout="chw")),
        ((28, 28), Image(28, 28, color="gray")),
    ],
)
def test_a_pictures_size_and_axes_are_the_models(shape: tuple[int, ...], wanted: Image) -> None:
    assert preprocess_for({"kind": "image"}, takes(*shape)) == wanted


def test_what_is_given_goes_first() -> None:
    given = {"kind": "image", "version": 1, "color": "bgr", "scale": 1 / 255, "mean": [0.5], "std": [0.1, 0.2, 0.3]}
    wanted = Image(8, 8, color="bgr", scale=1 / 255, mean=(0.5,), std=(0.1, 0.2, 0.3))
    assert preprocess_for(given, takes(8, 8, 3)) == wanted


def test_sounds() -> None:
    assert preprocess_for({"kind": "audio", "rate": 8000}, takes(4000, 1)) == Audio(8000, 4000)
    mel = {"kind": "audio", "features": "log-mel"}
    assert preprocess_for(mel, takes(98, 40, 1)) == Audio(features="log-mel")
    assert preprocess_for(mel, takes(3920)) == Audio(features="log-mel")


@pytest.mark.parametrize(
    ("given", "inputs", "words"),
    [
        ({}, takes(8, 8, 3), "kind must be one of image, audio, not None"),
        ({"kind": "text-ngram"}, takes(8), "kind must be one of image, audio"),
        ({"kind": ["image"]}, takes(8), "kind must be one of image, audio"),
        ({"kind": "image", "version": 2}, takes(8, 8, 3), "version must be 1, not 2"),
        ({"kind": "image", "height": 9}, takes(8, 8, 3), "makes [1, 9, 8, 3]; input 'x' takes [1, 8, 8, 3]"),
        ({"kind": "image", "color": "gray"}, takes(8, 8, 3), "makes [1, 8, 8, 1]"),
        ({"kind": "image"}, takes(8, 8, 4), "input 'x' takes [1, 8, 8, 4]"),
        ({"kind": "image"}, takes(12), "input 'x' takes [1, 12]"),
        ({"kind": "image", "men": 1}, takes(8, 8, 3), "image: unknown keys: 'men'"),
        ({"kind": "image", "mean": 1}, takes(8, 8, 3), "image: mean must be a list of numbers"),
        ({"kind": "image", "scale": 2}, takes(8, 8, 3, dtype="UINT8"), "plain pixels for a uint8 input"),
        ({"kind": "image"}, takes(8, 8, 3, dtype="INT32"), "input 'x' is int32"),
        ({"kind": "audio"}, takes(8, dtype="INT16"), "input 'x' is int16"),
        ({"kind": "audio", "features": "mfcc"}, takes(98, 40), "makes [1, 98, 13]"),
        ({"kind": "image"}, {**takes(8, 8, 3), "y": takes(1)["x"]}, "this one has 2: x, y"),
    ],
)
def test_what_does_not_fit(given: dict[str, Any], inputs: dict[str, Tensor], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        preprocess_for(given, inputs)
    assert words in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_plain_pixels_may_stay_bytes() -> None:
    made = preprocess_for({"kind": "image"}, takes(8, 8, 3, dtype="UINT8"))
    check_preprocess(made, "x", takes(8, 8, 3, dtype="UINT8")["x"])
    with pytest.raises(UsageError, match="makes"):
        check_preprocess(TextNgram(length=8), "x", takes(9, dtype="INT32")["x"])


# --- files ---


def test_json_and_toml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"kind": "image", "mean": [0.5, 0.25, 0], "resize": "crop"}')
    (tmp_path / "a.toml").write_text('kind = "image"\nmean = [0.5, 0.25, 0]\nresize = "crop"\n')
    read = [read_given(tmp_path / f"a.{suffix}") for suffix in ("json", "toml")]
    assert read[0] == read[1]
    assert preprocess_for(read[0], takes(8, 8, 3)) == Image(8, 8, resize="crop", mean=(0.5, 0.25, 0))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "must hold an object"),
        ("a.toml", "kind", "not TOML"),
        ("a.toml", '{"kind": "image"}', "not TOML"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        read_given(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        read_given(tmp_path / "none.json")


# --- flags ---


def said(*arguments: str | Path) -> dict[str, object] | None:
    """What the options of a command say."""
    heard: list[dict[str, object] | None] = []

    @click.command()
    @preprocess.options
    @common.reports_errors
    def command(**parameters: Any) -> None:
        heard.append(preprocess.given(parameters))

    done = CliRunner().invoke(command, [str(one) for one in arguments])
    if done.exit_code:
        raise click.UsageError(done.stderr)
    return heard[0]


def test_nothing_said() -> None:
    assert said() is None


def test_all_of_the_flags() -> None:
    size = ("--image-size", "192x224", "--resize", "crop", "--crop-fraction", "7/8", "--interpolation", "bicubic")
    numbers = ("--color", "bgr", "--scale", "1/255", "--mean", "0.485,0.456,0.406", "--std", "0.25")
    wanted = Image(
        192, 224, "crop", 0.875, "bicubic", color="bgr", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.25,)
    )
    given = said(*size, *numbers)
    assert given is not None
    assert preprocess_for(given, takes(192, 224, 3)) == wanted


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"kind": "image", "mean": [1], "std": [2]}')
    assert said("--preprocess", tmp_path / "a.json", "--mean", "-3", "--image-size", "8") == {
        **{"kind": "image", "mean": [-3.0], "std": [2]},
        **{"height": 8, "width": 8},
    }
    (tmp_path / "b.json").write_text('{"kind": "audio"}')
    assert said("--preprocess", tmp_path / "b.json") == {"kind": "audio"}
    with pytest.raises(click.UsageError, match="are for pictures"):
        said("--preprocess", tmp_path / "b.json", "--mean", "3")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--image-size", "big"),
        ("--image-size", "8x"),
        ("--mean", "1,,2"),
        ("--mean", "nan"),
        ("--std", "a"),
        ("--scale", "1/0"),
        ("--scale", "1e999"),
        ("--resize", "squash"),
        ("--preprocess", "none.json"),
    ],
)
def test_flags_that_mean_nothing(arguments: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        said(*arguments)
