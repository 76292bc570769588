"""Bundles of pictures and sounds: raw files in, labels out, by every way in; bundles of tensors on the command line."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.runtime import files

from edgekd_runtime import api, cli
from edgekd_runtime.bundle import Bundle, Golden, load_bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import BundleError, GoldenError, InputError, MissingExtraError
from edgekd_runtime.preprocess import Audio, Image, image
from edgekd_runtime.routes import Site
from edgekd_runtime.server import Application

LABELS = ("red", "green", "blue")
# (1, 4) numbers go into the model of ``int8_dense``; as a picture they are 2 × 2 gray pixels, as a sound 4 samples.
PIXELS = np.array([[0, 1], [2, 3]], np.uint8)
EYE = Image(2, 2, interpolation="nearest", color="gray", scale=0.5)
EAR = Audio(8000, 4, scale=4)


@pytest.fixture(scope="module")
def picture() -> bytes:
    return files.picture(PIXELS)


@pytest.fixture(scope="module")
def sound() -> bytes:
    return files.sound(np.array([0, 8192, 16384, 24576], "<i2"), 8000)  # 0, ¼, ½, ¾


@pytest.fixture(scope="module")
def pictures(square_dense: bytes) -> Bundle:
    return Bundle("eye", square_dense, "int8", {"in": "x"}, {"out": "y"}, labels=LABELS, preprocess=EYE)


@pytest.fixture(scope="module")
def sounds(int8_dense: bytes) -> Bundle:
    return Bundle("ear", int8_dense, "int8", {"in": "x"}, {"out": "y"}, labels=LABELS, preprocess=EAR)


@pytest.fixture(scope="module")
def tensors(int8_dense: bytes) -> Bundle:
    return Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"})


# --- the engine ---


def test_a_picture_is_quantised_as_tensors_are(pictures: Bundle, picture: bytes) -> None:
    engine = Engine(pictures)
    assert engine.takes == "image"
    (stored,) = engine.preprocess(picture)
    assert (stored.shape, stored.dtype) == ((1, 2, 2, 1), np.int8)
    assert stored.ravel().tolist() == [3, 4, 5, 6]  # ½·pixel over the scale ½, plus 3
    real = engine.infer({"in": PIXELS.reshape(1, 2, 2, 1).astype(np.float32) / 2})["out"]
    assert engine.classify(picture).top == engine.rank(real[0], 3).top


def test_a_sound_is_quantised_as_tensors_are(sounds: Bundle, sound: bytes) -> None:
    engine = Engine(sounds)
    assert engine.takes == "audio"
    assert engine.preprocess(sound)[0].tolist() == [[3, 5, 7, 9]]
    with pytest.raises(InputError, match=r"not a \.wav file"):
        engine.classify(b"RIFF")
    with pytest.raises(InputError, match="got str"):
        engine.classify("hello")


def test_tensors_of_a_preprocessing_bundle_are_still_taken(pictures: Bundle) -> None:
    assert Engine(pictures).infer({"in": np.zeros((3, 2, 2, 1), np.float32)})["out"].shape == (3, 3)


@pytest.mark.parametrize("wrong", [Image(2, 3, color="gray"), Image(2, 2), EAR])
def test_a_preprocessing_that_does_not_fill_the_input(pictures: Bundle, wrong: Any) -> None:
    with pytest.raises(BundleError, match="not what the model takes"):
        Engine(replace(pictures, preprocess=wrong))


# --- golden files ---


def packed(bundle: Bundle, *raw: bytes) -> Bundle:
    engine = Engine(bundle)
    stored = np.concatenate([engine.preprocess(one)[0] for one in raw])
    outputs = np.concatenate([engine.invoke([row[None]])[0] for row in stored])
    return replace(bundle, golden=Golden({"in": stored}, {"out": outputs}, engine.backend.name, raw=raw))


def test_files_are_packed_and_preprocessed_again(
    pictures: Bundle, sounds: Bundle, picture: bytes, sound: bytes, tmp_path: Path
) -> None:
    for bundle, raw in ((pictures, picture), (sounds, sound)):
        packed(bundle, raw, raw).save(tmp_path / "b.edgekd")
        read = load_bundle(tmp_path / "b.edgekd")
        assert read.golden is not None
        assert (read.golden.raw, read.preprocess) == ((raw, raw), bundle.preprocess)
        Engine(read)


def test_another_preprocessing_than_when_packed_is_noticed(pictures: Bundle) -> None:
    """Off by a level here and there is another decoder; pixels twice as bright are another preprocessing."""
    bright = files.picture(np.full((2, 2), 50, np.uint8))
    bundle = packed(pictures, bright, files.picture(np.array([[9, 200], [9, 9]], np.uint8)))
    Engine(replace(bundle, preprocess=replace(EYE, mean=(0.4,))))
    for other in (replace(EYE, scale=1.0), replace(EYE, mean=(1.0,))):
        with pytest.raises(GoldenError, match="another input of golden file 0"):
            Engine(replace(bundle, preprocess=other))
    assert bundle.golden is not None
    broken = replace(bundle.golden, raw=(b"", bundle.golden.raw[1][:40]))
    with pytest.raises(GoldenError, match="golden file 1 is refused"):
        Engine(replace(bundle, golden=broken))
    with pytest.raises(BundleError, match="golden_raw"):
        Engine(replace(bundle, golden=replace(bundle.golden, raw=(b"",))))


def test_only_some_samples_have_their_file(pictures: Bundle, picture: bytes, tmp_path: Path) -> None:
    bundle = packed(pictures, picture, picture)
    assert bundle.golden is not None
    replace(bundle, golden=replace(bundle.golden, raw=(b"", picture))).save(tmp_path / "b.edgekd")
    read = load_bundle(tmp_path / "b.edgekd")
    assert read.golden is not None
    assert read.golden.raw == (b"", picture)
    Engine(read)


@pytest.mark.parametrize("lengths", [[5], [-1, 6], [True, 4], ["5"], 5, [3, 3]])
def test_lengths_that_do_not_fit_the_files(pictures: Bundle, tmp_path: Path, lengths: Any) -> None:
    bundle = packed(pictures, files.picture(PIXELS))
    assert bundle.golden is not None
    replace(bundle, golden=replace(bundle.golden, raw=(b"12345",))).save(tmp_path / "b.edgekd")
    with zipfile.ZipFile(tmp_path / "b.edgekd") as old, zipfile.ZipFile(tmp_path / "c.edgekd", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "manifest.json":
                manifest = json.loads(data)
                manifest["golden"]["raw_bytes"] = lengths
                data = json.dumps(manifest).encode()
            new.writestr(name, data)
    if lengths == [5]:
        assert load_bundle(tmp_path / "c.edgekd").golden is not None
    else:
        with pytest.raises(BundleError):
            load_bundle(tmp_path / "c.edgekd")


def test_without_pillow_tensors_are_served(pictures: Bundle, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = packed(pictures, picture)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    engine = Engine(bundle)
    assert engine.infer({"in": np.zeros((1, 2, 2, 1), np.float32)})["out"].shape == (1, 3)
    with pytest.raises(MissingExtraError):
        engine.classify(picture)


# --- HTTP ---


@pytest.fixture(scope="module")
def ask(pictures: Bundle, sounds: Bundle, tensors: Bundle, bundle: Bundle) -> Callable[..., httpx.Response]:
    twin = replace(pictures, name="twin", inputs={"image": "x"})
    engines = {one.name: Engine(one) for one in (pictures, sounds, tensors, bundle, twin)}
    app = Application(Site(engines, api.ROUTES))

    def post(path: str, **options: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(options.pop("method", "POST"), path, **options)

        return asyncio.run(go())

    return post


def typed(kind: str) -> dict[str, str]:
    return {"content-type": kind}


def test_without_pillow_pictures_are_501(ask: Any, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    got = ask("/v1/models/eye:classify", content=picture, headers=typed("image/png"))
    assert (got.status_code, got.json()) == (501, {"error": image.NEEDS})


def test_classify_takes_files(ask: Any, pictures: Bundle, sounds: Bundle, picture: bytes, sound: bytes) -> None:
    for bundle, raw, kind in ((pictures, picture, "image/png"), (sounds, sound, "audio/wav")):
        wanted = Engine(bundle).classify(raw)
        path = f"/v1/models/{bundle.name}:classify"
        got = ask(path, content=raw, headers=typed(kind))
        assert got.status_code == 200
        assert (got.json()["label"], got.json()["score"]) == (wanted.label, wanted.score)
        assert [one["label"] for one in got.json()["labels"]] == [label for label, _ in wanted.top]
        coded = base64.b64encode(raw).decode()
        media = kind.split("/")[0]
        assert ask(path, json={media: coded}).json() == got.json()
        several = ask(path, json={media: [coded, coded], "top_k": 1}).json()
        assert [one["label"] for one in several["results"]] == [wanted.label] * 2


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/JPEG; q=1", "image/webp", "image/bmp"])
def test_the_file_itself_tells_its_format(ask: Any, picture: bytes, kind: str) -> None:
    assert ask("/v1/models/eye:classify", content=picture, headers=typed(kind)).status_code == 200


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("eye", "audio/wav", "the model takes image, not 'audio/wav'"),
        ("eye", "text/plain", "the model takes image, not 'text/plain'"),
        ("ear", "image/png", "the model takes audio, not 'image/png'"),
        ("dense", "image/png", "the model takes tensors, not 'image/png'"),
        ("customer", "image/png", "the model takes text, not 'image/png'"),
    ],
)
def test_another_kind_of_file_is_415(ask: Any, bundle: Bundle, model: str, kind: str, words: str) -> None:
    name = bundle.name if model == "customer" else model
    got = ask(f"/v1/models/{name}:classify", content=b"abc", headers=typed(kind))
    assert (got.status_code, got.json()) == (415, {"error": words})


@pytest.mark.parametrize(
    ("request_json", "words"),
    [
        ({"image": "~"}, "base64"),
        ({"image": base64.b64encode(b"no picture").decode()}, "not a picture"),
        ({"image": 1}, "'image' must be"),
        ({"text": "red"}, "unknown field 'text'; the fields are 'image' and 'top_k'"),
        ({}, "'image' must be"),
    ],
)
def test_json_that_holds_no_picture_is_400(ask: Any, request_json: dict[str, Any], words: str) -> None:
    got = ask("/v1/models/eye:classify", json=request_json)
    assert got.status_code == 400
    assert words in got.json()["error"]


def test_a_damaged_picture_is_400(ask: Any, picture: bytes) -> None:
    got = ask("/v1/models/eye:classify", content=picture[:-30], headers=typed("image/png"))
    assert got.status_code == 400
    assert "\n" not in got.json()["error"]


def test_open_inference_takes_files(ask: Any, pictures: Bundle, picture: bytes) -> None:
    described = ask("/v2/models/eye", method="GET").json()["inputs"][1]
    assert (described["name"], described["datatype"], described["parameters"]["instead_of"]) == ("image", "BYTES", "in")
    assert "image/jpeg" in described["parameters"]["media_types"]
    coded = [base64.b64encode(picture).decode()] * 2
    entry = {"name": "image", "datatype": "BYTES", "shape": [2], "data": coded}
    outputs = {one["name"]: one for one in ask("/v2/models/eye/infer", json={"inputs": [entry]}).json()["outputs"]}
    assert outputs["out"]["shape"] == [2, 3]
    assert outputs["label"]["data"] == [Engine(pictures).classify(picture).label] * 2
    both = [entry, {"name": "in", "datatype": "FP32", "shape": [1, 2, 2, 1], "data": [0] * 4}]
    got = ask("/v2/models/eye/infer", json={"inputs": both})
    assert (got.status_code, got.json()["error"]) == (400, "send either 'image' or the model's own tensors, not both")


def test_files_in_binary_and_in_tensorflows_forms(
    ask: Any, pictures: Bundle, sounds: Bundle, picture: bytes, sound: bytes
) -> None:
    for bundle, raw, kind in ((pictures, picture, "image/png"), (sounds, sound, "audio/wav")):
        engine, media = Engine(bundle), kind.split("/")[0]
        wanted = engine.outputs_of(engine.preprocess(raw))[engine.outputs[0].name].tolist()
        base = f"/v1/models/{bundle.name}"
        coded = {"b64": base64.b64encode(raw).decode()}
        assert ask(f"{base}:predict", content=raw, headers=typed(kind)).json() == {"predictions": wanted}
        assert ask(f"{base}:predict", json={"instances": [coded, {"b64": coded["b64"]}]}).json() == {
            "predictions": wanted * 2
        }
        assert ask(f"{base}:predict", json={"inputs": {media: [coded]}}).json() == {"outputs": wanted}
        results = ask(f"{base}:classify", json={"examples": [{media: coded}]}).json()["results"]
        assert results[0][0][0] == engine.classify(raw).label
        packed = len(raw).to_bytes(4, "little") + raw
        parameters = {"binary_data_size": len(packed)}
        entry = {"name": media, "datatype": "BYTES", "shape": [1], "parameters": parameters}
        head = json.dumps({"inputs": [entry]}).encode()
        length = {"inference-header-content-length": str(len(head))}
        got = ask(f"/v2/models/{bundle.name}/infer", content=head + packed, headers=length).json()
        assert {one["name"]: one["data"] for one in got["outputs"]}["label"] == [engine.classify(raw).label]
        whole = ask(f"/v2/models/{bundle.name}/infer", content=raw, headers={"inference-header-content-length": "0"})
        assert whole.headers["content-type"] == "application/octet-stream"
        assert engine.classify(raw).label.encode() in whole.content
        assert ask(f"{base}:predict", content=b"abc", headers=typed(kind)).status_code == 400
        assert ask(f"{base}:predict", content=raw, headers=typed("text/plain")).status_code == 415
        assert ask(f"{base}:predict", json={"instances": ["abc"]}).status_code == 400


def test_a_tensor_may_have_the_name_of_the_raw_input(ask: Any, picture: bytes) -> None:
    """Both ``image``: numbers are the tensor, files are what is preprocessed."""
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 2, 2, 1], "data": [1, 2, -1, 0.5]}
    file = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(picture).decode()]}
    described = ask("/v2/models/twin", method="GET").json()["inputs"]
    assert [(one["name"], one["datatype"]) for one in described] == [("image", "FP32"), ("image", "BYTES")]

    def infer(*inputs: Any) -> Any:
        return ask("/v2/models/twin/infer", json={"inputs": inputs, "outputs": [{"name": "out"}]}).json()

    assert infer(tensor)["outputs"][0]["data"] == [4, 1, 3]
    wanted = infer(file)["outputs"][0]["data"]
    for both in ([tensor, file], [file, tensor]):
        assert infer(*both) == {"error": "input 'image' is given twice"}
    numbers = np.array(tensor["data"], "<f4").tobytes()
    for values, is_binary in ((numbers, True), (len(picture).to_bytes(4, "little") + picture, False)):
        given = {**(tensor if is_binary else file), "parameters": {"binary_data_size": len(values)}}
        del given["data"]
        head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        length = {"inference-header-content-length": str(len(head))}
        got = ask("/v2/models/twin/infer", content=head + values, headers=length)
        size = int(got.headers["inference-header-content-length"])
        assert np.frombuffer(got.content[size : size + 12], "<f4").tolist() == ([4, 1, 3] if is_binary else wanted)

    rows, coded = [[[[1], [2]], [[-1], [0.5]]]], {"b64": file["data"][0]}
    for request in ({"instances": rows}, {"instances": [{"image": rows[0]}]}, {"inputs": {"image": rows}}):
        assert [[4, 1, 3]] in ask("/v1/models/twin:predict", json=request).json().values()
    for request in ({"instances": [coded]}, {"instances": [{"image": coded}]}, {"inputs": {"image": [coded]}}):
        assert [wanted] in ask("/v1/models/twin:predict", json=request).json().values()


# --- a server of its own ---


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "edgekd_runtime", "serve", str(folder / "eye.edgekd"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield int(line.rsplit(":", 1)[1])
        process.terminate()
        assert process.wait(20) == 0


def test_a_large_file_comes_in_many_pieces(port: int, pictures: Bundle) -> None:
    """Beyond the 1 MiB that texts may have; and once more, by then with a head that the server knows."""
    photo = files.picture(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8))
    assert len(photo) > 3 << 20
    wanted = Engine(pictures).classify(photo)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(3):
        connection.request("POST", "/v1/models/eye:classify", photo, {"Content-Type": "image/png"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert (response.status, answer["label"], answer["score"]) == (200, wanted.label, wanted.score)


def test_refusals_of_a_server(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for kind, body, status in (("audio/wav", b"abc", 415), ("image/png", b"abc", 400), ("image/png", b"", 400)):
        connection.request("POST", "/v1/models/eye:classify", body, {"Content-Type": kind})
        response = connection.getresponse()
        assert (response.status, list(json.loads(response.read()))) == (status, ["error"])
    connection.putrequest("POST", "/v1/models/eye:classify")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", str((16 << 20) + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413


# --- the command line ---


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    pictures: Bundle,
    sounds: Bundle,
    tensors: Bundle,
    picture: bytes,
    sound: bytes,
) -> Path:
    folder = tmp_path_factory.mktemp("media")
    packed(pictures, picture).save(folder / "eye.edgekd")
    sounds.save(folder / "ear.edgekd")
    tensors.save(folder / "dense.edgekd")
    (folder / "a.png").write_bytes(picture)
    (folder / "a.wav").write_bytes(sound)
    np.save(folder / "a.npy", np.array([[1, 2, -1, 0.5]]))
    np.savez(folder / "in.npz", **{"in": np.array([[1, 2, -1, 0.5], [0, 0, 0, 0]], np.float32)})
    np.savez(folder / "x.npz", x=np.zeros((1, 4), np.float32))
    np.savez(folder / "z.npz", z=np.zeros((1, 4), np.float32))
    np.savez_compressed(folder / "many.npz", x=np.zeros((65, 4), np.float32))
    return folder


def test_info_says_that_pictures_need_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("info", folder / "eye.edgekd").stderr == ""
    monkeypatch.setitem(sys.modules, "PIL", None)
    said = f"edgekd-runtime: warning: eye cannot take pictures: {image.NEEDS}\n"
    assert run("info", folder / "eye.edgekd").stderr == said
    assert run("info", folder / "ear.edgekd").stderr == ""


def test_a_server_says_that_pictures_need_pillow(folder: Path) -> None:
    program = "import sys; sys.modules['PIL'] = None; from edgekd_runtime.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(folder / "eye.edgekd"), "--port", "0"]
    with subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = json.loads(process.stderr.readline())
        process.terminate()
    assert (said["level"], said["event"]) == ("warning", f"eye cannot take pictures: {image.NEEDS}")


@pytest.mark.parametrize(("bundle_name", "file"), [("eye", "a.png"), ("ear", "a.wav")])
def test_infer_on_a_file(folder: Path, bundle_name: str, file: str) -> None:
    engine = Engine(load_bundle(folder / f"{bundle_name}.edgekd"))
    wanted = engine.classify((folder / file).read_bytes())
    done = run("infer", folder / f"{bundle_name}.edgekd", folder / file, "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["label"], answer["in_scope"], len(answer["labels"])) == (wanted.label, True, 3)
    assert answer["score"] == pytest.approx(wanted.score)
    shown = run("infer", folder / f"{bundle_name}.edgekd", folder / file)
    assert shown.stdout.split()[1] == wanted.label


def test_infer_on_tensors(folder: Path) -> None:
    """W·x + b on paper, as tests/runtime/conftest.py writes the model."""
    one = run("infer", folder / "dense.edgekd", folder / "a.npy", "--json")
    assert json.loads(one.stdout) == {"outputs": {"out": [4, 1, 3]}}
    two = run("infer", folder / "dense.edgekd", folder / "in.npz", "--json")
    assert json.loads(two.stdout)["results"][0] == {"outputs": {"out": [4, 1, 3]}}
    assert run("infer", folder / "dense.edgekd", folder / "in.npz").stdout.splitlines()[:2] == [
        "# 0",
        "out: [4.0, 1.0, 3.0]",
    ]
    assert run("infer", folder / "dense.edgekd", folder / "x.npz").exit_code == 0


def test_infer_takes_a_batch_as_the_server_does(folder: Path) -> None:
    done = run("infer", folder / "dense.edgekd", folder / "many.npz")
    assert done.exit_code == 2
    assert "has a batch of 65; 1 to 64 are taken" in done.stderr


@pytest.mark.parametrize(
    ("bundle_name", "arguments", "words"),
    [
        ("dense", ["a.png"], "takes an .npz or .npy FILE"),
        ("dense", ["z.npz"], "there is no array 'in'; the arrays are: z"),
        ("dense", ["none.npz"], "No such file"),
        ("eye", ["--text", "red"], "takes a FILE of image"),
        ("eye", ["none.png"], "No such file"),
        ("eye", ["a.wav"], "not a picture"),
        ("eye", ["a.npy"], "must have shape"),
        ("ear", ["a.png"], "not a .wav file"),
    ],
)
def test_infer_on_what_does_not_fit(folder: Path, bundle_name: str, arguments: list[str], words: str) -> None:
    given = [folder / one if "." in one else one for one in arguments]
    for verb in ("infer", "bench"):
        done = run(verb, folder / f"{bundle_name}.edgekd", *given)
        assert (done.exit_code, done.stdout) == (2, "")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_text_bundle_wants_a_text(folder: Path, bundle_path: Path) -> None:
    done = run("infer", bundle_path, folder / "a.png")
    assert done.exit_code == 2
    assert "takes --text" in done.stderr


@pytest.mark.parametrize(
    ("bundle_name", "file", "stages"),
    [
        ("eye", None, ["preprocess", "invoke", "classify"]),
        ("eye", "a.png", ["preprocess", "invoke", "classify"]),
        ("ear", "a.wav", ["preprocess", "invoke", "classify"]),
        ("dense", "in.npz", ["invoke", "infer"]),
    ],
)
def test_bench(folder: Path, bundle_name: str, file: str | None, stages: list[str]) -> None:
    given = [folder / file] if file else []
    done = run("bench", folder / f"{bundle_name}.edgekd", *given, "--runs", "10", "--json")
    assert done.exit_code == 0, done.stderr
    timed = json.loads(done.stdout)
    assert [key for key in timed if key not in ("model", "runs", "unit")] == stages
    assert all(timed[stage]["p50"] > 0 for stage in stages)


def test_bench_of_tensors_runs_the_golden_samples(folder: Path, tensors: Bundle, tmp_path: Path) -> None:
    assert run("bench", folder / "dense.edgekd").exit_code == 2, "there are none in it"
    engine = Engine(tensors)
    stored = np.array([[3, 4, 5, 6]], np.int8)
    golden = Golden({"in": stored}, {"out": engine.invoke([stored])[0]}, engine.backend.name)
    replace(tensors, golden=golden).save(tmp_path / "b.edgekd")
    done = run("bench", tmp_path / "b.edgekd", "--runs", "10")
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["invoke", "infer"]


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (],), }".ljust(117) + b"\n"  # numpy's own tokenizer raises


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY\x01\0", b"\x93NUMPY\x01\0\x76\0" + HEADER, b"PK\x05\x06" + b"\0" * 18, b"abc"],
)
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_damaged_arrays(folder: Path, tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    done = run("infer", folder / "dense.edgekd", path)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


def test_a_pickle_is_not_run(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    done = run("infer", folder / "dense.edgekd", tmp_path / "a.npy")
    assert done.exit_code == 2
    assert "not an array file that can be read" in done.stderr
