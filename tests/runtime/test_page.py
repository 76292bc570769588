"""The page at ``/``: what is sent, and what it does in a real browser, where Chromium is installed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
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
    asked += re.findall(r'word\("(\w+)"', "".join(map(page._read, page._SCRIPTS)))
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
    browser.until("byId('best').textContent && !trying.stop")
    assert browser.value("byId('text').value") == example
    browser.value(f"byId('text').value = {TEXT!r}")
    browser.value("byId('text').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', cancelable: true }))")
    browser.until(f"byId('best').textContent === {engine.classify(TEXT).label!r} && !trying.stop")


@needs_chromium
def test_out_of_scope(browser: Chromium) -> None:
    choose(browser, "strict")
    browser.value("byId('text').value = 'hello'; ask()")
    assert browser.value("byId('best').textContent") == "Out of scope"
    assert browser.value("byId('scope').hidden") is True
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
    browser.value("trying.result = null; byId('record').click()")
    browser.until("byId('record').getAttribute('aria-pressed') === 'true'")
    browser.value("new Promise((done) => setTimeout(done, 300))")
    browser.value("byId('record').click()")
    assert browser.until("trying.result && trying.result.label") in LABELS
    head = browser.value("trying.file.slice(0, 12).text()")
    assert (head[:4], head[8:]) == ("RIFF", "WAVE")
    assert browser.value("trying.file.size") > 44 + 2 * 2000


@needs_chromium
def test_tensors(browser: Chromium) -> None:
    choose(browser, "numbers")
    asked = json.loads(browser.value("byId('text').value"))
    assert asked["inputs"][0]["shape"] == [1, 4]
    browser.value("ask()")
    output = json.loads(browser.until("!byId('tensors').hidden && byId('tensors').textContent"))
    assert output["shape"] == [1, 3]
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
        assert browser.value("[seen.state, byId('token-problem').hidden]") == ["locked", True]
        for wrong in "wrong-horse-battery-staple", "令牌令牌令牌令牌令牌令牌":
            browser.value(f"byId('token').value = {wrong!r}; byId('token-form').requestSubmit()")
            browser.until("!byId('token-problem').hidden")
            browser.value("byId('token-problem').hidden = true")
        assert browser.value("document.documentElement.lang") == "zh-CN"
        browser.value(f"byId('token').value = {TOKEN!r}; byId('token-form').requestSubmit()")
        browser.until("!byId('content').hidden && byId('token-form').hidden")
        browser.value(f"byId('text').value = {TEXT!r}; ask()")
        assert browser.until("byId('best').textContent") == engine.classify(TEXT).label
    finally:
        browser.close()
        assert server.stop() == 0
    assert TOKEN not in (tmp_path / "log").read_text()


# --- what goes wrong, and what comes in between ---


@needs_chromium
def test_an_answer_or_a_problem_never_both(browser: Chromium, bundle: Bundle) -> None:
    choose(browser, bundle.name)
    browser.value(f"byId('text').value = {TEXT!r}; ask()")
    assert browser.value("byId('result').hidden") is False
    browser.value("byId('text').value = '...'; ask()")
    browser.value("byId('language').click()")
    assert browser.value("[byId('result').hidden, byId('problem').hidden, byId('took').textContent]") == [
        True,
        False,
        "",
    ]
    browser.value("byId('language').click()")
    browser.complaints.clear()


@needs_chromium
def test_what_is_asked_last_counts(browser: Chromium, bundle: Bundle, engine: Engine) -> None:
    """An answer that comes late is not shown under another text or model."""
    choose(browser, bundle.name)
    browser.value(
        """(() => {
            window.fetched = fetch; window.late = 400;
            window.fetch = (...asked) => new Promise((done) => setTimeout(done, asked[0].startsWith("/v") ? late : 0))
                .then(() => fetched(...asked));
        })()"""
    )
    browser.value(f"byId('text').value = 'hello'; ask(); late = 0; byId('text').value = {TEXT!r}; ask()")
    browser.value("new Promise((done) => setTimeout(done, 600))")
    assert browser.value("byId('best').textContent") == engine.classify(TEXT).label
    browser.value("late = 400; ask(); 0")
    assert browser.value("byId('send').textContent") == "Asking…"
    choose(browser, "numbers")
    browser.value("new Promise((done) => setTimeout(done, 600))")
    assert browser.value("[byId('result').hidden, byId('send').textContent]") == [True, "Ask"]
    browser.value("window.fetch = fetched")


@needs_chromium
def test_enter_that_chooses_a_chinese_word_does_not_ask(browser: Chromium, bundle: Bundle) -> None:
    choose(browser, bundle.name)
    pressed = "new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, cancelable: true })"
    assert browser.value(f"byId('text').value = 'nihao'; byId('text').dispatchEvent({pressed}) && !trying.stop") is True


@needs_chromium
def test_the_microphone_is_never_left_open(browser: Chromium) -> None:
    browser.value(
        """(() => {
            const given = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            window.streams = [];
            navigator.mediaDevices.getUserMedia = async (wanted) => {
                streams.push(await given(wanted));
                return streams.at(-1);
            };
        })()"""
    )
    ended = "streams.every((one) => one.getTracks().every((track) => track.readyState === 'ended'))"
    choose(browser, "ear")
    browser.value("byId('record').click(); byId('record').click()")  # twice, before it has begun
    browser.until("typeof trying.recording === 'function'")
    browser.value("new Promise((done) => setTimeout(done, 300))")  # a sound too short cannot be decoded
    browser.value("byId('record').click()")
    browser.until(f"trying.result && streams.length === 1 && {ended}")
    browser.value("byId('record').click()")
    browser.until("typeof trying.recording === 'function'")
    choose(browser, "eye")
    browser.until(f"streams.length === 2 && {ended}")
    choose(browser, "ear")
    browser.value("byId('record').click()")
    choose(browser, "eye")  # before the microphone is there
    browser.until(f"streams.length === 3 && {ended}")
    assert browser.value("trying.recording") is None


@needs_chromium
def test_the_same_file_again(browser: Chromium) -> None:
    choose(browser, "eye")
    assert browser.value("byId('send').hidden") is True
    give(browser, "eye.png", "image/png", files.picture(np.zeros((4, 4, 3), np.uint8)))
    browser.until("trying.result")
    assert browser.value("[byId('file').value, byId('send').hidden]") == ["", False]
    browser.value("byId('send').click()")
    browser.until("trying.own.length && !trying.stop && trying.result")


@needs_chromium
def test_large_tensors_are_not_written_out(browser: Chromium) -> None:
    shown = "written({ inputs: [{ name: 'x', datatype: 'INT8', shape: [1, 100], data: Array(100).fill(0) }] })"
    assert json.loads(browser.value(shown))["inputs"][0]["data"] == []
    assert json.loads(browser.value(f"withZeros({shown})"))["inputs"][0]["data"] == [0] * 100
    assert browser.value("withZeros('{')") == "{"


@needs_chromium
def test_a_model_that_is_unloaded_while_it_is_tried(bundles: list[Path], bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for one in bundles[0], bundles[-1]:
        (folder / one.name).write_bytes(one.read_bytes())
    server = Server(tmp_path / "log", "--model-dir", folder, "--port", "0")
    browser = Chromium(tmp_path / "profile")
    try:
        browser.open(f"http://127.0.0.1:{server.port}/")
        browser.until("document.querySelectorAll('#facts dt').length > 5")
        choose(browser, bundle.name)
        browser.value(f"byId('text').value = {TEXT!r}; ask()")
        post = "fetch('/v2/repository/models/{}/{}', {{ method: 'POST' }}).then(() => 0)"
        browser.value(post.format(bundle.name, "unload"))
        browser.until("model().name === 'numbers'")
        assert "inputs" in json.loads(browser.value("byId('text').value"))
        assert browser.value("byId('result').hidden") is True
        browser.value(post.format("numbers", "unload"))
        browser.until("!byId('none').hidden && byId('about').hidden")
        browser.value(post.format("numbers", "load"))
        browser.until("byId('none').hidden && !byId('about').hidden && !byId('send').hidden")
    finally:
        browser.close()
        assert server.stop() == 0


@needs_chromium
def test_one_failure_at_the_start_is_no_end(bundles: list[Path], tmp_path: Path) -> None:
    server = Server(tmp_path / "log", bundles[0], "--port", "0", "--rate-limit", "1")
    browser = Chromium(tmp_path / "profile")
    try:
        browser.open(f"http://127.0.0.1:{server.port}/")  # takes what the rate allows; what it asks next is refused
        browser.until("document.readyState === 'complete' && document.querySelectorAll('#facts dt').length > 5")
    finally:
        browser.close()
        assert server.stop() == 0
    assert any("429" in complaint for complaint in browser.complaints)


@needs_chromium
def test_a_server_that_hangs_and_comes_back(bundles: list[Path], tmp_path: Path) -> None:
    server = Server(tmp_path / "log", bundles[0], "--port", "0")
    browser = Chromium(tmp_path / "profile")
    try:
        browser.open(f"http://127.0.0.1:{server.port}/")
        browser.until("document.readyState === 'complete' && byId('state').className === 'state up'")
        server.process.send_signal(signal.SIGSTOP)
        browser.until("byId('state').className === 'state down'")
        browser.value("byId('language').click()")
        assert browser.value("byId('state-text').textContent") == "无法连接"
        browser.value("settle({ problem: word('no_answer') })")
        server.process.send_signal(signal.SIGCONT)
        browser.until("byId('state').className === 'state up' && byId('problem').hidden")
    finally:
        browser.close()
        assert server.stop() == 0
