"""``report.html``: every number is on it, it loads nothing, it is well-formed, and nothing of the user's is markup."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from copy import deepcopy
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from tests.sdk.full_report import RANGES, fallback, full, old

from edgekd.report.page import render

Cli = Callable[..., Result]
ROOT = Path(__file__).parents[2]
VOID = {"meta", "br", "hr", "img", "input", "link", "col", "wbr"}
HOSTILE = "<script>alert(1)</script>\"'&<b onload=x></style>{{ 7*7 }}"


class Page(HTMLParser):
    """Text, tags and attributes; ``faults`` are tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        self.faults += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._space(tag)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._space(tag)
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def _space(self, tag: str) -> None:
        if tag not in ("wbr", "span"):
            self.words.append(" ")

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def with_strings(value: Any, change: Callable[[str], str]) -> Any:
    """The same report with every string in it changed, but those that a page looks at."""
    if isinstance(value, dict):
        keep = {"stage", "severity", "edgekd", "metric", "file", "precision"}
        return {key: one if key in keep else with_strings(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [with_strings(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(full(), RANGES))


VARIANTS = {
    "full": full(),
    "old": old(),
    "agreement": full() | {"gate": {"metric": "agreement", "max_drop": None, "drop": 0.013}, "accuracy": None},
    "no culprit": full() | {"culprits": [], "flips": None},
    "nothing changed": full() | {"flips": full()["flips"] | {"changed": 0, "classes": [], "pairs": []}},
    "one layer": full() | {"layers": full()["layers"][:1]},
    "exact": full() | {"layers": [one | {"relative_rmse": 0.0} for one in full()["layers"]]},
    "called from Python": full() | {"command": [], "distilled": None},
    "fallback": fallback(),
    "no drop known": full() | {"gate": {"max_drop": 0.1, "drop": None}},
    "unlabelled flips": full() | {"flips": full()["flips"] | {"by_truth": False}},
}


@pytest.mark.parametrize("report", VARIANTS.values(), ids=VARIANTS)
def test_it_is_well_formed(report: dict[str, Any]) -> None:
    page = Page(render(report))
    assert page.faults == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [attributes["href"] for attributes in page.named("a")]
    assert links
    assert {link for link in links if link} <= {f"#{one}" for one in ids}
    assert not re.search(r"\b(None|nan|inf|Undefined|True|False)\b", page.text)


@pytest.mark.parametrize("report", VARIANTS.values(), ids=VARIANTS)
def test_it_loads_nothing(report: dict[str, Any]) -> None:
    html = render(report, RANGES)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|javascript:", html, re.IGNORECASE)
    page = Page(html)
    assert not {name for name, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    names = {name for _, attributes in page.tags for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "style", "xlink:href"}


def test_its_policy_lets_in_its_own_style_only(page: Page) -> None:
    html = render(full())
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    wanted = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [one["content"] for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{wanted}'; base-uri 'none'; form-action 'none'"


@pytest.mark.parametrize(
    "words",
    [
        # the sentence and the tiles
        "A full-integer int8 model of 65.8 kB, 4.8 × smaller than the float model it was made of.",
        "Its accuracy on 1,000 held-out rows is 86.04 %, 1.15 points below the float model’s 87.19 %.",
        "Gate met: 1.15 points lost, 2 allowed",
        "from 152.6 µs, 2.7 × faster",
        # every stage, the teacher included
        "1 teacher, minilm+keras 90.21 % – 123.59 MB – – 8.48 ms",
        "2 float, as loaded 87.19 % – 316.8 kB 125.0 k 12.5 M 152.6 µs",
        "3 pruned 68.61 % 98.70 % 209.9 kB 62.0 k 6.2 M 116.0 µs",
        "4 recovered 86.32 % 98.70 % 210.1 kB 62.0 k 6.2 M 117.5 µs",
        "5 int8 86.04 % 98.70 % 65.8 kB 62.0 k 6.2 M 57.2 µs",
        # answers
        "int8 answers 15 of 1,000 rows (1.50 %) otherwise",
        "6 were right and are wrong now; 5 were wrong and are right now.",
        "cat 100 9 5 2",
        "dog 120 6 1 3",
        "cat dog 7",
        # layers
        "block0/conv;block0/relu CONV_2D 8.50 % 21.4 dB 27.9 dB 0.99277 0.00 %",
        "block19/conv;block19/relu CONV_2D 0.43 %",
        "exact RESHAPE 0.00 % exact – 1.00000 0.00 %",
        # culprits
        "block3/conv;block3/relu CONV_2D 62.0 % of the error",
        "44.0 % by its output’s range",
        "12.4 % by its weights",
        # quantising, ranges, pruning
        "mse 0.0078 kept",
        "percentile 0.0456 no",
        "bias correction op ODD is not known – no",
        "scores −12.35 9.75",
        "12.5 M → 6.2 M MACs, 77.4 k → 50.9 k parameters",
        "block3/conv 64 → 40 3.0 M",
        "op 'odd' fences off block9",
        # samples
        "Calibrated on 300 samples, judged on 1,000 rows of held-out data.",
        "Warning (range): the pixels go from 0 to 255, not 0 to 1",
        "Error (labels): class 3 has no samples",
        "the batch of unknown size became 1",
        "A score below 0.457 counts as out of scope: 95.10 % of the labelled rows are accepted, 46.00 % of the rows",
        # again
        "edgekd distill \\ --data train.csv \\ --output student",
        "edgekd convert student \\ --samples train.csv \\ --output 'my build'",
        "tensorflow 2.19.0",
        "Linux x86_64, 2 cores",
        "prune 56.31 s",
        f"samples {'61' * 32}",
        "seed 7",
    ],
)
def test_every_number_is_on_it(page: Page, words: str) -> None:
    assert words in page.text


def test_what_is_less_than_int8_says_so() -> None:
    text = Page(render(fallback())).text
    for words in (
        "A model in int8-float of 65.8 kB",
        "int8-float, float32 in and out",
        "Not full integer: 2 of 20 ops compute in float32: CONV_2D, ADD",
        "int8-int16, 1 wider not possible: no kernel – – –",
        "int8-float, 2 wider 86.10 % 0.50 % 90.1 kB",
        "int8-float answers 15 of 1,000 rows",
        "How far the values of int8 are",
    ):
        assert words in text
    assert "Not full integer" not in Page(render(full())).text


def test_a_histogram_says_what_the_grid_is_too_small_for() -> None:
    """Four bins from −2 to 2 over a grid from −1 to 1: the outer two lie beyond it."""
    report = full()
    histogram = {"low": -2.0, "high": 2.0, "float": [10, 60, 40, 15], "int8": [0, 70, 55, 0]}
    report["culprits"] = [one | {"histogram": histogram} for one in report["culprits"][:1]]
    report["culprits"][0]["grid"] = {"scale": 2 / 255, "zero_point": 0.5 - 1, "bits": 8}
    html = render(report)
    text = Page(html).text
    assert "its values use 256 of 256 steps of 0.00784" in text
    assert "20.00 % of them beyond the grid, and so clipped" in text
    (path,) = re.findall(r'<path class="float" d="([^"]+)"', html)
    heights = [100 - float(height) for height in re.findall(r"V([\d.]+)H", path)]
    assert heights == pytest.approx([96 * np.log1p(n) / np.log1p(70) for n in (10, 60, 40, 15)], abs=0.06)
    ends = [float(x) for x in re.findall(r'<line class="edge" x1="([\d.]+)%"[^>]* y1="-6"', html)]
    assert ends == pytest.approx([25.96, 74.04], abs=0.01), "in a picture with 2 % of room at either side"


def test_a_culprit_that_recovers_nothing_is_none(page: Page) -> None:
    culprits = page.text[page.text.index("Culprits What") : page.text.index("How it was quantised What")]
    assert "INPUT" in culprits
    assert "scores" not in culprits


def test_nothing_of_the_users_is_markup() -> None:
    plain, hostile = Page(render(full(), RANGES)), deepcopy(full())
    hostile = with_strings(hostile, lambda text: text + HOSTILE)
    html = render(hostile, {HOSTILE: [0.0, 1.0]})
    page = Page(html)
    assert page.faults == []
    assert "<script" not in html
    assert {name for name, _ in page.tags} == {name for name, _ in plain.tags}
    assert {name for _, one in page.tags for name in one} == {name for _, one in plain.tags for name in one}
    assert page.text.count(HOSTILE) > 50
    for place in ("cat", "block0/conv;block0/relu", "resnet8", "minilm+keras", "2.19.0"):
        assert f"{place}{HOSTILE}" in page.text


def test_pictures_have_names_and_headings_an_order(page: Page) -> None:
    outer = [one for one in page.named("svg") if "preserveaspectratio" not in one]
    assert all(one.get("aria-hidden") == "true" or one.get("aria-label") for one in outer)
    assert sum(one.get("role") == "img" for one in outer) == 3, "stages against size, and two culprits' histograms"
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(then - now <= 1 for now, then in pairwise(levels))
    assert [one["lang"] for one in page.named("html")] == ["en"]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(theme: int) -> None:
    """WCAG 2: contrast of 4.5 for words, 3 for what pictures are drawn with, on both grounds of either theme."""
    css = render(full()).split("<style>")[1].split("</style>")[0]
    colours = dict(re.findall(r"--([\w-]+): #(\w{6})", css.split("prefers-color-scheme: dark")[theme]))
    for ground in ("page", "panel"):
        for name, least in {"ink": 7, "soft": 4.5, "good": 4.5, "warn": 4.5, "bad": 4.5, "float": 3, "int8": 3}.items():
            assert contrast(colours[name], colours[ground]) >= least, (name, ground)
    assert contrast(colours["int8"], colours["float-fill"]) >= 1.5, "a line on an area; they differ in hue as well"


def contrast(one: str, other: str) -> float:
    """Of two colours ``rrggbb``, by the formula of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_bars_are_as_long_as_their_numbers(page: Page) -> None:
    """The worst layer's fills its place; a layer of half its error has half of it."""
    html = render(full())
    layers = html[html.index('id="layers"') : html.index('id="culprits"')]
    widths = [float(width) for width in re.findall(r'<rect class="" width="([\d.]+)%"', layers)]
    assert widths[:2] == [100.0, 50.0]
    assert widths[-1] == 0.0
    assert len(widths) == 21


@pytest.mark.parametrize(
    ("metric", "figures", "words"),
    [
        ("agreement", {"agreement": 0.987}, "It gives the float model’s answer on 98.70 % of 1,000 held-out rows."),
        ("relative_rmse", {"relative_rmse": 0.0123}, "Its outputs differ from the float model’s by 1.23 % (RMSE) on"),
        ("mse", {"mse": 0.0042}, "Its mean squared error on 1,000 held-out rows is 0.0042, 5.00 % above"),
        ("auc", {"auc": 0.9}, "Its AUC on 1,000 held-out rows is 90.00 %, the same as the float model’s 90.00 %."),
    ],
)
def test_it_is_told_by_what_the_model_is_judged_by(metric: str, figures: dict[str, float], words: str) -> None:
    report = full()
    report["gate"] |= {"metric": metric, "max_drop": None}
    for one in report["stages"]:
        one |= figures
    report["stages"][0] |= {"mse": 0.004}
    page = Page(render(report))
    assert words in page.text
    assert "No gate was set" in page.text


def test_without_a_teacher_or_labels_the_picture_has_what_there_is() -> None:
    report = full() | {"distilled": None}
    report["gate"] |= {"metric": "relative_rmse"}
    for number, one in enumerate(report["stages"]):
        one |= {"relative_rmse": 0.01 * number, "accuracy": None}
    page = Page(render(report))
    assert "1 float, as loaded reference" in page.text
    assert len(page.named("circle")) == 4
    places = [float((one["cy"] or "").rstrip("%")) for one in page.named("circle")]
    assert places == sorted(places), "the less error, the higher up"


class TestCommand:
    """``edgekd report``."""

    @pytest.fixture
    def build(self, tmp_path: Path) -> Path:
        (tmp_path / "report.json").write_text(json.dumps(full()), "utf-8")
        (tmp_path / "ranges.json").write_text(
            json.dumps({"edgekd": "ranges", "schema_version": 1, "ranges": RANGES}), "utf-8"
        )
        return tmp_path

    def test_it_makes_the_page_anew(self, cli: Cli, build: Path) -> None:
        result = cli("report", build)
        assert result.exit_code == 0
        assert "written" in result.stdout
        assert (build / "report.html").read_text("utf-8") == render(full(), RANGES)

    def test_elsewhere_and_for_machines(self, cli: Cli, build: Path, tmp_path: Path) -> None:
        result = cli("report", build / "report.json", "--output", tmp_path / "a/b.html", "--json")
        said = json.loads(result.stdout)
        assert (said["name"], said["page"]) == ("resnet8", str(tmp_path / "a/b.html"))
        assert (tmp_path / "a/b.html").read_text("utf-8") == render(full(), RANGES)
        assert not (build / "report.html").exists()

    def test_quiet_says_nothing(self, cli: Cli, build: Path) -> None:
        assert cli("report", build, "--quiet").output == ""
        assert (build / "report.html").is_file()

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "no such file; 'edgekd convert' writes it"),
            ("{", "not JSON"),
            ("[]", "must hold an object"),
            ("{}", "not the report of a conversion"),
            ('{"edgekd": "conversion"}', "is not as 'edgekd convert' writes it (KeyError"),
            (json.dumps(full() | {"layers": 3}), "is not as 'edgekd convert' writes it (TypeError"),
            (json.dumps(full() | {"schema_version": 99}), "schema_version 99 is newer than this edgekd"),
        ],
    )
    def test_what_is_no_report(
        self, fails: Callable[..., str], tmp_path: Path, content: str | None, words: str
    ) -> None:
        if content is not None:
            (tmp_path / "report.json").write_text(content)
        message = fails(2, "report", tmp_path)
        assert words in message
        assert "report.json" in message
        assert not (tmp_path / "report.html").exists()

    def test_broken_ranges(self, fails: Callable[..., str], build: Path) -> None:
        (build / "ranges.json").write_text('{"ranges": 3}')
        assert "ranges.json: not a file of ranges" in fails(2, "report", build)

    def test_a_file_in_the_way(self, fails: Callable[..., str], build: Path) -> None:
        (build / "file").write_text("")
        assert "--output" in fails(2, "report", build, "--output", build / "file/page.html")


def test_a_conversion_writes_it(converted: Path, cli: Cli, tmp_path: Path) -> None:
    html = (converted / "report.html").read_text("utf-8")
    page = Page(html)
    assert page.faults == []
    assert not re.search(r"https?:", html)
    report = json.loads((converted / "report.json").read_text("utf-8"))
    for wanted in (report["name"], f"{report['bytes']['int8'] / 1000:.1f} kB", report["files"]["student"]):
        assert wanted in page.text
    for one in report["layers"]:
        assert one["tensor"] in page.text
    assert "edgekd distill \\ --data" in page.text
    assert cli("report", converted, "--output", tmp_path / "again.html", "--quiet").exit_code == 0
    assert (tmp_path / "again.html").read_text("utf-8") == html, "report.json and what is beside it is all it takes"


def test_every_field_of_a_report_is_documented(converted: Path) -> None:
    """Those of a real report, and of the one that these tests draw, which then has no field of its own making."""
    known = set(re.findall(r"`([\w.]+)`", (ROOT / "docs/report.md").read_text("utf-8")))
    report = json.loads((converted / "report.json").read_text("utf-8"))
    for one in (report, full(), fallback()):
        parts = [one, *one["stages"], *one["layers"], *one["culprits"], one["flips"], *one["flips"]["classes"]]
        parts += [*one["flips"]["pairs"], one["gate"], *one["gate"].get("fallbacks", []), one["quantising"]]
        parts += [*one["quantising"]["attempts"], one["distilled"], *one["samples"]["findings"], one["source"]]
        assert {key for part in parts for key in part} <= known
    assert set(full()) <= set(report)
