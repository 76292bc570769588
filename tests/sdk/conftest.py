"""A tiny task, a student trained on it once, and the command line as a function."""

import csv
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from edgekd.cli import main
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.quiet import import_tensorflow

Row = tuple[str, str]
WORDS = {
    "order": ["parcel", "courier", "track", "arrive", "shipping"],
    "refund": ["refund", "money", "return", "cash", "voucher"],
    "login": ["password", "account", "sign", "reset", "email"],
}
# Small and quick.
SMALL = ["--buckets", "256", "--width", "8", "--length", "64", "--epochs", "6", "--batch", "16", "--teacher", "none"]


def rows(count: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    made = []
    for i in range(count):
        label = sorted(WORDS)[i % 3]
        first, second = rng.sample(WORDS[label], 2)
        made.append((f"please help, my {first} and {second} number {rng.randrange(1000)}", label))
    return made


def write_csv(path: Path, data: Sequence[Sequence[str]], header: Sequence[str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *data])
    return path


@dataclass(frozen=True)
class Task:
    """Files of a three-label task that a tiny student learns."""

    train: Path
    eval: Path
    foreign: Path


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test touches the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_CACHE", str(folder))
        yield folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test alone."""
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"


@pytest.fixture(scope="session")
def make_csv() -> Callable[..., Path]:
    return write_csv


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    return Task(
        write_csv(folder / "train.csv", rows(90, seed=0)),
        write_csv(folder / "eval.csv", rows(30, seed=1)),
        write_csv(folder / "foreign.csv", [("tell me a joke",), ("what is the weather",)], header=["text"]),
    )


@pytest.fixture(scope="session")
def cli() -> Callable[..., Result]:
    """``cli("distill", …)``: the command in this process; anything but its own errors is raised."""

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def fails(cli: Callable[..., Result]) -> Callable[..., str]:
    """``fails(code, "distill", …)``: the single line on standard error of a command that ends with ``code``."""

    def run(code: int, *arguments: object) -> str:
        result = cli(*arguments)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert result.stderr.startswith("edgekd: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    return run


@pytest.fixture(scope="session")
def small() -> list[str]:
    return SMALL


@pytest.fixture(scope="session")
def student_folder(cli: Callable[..., Result], task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for real, through the command line. Do not write into it."""
    folder = tmp_path_factory.mktemp("trained") / "student"
    result = cli("distill", "--data", task.train, "--eval", task.eval, "--output", folder, *SMALL, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    return folder


@pytest.fixture(scope="session")
def converted(
    cli: Callable[..., Result], task: Task, student_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The student as a bundle, with everything that ``convert`` can add. Do not write into it."""
    folder = tmp_path_factory.mktemp("converted")
    answers = folder / "answers.json"
    answers.write_text('{"order": {"en": "Look under My Orders.", "zh": "请看我的订单。"}}', "utf-8")
    output = folder / "helpdesk"
    extras = ["--eval", task.eval, "--out-of-scope", task.foreign, "--answers", answers, "--max-drop", "0.2"]
    result = cli("convert", student_folder, "--samples", task.train, "--output", output, *extras, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    return output


@dataclass(frozen=True)
class Pictures:
    """Files of a three-class task on 12×12 images that a small residual network learns: names ``image``, ``scores``."""

    model: Path
    samples: Path
    eval: Path
    images: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64]


def pictures_of(count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """``(n, 12, 12, 3) float32`` noise with stripes upright, lying or aslant; ``(n,)`` which."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((12, 12))
    stripes = np.stack([np.sin(phase * 1.5) for phase in (rows, columns, (rows + columns) / 1.5)])
    targets = rng.integers(0, 3, count)
    images = stripes[targets][..., None] + rng.normal(0, 2, size=(count, 12, 12, 3))
    return images.astype(np.float32), targets


@pytest.fixture(scope="session")
def keras() -> Any:
    import_tensorflow()
    import keras

    return keras


@pytest.fixture(scope="session")
def pictures(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Do not write into their folder."""
    keras.utils.set_random_seed(4)
    image = keras.Input((12, 12, 3), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    y = keras.layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    x = keras.layers.ReLU()(keras.layers.Add()([x, keras.layers.Conv2D(16, 3, padding="same")(y)]))
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, name="scores")(x))
    images, targets = pictures_of(512, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(images, targets, batch_size=64, epochs=4, verbose=0)
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "stripes.tflite").write_bytes(convert_keras(model).content)
    np.savez(folder / "samples.npz", image=images[:200], y=targets[:200])
    shown, known = pictures_of(150, seed=1)
    np.savez(folder / "eval.npz", image=shown, y=known)
    return Pictures(folder / "stripes.tflite", folder / "samples.npz", folder / "eval.npz", shown, known)
