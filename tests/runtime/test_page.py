"""The page at ``/``: what is sent, and what it does in a real browser, where Chromium is installed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.device.test_serve import Server, complaints
from tests.runtime import files
from tests.runtime.chromium import PROGRAM, Chromium
from tests.runtime.test_media import EAR, EYE, LABELS

from edgekd_runtime import api, page
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Reply
from edgekd_runtime.routes import Site

TOKEN = "correct-horse-battery-staple"
TEXT = "where is my parcel?"
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed (Debian: chromium)")


def get(site: Site, path: str) -> Reply:
    found = site.find("GET", path)
    assert not isinstance(found, Reply)
    return found.now(b"", {})


def test_the_page_stands_alone_and_says_so_to_the_browser() -> None:
    reply = get(Site({}, api.ROUTES), "/")
    html, headers = reply.body.decode(), dict(reply.headers)
    assert (reply.status, reply.content_type) == (200, "text/html; charset=utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert not re.findall(
        r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9.]+\.[a-z]", html.replace("http://www", "//www")
    )
    assert not re.findall(r"<[^>]+\s(?:on\w+|style)=", html)  # the policy would not run them
    policy = headers["content-security-policy"]
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(inline) == 1
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_both_languages_say_the_same_things() -> None:
    words = page._read("words.js")
    english, chinese = (re.findall(r"(\w+): \"", part) for part in words.split("zh: {"))
    assert english == chinese
    asked = re.findall(r'data-word="(\w+)"', page._read("index.html"))
    asked += re.findall(r'word\("(\w+)"', page._read("app.js") + page._read("charts.js"))
    assert set(asked) <= set(english)


def test_cards_and_figures(engine: Engine) -> None:
    site = Site({engine.bundle.name: engine}, api.ROUTES)
    card = json.loads(get(site, "/page/models.json").body)["models"][0]
    assert (card["name"], card["precision"], card["takes"]) == (engine.bundle.name, "int8", "text")
    assert card["model_bytes"] == len(engine.bundle.model)
    assert card["labels"] == list(engine.bundle.labels)
    assert [one["name"] for one in card["inputs"]] == ["ids"]
    assert card["example"]["inputs"][0]["data"] == [0] * 256
    assert engine.bundle.golden is not None
    assert set(card["texts"]) <= set(engine.bundle.golden.texts)
    found = site.find("POST", f"/v1/models/{engine.bundle.name}:classify")
    assert not isinstance(found, Reply)
    for _ in range(3):
        found.now(b"hello", {"content-type": "text/plain"})
    live = json.loads(get(site, "/page/live.json").body)
    assert (live["requests"], sum(live["counts"])) == (3, 3)
    assert len(live["counts"]) == len(live["bounds_s"]) + 1
    assert live["models"] == {engine.bundle.name: [engine.bundle.version, engine.model_sha256]}


# --- in a browser ---


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, square_dense: bytes, int8_dense: bytes
) -> list[Path]:
    """Of texts, also with everything out of scope; of pictures, sounds and tensors."""
    folder = tmp_path_factory.mktemp("bundles")
    ends = ({"in": "x"}, {"out": "y"})
    made = [
        bundle,
        replace(bundle, name="strict", threshold=1.0),
        Bundle("eye", square_dense, "int8", *ends, labels=LABELS, preprocess=EYE),
        Bundle("ear", int8_dense, "int8", *ends, labels=LABELS, preprocess=EAR),
        Bundle("numbers", int8_dense, "int8", *ends),
    ]
    for one in made:
        one.save(folder / f"{one.name}.edgekd")
    return [folder / f"{one.name}.edgekd" for one in made]


@pytest.fixture(scope="module")
def server(bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    server = Server(folder / "log", *bundles, "--port", "0")
    yield server
    assert server.stop() == 0
    assert complaints((folder / "log").read_text()) == []


@pytest.fixture(scope="module")
def browser(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.until("document.querySelectorAll('#facts dt').length > 5")
    yield browser
    assert browser.complaints == []
    browser.close()


def choose(browser: Chromium, model: str) -> None:
    browser.value(f"byId('models').value = {model!r}; byId('models').dispatchEvent(new Event('change'))")


def give(browser: Chromium, name: str, kind: str, content: bytes) -> None:
    """Choose a file, as a click on it would."""
    coded = base64.b64encode(content).decode()
    browser.value(
        f"""(() => {{
            const bytes = Uint8Array.from(atob({coded!r}), (letter) => letter.charCodeAt(0));
            const held = new DataTransfer();
            held.items.add(new File([bytes], {name!r}, {{ type: {kind!r} }}));
            byId("file").files = held.files;
            byId("file").dispatchEvent(new Event("change"));
        }})()"""
    )


@needs_chromium
def test_a_sentence_gets_its_label_scores_and_answer(browser: Chromium, bundle: Bundle, engine: Engine) -> None:
    choose(browser, bundle.name)
    browser.value(f"byId('text').value = {TEXT!r}; byId('send').click()")
    assert browser.until("!byId('result').hidden && byId('best').textContent") == engine.classify(TEXT).label
    assert browser.value("document.querySelectorAll('#bars li').length") == 3
    assert browser.value("byId('scope').textContent") == "in scope"
    assert browser.value("[...document.querySelectorAll('#answers dt')].map((one) => one.textContent)") == ["en", "zh"]
    assert browser.value("getComputedStyle(byId('problem')).display") == "none"
    browser.until("parseFloat(document.querySelector('.fill').style.width) > 20")
    assert "ms" in browser.value("byId('took').textContent")
    assert "ms" in browser.value("byId('own-p50').textContent")


@needs_chromium
def test_enter_asks_and_an_example_too(browser: Chromium, bundle: Bundle, engine: Engine) -> None:
    choose(browser, bundle.name)
    example = browser.value("document.querySelector('#examples button').textContent")
    browser.value("document.querySelector('#examples button').click()")
    browser.until("byId('best').textContent && !byId('send').disabled")
    assert browser.value("byId('text').value") == example
    browser.value(f"byId('text').value = {TEXT!r}")
    browser.value("byId('text').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', cancelable: true }))")
    browser.until(f"byId('best').textContent === {engine.classify(TEXT).label!r} && !byId('send').disabled")


@needs_chromium
def test_out_of_scope(browser: Chromium) -> None:
    choose(browser, "strict")
    browser.value("byId('text').value = 'hello'; ask()")
    assert browser.value("byId('scope').textContent") == "out of scope"
    assert browser.value("byId('scope').className") == "badge out"
    assert browser.value("byId('answers').children.length") == 0


@needs_chromium
def test_a_picture_and_a_bad_one(browser: Chromium) -> None:
    choose(browser, "eye")
    assert browser.value("getComputedStyle(byId('ask-text')).display") == "none"
    give(browser, "eye.png", "image/png", files.picture(np.zeros((4, 4, 3), np.uint8)))
    assert browser.until("!byId('result').hidden && byId('best').textContent") in LABELS
    assert browser.until("byId('preview').naturalWidth") == 4
    give(browser, "bad.png", "image/png", b"no picture")
    assert "picture" in browser.until("!byId('problem').hidden && byId('problem').textContent").lower()
    assert browser.value("byId('result').hidden") is True
    browser.complaints.clear()  # the browser tells of the answer 400


@needs_chromium
def test_a_sound_from_a_file_and_from_the_microphone(browser: Chromium) -> None:
    """Chromium's microphone here is a pretended one that beeps."""
    choose(browser, "ear")
    give(browser, "ear.wav", "audio/wav", files.sound(np.zeros(100, np.int16)))
    assert browser.until("!byId('result').hidden && byId('best').textContent") in LABELS
    browser.value("seen.result = null; byId('record').click()")
    browser.until("byId('record').getAttribute('aria-pressed') === 'true'")
    browser.value("new Promise((done) => setTimeout(done, 300))")
    browser.value("byId('record').click()")
    assert browser.until("seen.result && seen.result.label") in LABELS
    head = browser.value("seen.file.slice(0, 12).text()")
    assert (head[:4], head[8:]) == ("RIFF", "WAVE")
    assert browser.value("seen.file.size") > 44 + 2 * 2000


@needs_chromium
def test_tensors(browser: Chromium) -> None:
    choose(browser, "numbers")
    asked = json.loads(browser.value("byId('text').value"))
    assert asked["inputs"][0]["shape"] == [1, 4]
    browser.value("ask()")
    outputs = json.loads(browser.until("!byId('tensors').hidden && byId('tensors').textContent"))
    assert outputs[0]["shape"] == [1, 3]
    browser.value("byId('text').value = '{'; ask()")
    assert "not JSON" in browser.value("byId('problem').textContent")
    browser.complaints.clear()


@needs_chromium
def test_charts_and_card_and_language(browser: Chromium, bundle: Bundle) -> None:
    choose(browser, bundle.name)
    browser.value(f"byId('text').value = {TEXT!r}; ask()")
    browser.value("ask()")
    browser.until("seen.rates.length > 1")
    assert browser.value("document.querySelectorAll('#chart-latency .line').length") == 1
    assert browser.value("byId('chart-load').getAttribute('aria-label')").startswith("From ")
    assert browser.value("byId('facts').textContent").count(bundle.name) == 1
    assert browser.value("document.querySelectorAll('#labels span').length") == len(bundle.labels)
    browser.value("byId('language').click()")
    assert browser.value("[document.documentElement.lang, byId('send').textContent]") == ["zh-CN", "提问"]
    assert browser.value("document.querySelector('#answers dt').textContent") == "zh"
    browser.value("byId('language').click()")
    assert browser.value("byId('send').textContent") == "Ask"


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(browser: Chromium, scheme: str) -> None:
    browser.look(360, 780, scheme)
    assert browser.value("document.documentElement.scrollWidth") == 360
    contrast = """(() => {
        const light = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map((x) => x / 255)
            .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
            .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (one) => {
            const colour = getComputedStyle(one).backgroundColor;
            return /, 0\\)$/.test(colour) ? ground(one.parentElement) : colour;
        };
        const says = (one) => [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        return [...document.querySelectorAll("body *")]
            .filter((one) => one.checkVisibility() && says(one))
            .map((one) => [light(getComputedStyle(one).color), light(ground(one)), one.id || one.textContent])
            .map(([a, b, what]) => [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), what])
            .filter(([ratio]) => ratio < 4.5);
    })()"""
    assert browser.value(contrast) == []  # WCAG 2.2, 1.4.3
    unnamed = """[...document.querySelectorAll("button, input, textarea, select, svg")]
        .filter((one) => one.checkVisibility() && !(one.textContent.trim() || one.getAttribute("aria-label")
            || one.getAttribute("aria-labelledby") || (one.labels && one.labels.length))).map((one) => one.id)"""
    assert browser.value(unnamed) == []
    browser.look(1200, 900)


@needs_chromium
def test_it_asks_for_the_token(bundles: list[Path], engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    server = Server(tmp_path / "log", bundles[0], "--port", "0", "--token-file", tmp_path / "token")
    browser = Chromium(tmp_path / "profile", language="zh-CN")
    try:
        browser.open(f"http://localhost:{server.port}/")
        browser.until("document.readyState === 'complete' && !byId('token-form').hidden")
        assert browser.value("document.documentElement.lang") == "zh-CN"
        browser.value(f"byId('token').value = {TOKEN!r}; byId('token-form').requestSubmit()")
        browser.until("!byId('content').hidden && byId('token-form').hidden")
        browser.value(f"byId('text').value = {TEXT!r}; ask()")
        assert browser.until("byId('best').textContent") == engine.classify(TEXT).label
    finally:
        browser.close()
        assert server.stop() == 0
    assert TOKEN not in (tmp_path / "log").read_text()
