"""Ranges as data, and the choice among them on held-out samples."""

import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd_converters.calibrate import CALIBRATORS, observe
from edgekd_converters.errors import QuantizeError, RangeFileError
from edgekd_converters.graph import Graph
from edgekd_converters.histogram import Histogram
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.observe import Feed
from edgekd_converters.optimise import QuantizeOptions, make_int8
from edgekd_converters.range_file import read_ranges, write_ranges

Rows = npt.NDArray[Any]


def histogram(*parts: Rows) -> Histogram:
    made = Histogram()
    for part in parts:
        made.add(part, float(part.min()), float(part.max()))
    return made


def int8_error(values: Rows, low: float, high: float) -> float:
    """Mean square error of 8 bits over this range."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return float(np.square((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step - values).mean())


@pytest.fixture(scope="module")
def rows(images: list[Rows]) -> dict[str, Rows]:
    return {"image": np.concatenate([*images, *images[::-1]])}


class TestHistogram:
    def test_quantiles_are_those_of_the_values(self) -> None:
        values = np.random.default_rng(0).normal(1, 2, 100_000).astype(np.float32)
        found = histogram(*np.split(values, 10))
        for share in (0.001, 0.25, 0.75, 0.999):
            assert found.quantile(share) == pytest.approx(np.quantile(values, share), abs=0.02)
        assert found.extremes == (values.min(), values.max())

    def test_order_and_portions_do_not_matter(self) -> None:
        values = np.random.default_rng(1).lognormal(0, 2, 10_000).astype(np.float32)
        one, other = histogram(values), histogram(*np.split(values[::-1], 100))
        assert one.least_error() == other.least_error()
        assert one.quantile(0.99) == other.quantile(0.99)

    @pytest.mark.parametrize("shape", ["normal", "one sided", "outliers"])
    def test_the_least_error_is_the_least(self, shape: str) -> None:
        rng = np.random.default_rng(2)
        values = rng.laplace(0, 1, 200_000).astype(np.float32)
        if shape == "one sided":
            values = np.maximum(values, 0)
        if shape == "outliers":
            values[:20] *= 100
        found = histogram(values)
        reached = int8_error(values, *found.least_error())
        tried = [int8_error(values, found.low * a, found.high * a) for a in np.geomspace(1e-3, 1, 60)]
        assert reached <= 1.02 * min(tried)
        assert reached < int8_error(values, *found.extremes)

    def test_nothing_but_zeros(self) -> None:
        found = histogram(np.zeros(10, np.float32))
        assert found.extremes == found.least_error() == (0.0, 0.0)
        assert found.quantile(0.5) == 0


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_no_calibrator_goes_beyond_what_was_seen(conv_graph: Graph, images: list[Rows], calibrator: str) -> None:
    statistics = observe(conv_graph, ({"image": image} for image in images))
    widest = statistics.ranges("minmax")
    for name, (low, high) in statistics.ranges(calibrator, 99).items():
        assert widest[name][0] <= low <= high <= widest[name][1]
    if calibrator != "minmax":
        assert statistics.ranges(calibrator, 99) != widest


def test_memory_does_not_grow_with_the_samples(keras: Any) -> None:
    """100,000 samples of 4 kB would be 400 MB."""
    x = keras.Input((1024,), name="x")
    graph = convert_keras(keras.Model(x, keras.layers.Dense(2)(x)))

    def stream(count: int) -> Iterator[Feed]:
        rng = np.random.default_rng(0)
        block = rng.normal(size=(64, 1024)).astype(np.float32)
        return ({"x": block[i % 64][None] * np.float32(1 + i / count)} for i in range(count))

    peaks = []
    for count in (100, 10_000):
        tracemalloc.start()
        observe(graph, stream(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6


class TestAuto:
    def test_keeps_what_held_out_samples_like_best(self, conv_graph: Graph, rows: dict[str, Rows]) -> None:
        made = make_int8(conv_graph, rows, QuantizeOptions())
        distances = {attempt.name: attempt.distance for attempt in made.attempts}
        assert {"minmax", "percentile 99.99", "mse"} <= set(distances)
        assert None not in distances.values()
        assert made.kept == (min(distances, key=lambda name: distances[name] or 0.0),)
        assert made.held_out == 15

    def test_does_not_follow_outliers(self, conv_graph: Graph, rows: dict[str, Rows]) -> None:
        spoilt = {"image": np.concatenate([rows["image"], rows["image"]])}
        spoilt["image"][[0, 3]] *= 1000  # the fourth is held out
        made = make_int8(conv_graph, spoilt, QuantizeOptions())
        distances = {attempt.name: attempt.distance or 0.0 for attempt in made.attempts}
        assert made.kept == ("minmax of 98% of samples",)
        assert distances["minmax of 98% of samples"] < 0.5 * distances["minmax"]

    def test_takes_the_extremes_where_there_is_nothing_to_judge_by(
        self, conv_graph: Graph, rows: dict[str, Rows]
    ) -> None:
        few = {"image": rows["image"][:8]}
        made, plain = (make_int8(conv_graph, few, QuantizeOptions(how)) for how in ("auto", "minmax"))
        assert made.int8_graph.content == plain.int8_graph.content
        assert (made.kept, made.held_out, made.attempts[0].distance) == (("minmax",), 0, None)


class TestFile:
    def test_what_is_written_is_read(self, conv_graph: Graph, rows: dict[str, Rows], tmp_path: Path) -> None:
        made = make_int8(conv_graph, rows, QuantizeOptions("mse"))
        path = tmp_path / "ranges.json"
        path.write_bytes(write_ranges(made.ranges, made.kept))
        assert json.loads(path.read_text())["steps"] == ["mse"]
        again = make_int8(conv_graph, rows, QuantizeOptions("minmax", ranges=read_ranges(path)))
        assert again.int8_graph.content == made.int8_graph.content

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not JSON"),
            ("[]", "not a file of ranges"),
            ('{"edgekd": "ranges", "schema_version": 9, "ranges": {}}', "schema_version is 9"),
            ('{"edgekd": "ranges", "schema_version": 1, "ranges": {"a/b": [1]}}', "'a/b' is [1]"),
            ('{"edgekd": "ranges", "schema_version": 1, "ranges": {"a/b": [2, 1]}}', "'a/b' is [2, 1]"),
            ('{"edgekd": "ranges", "schema_version": 1, "ranges": {"a/b": [0, NaN]}}', "'a/b' is [0, nan]"),
            ('{"edgekd": "ranges", "schema_version": 1, "ranges": {"a/b": [0, true]}}', "'a/b' is [0, True]"),
        ],
    )
    def test_what_is_wrong_with_it_is_said(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "ranges.json"
        path.write_text(content)
        with pytest.raises(RangeFileError, match=re.escape(message)):
            read_ranges(path)

    def test_a_tensor_that_is_not_there_is_named(self, conv_graph: Graph, rows: dict[str, Rows]) -> None:
        with pytest.raises(QuantizeError, match="a range for 'nothing'"):
            make_int8(conv_graph, rows, QuantizeOptions(ranges={"nothing": (0.0, 1.0)}))
