"""The page that Prometheus reads, and what it tells of the board."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekd_runtime import api, metrics
from edgekd_runtime.engine import Engine
from edgekd_runtime.histogram import BOUNDS_S, Histogram, merged
from edgekd_runtime.routes import Site

SAMPLE = re.compile(r'[a-z_]+(\{[a-z0-9]+="[^"\n]*"(,[a-z0-9]+="[^"\n]*")*\})? [-+0-9.einf]+')


def test_every_line_is_in_the_format(engine: Engine) -> None:
    site = Site({engine.bundle.name: engine}, api.ROUTES)
    answer = site.find("POST", f"/v1/models/{engine.bundle.name}:classify")
    assert not isinstance(answer, tuple)
    for body in (b"hello", b""):
        answer.now(body, {"content-type": "text/plain"})
    lines = api.page(site).decode().splitlines()
    assert [line for line in lines if not line.startswith("#") and not SAMPLE.fullmatch(line)] == []
    declared = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(declared) == len(set(declared))
    assert f'edgekd_requests_total{{model="{engine.bundle.name}",code="400"}} 1' in lines
    resident = next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes "))
    assert 10e6 < resident < 10e9
    assert any(f'sha256="{engine.model_sha256}"' in line for line in lines)


def test_histograms_are_cumulative_and_add_up() -> None:
    one, other = Histogram(), Histogram()
    for seconds in (1e-6, BOUNDS_S[0], BOUNDS_S[1], 99.0):
        one.observe(seconds)
    other.observe(BOUNDS_S[1])
    both = merged([one, other])
    assert both.counts[:3] == [2, 2, 0]
    assert both.counts[-1] == 1
    page = metrics.Page()
    page.histograms("h", "What.", [({"m": "a"}, both)])
    lines = page.encoded().decode().splitlines()
    buckets = [int(line.split()[1]) for line in lines if line.startswith("h_bucket")]
    assert buckets == [2, *[4] * (len(BOUNDS_S) - 1), 5]
    assert lines[-1] == 'h_count{m="a"} 5'


def test_labels_are_escaped() -> None:
    page = metrics.Page()
    page.family("f", "gauge", "What.", [({"v": 'a"b\\c\nd'}, 0.5)])
    assert page.encoded() == b'# HELP f What.\n# TYPE f gauge\nf{v="a\\"b\\\\c\\nd"} 0.5\n'


def test_temperatures_of_sensors_that_can_be_read(tmp_path: Path) -> None:
    for zone, temp, kind in ((0, "47774\n", "cpu-thermal\n"), (1, "broken", "x"), (2, None, "y")):
        folder = tmp_path / f"thermal_zone{zone}"
        folder.mkdir()
        (folder / "type").write_text(kind)
        if temp is not None:
            (folder / "temp").write_text(temp)
    assert list(metrics.temperatures(tmp_path)) == [("0:cpu-thermal", pytest.approx(47.774))]
    assert list(metrics.temperatures(tmp_path / "none")) == []
