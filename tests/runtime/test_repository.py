"""Models that come and go under load: what is swapped in is tried first, and nobody notices."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.listen import listening
from tests.runtime.waiting import soon

from edgekd_runtime import api, repository, trial
from edgekd_runtime.bundle import Bundle, Golden, load_bundle
from edgekd_runtime.cli_common import Opening
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import BundleError, ModelNotFoundError, TrialError
from edgekd_runtime.repository import Repository
from edgekd_runtime.routes import Limits, Site
from edgekd_runtime.signing import ANYBODY

TIMEOUT_S = 60


@pytest.fixture
def folder(tmp_path: Path, dense_bundle: Bundle) -> Path:
    dense_bundle.save(tmp_path / "models" / "dense.edgekd")
    return tmp_path / "models"


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the child process, which is tested by itself and takes a second."""
    monkeypatch.setattr(repository, "try_bundle", lambda path, **_: Opening(ANYBODY)(path).model_sha256)


class Served:
    """A folder behind a port, and clients who ask it all the time."""

    def __init__(self, folder: Path, port: int, site: Site) -> None:
        self.folder = folder
        self.port = port
        self.site = site
        self.repository = site.repository
        self.statuses: list[int] = []
        self._stop = threading.Event()

    def post(self, path: str, body: object = None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        connection.request("POST", path, json.dumps(body) if body is not None else b"")
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def verb(self, name: str, verb: str, body: object = None) -> tuple[int, Any]:
        return self.post(f"/v2/repository/models/{name}/{verb}", body)

    def versions(self) -> list[str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        connection.request("GET", "/v2/models/dense")
        versions: list[str] = json.loads(connection.getresponse().read()).get("versions", [])
        connection.close()
        return versions

    def __enter__(self) -> Served:
        self._asking = threading.Thread(target=self._ask)
        self._asking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._asking.join()

    def _ask(self) -> None:
        body = json.dumps({"inputs": [{"name": "in", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, -1, 0.5]}]})
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        while not self._stop.is_set():
            connection.request("POST", "/v2/models/dense/infer", body)
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert answer["outputs"][0]["data"] == [4, 1, 3]
            self.statuses.append(response.status)
        connection.close()


@pytest.fixture(params=[0, 1e9], ids=["threads", "inline"])
def served(folder: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    models = Repository(Opening(ANYBODY), folder)
    site = Site(models.open_folder({}), api.ROUTES, Limits(inline_us=request.param))
    with listening(site, repository=models) as port:
        yield Served(folder, port, site)
    site.close()


def test_a_reload_under_load_loses_no_request_and_no_memory(
    untried: None, served: Served, dense_bundle: Bundle
) -> None:
    alive: list[weakref.ref[Engine]] = []
    with served:
        for version in range(20):
            replace(dense_bundle, version=str(version)).save(served.folder / "dense.edgekd")
            alive.append(weakref.ref(served.site.models["dense"]))
            assert served.verb("dense", "load") == (200, {"name": "dense", "state": "READY"})
            assert served.versions() == [str(version)]
    assert set(served.statuses) == {200}
    assert len(served.statuses) > 20
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 1  # one may still be named in a thread's last ticket
    assert sum("edgekd-dense" in thread.name for thread in threading.enumerate()) <= 1


def test_what_fails_leaves_the_old_one_serving(untried: None, served: Served, dense_bundle: Bundle) -> None:
    path = served.folder / "dense.edgekd"
    good = path.read_bytes()
    wrong = Golden({"in": np.zeros((1, 4), np.int8)}, {"out": np.full((1, 3), 99, np.int8)}, "litert")
    with served:
        for make in (
            lambda: path.write_bytes(b"no bundle"),
            lambda: path.write_bytes(good[:-300]),
            lambda: replace(dense_bundle, golden=wrong).save(path),
            lambda: replace(dense_bundle, name="other").save(path),
            path.unlink,
        ):
            make()
            status, answer = served.verb("dense", "load")
            assert (status, set(answer)) == (422, {"error"})
            assert "\n" not in answer["error"]
            entries = served.post("/v2/repository/index")[1]
            assert entries == [{"name": "dense", "state": "READY", "reason": answer["error"], "version": "1"}]
        path.write_bytes(good)
        assert served.verb("dense", "load")[0] == 200
        assert served.post("/v2/repository/index")[1][0]["reason"] == ""
    assert set(served.statuses) == {200}


def test_unload_and_load_again(untried: None, served: Served, dense_bundle: Bundle) -> None:
    assert served.verb("dense", "unload", {"parameters": {"unload_dependents": False}})[0] == 200
    assert served.verb("dense", "unload")[0] == 404
    assert served.post("/v2/models/dense/infer", {})[0] == 404
    index = "/v2/repository/index"
    assert served.post(index) == (200, [{"name": "dense", "state": "UNAVAILABLE", "reason": "unloaded"}])
    assert served.post(index, {"ready": True}) == (200, [])
    replace(dense_bundle, name="second", version="2").save(served.folder / "second.edgekd")
    assert served.post(index)[1][1] == {"name": "second", "state": "UNAVAILABLE", "reason": "not loaded"}
    for name in ("dense", "second"):
        assert served.verb(name, "load", {})[0] == 200
    assert [entry["state"] for entry in served.post(index, {"ready": True})[1]] == ["READY", "READY"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"parameters": {"config": "{}"}}, 400),
        ({"parameters": []}, 400),
        ({"model": "x"}, 400),
        ([], 400),
    ],
)
def test_what_the_verbs_do_not_take(untried: None, served: Served, body: object, status: int) -> None:
    assert served.verb("dense", "load", body)[0] == status
    assert served.post("/v2/repository/index", {"ready": 1})[0] == 400
    for name in ("none", "..%2fdense", "%2e%2e", "a b"):
        assert served.verb(name.replace(" ", "%20"), "load")[0] == 404


def test_reload_follows_the_folder(untried: None, folder: Path, dense_bundle: Bundle, tmp_path: Path) -> None:
    replace(dense_bundle, name="named").save(tmp_path / "named-file.edgekd")
    (folder / "broken.edgekd").write_bytes(b"x")
    models = Repository(Opening(ANYBODY), folder)
    named = models.open_named((tmp_path / "named-file.edgekd",))
    engines = {**named, **models.open_folder(named)}
    assert sorted(engines) == ["dense", "named"]
    site = Site(engines, api.ROUTES)
    with listening(site, repository=models):
        replace(dense_bundle, name="new").save(folder / "new.edgekd")
        (folder / "dense.edgekd").unlink()
        results = models.reload()
        assert {name: result for name, result in results.items() if name != "broken"} == {
            "dense": "unloaded",
            "new": "loaded",
            "named": "loaded",
        }
        assert "broken.edgekd" in results["broken"]
        assert sorted(site.models) == ["named", "new"]
        assert [entry.name for entry in models.index()] == ["broken", "named", "new"]
    site.close()


def test_two_bundles_of_one_name(untried: None, folder: Path) -> None:
    models = Repository(Opening(ANYBODY), folder)
    path = folder / "dense.edgekd"
    with pytest.raises(BundleError, match="'dense'"):
        models.open_named((path, path))
    named = Repository(Opening(ANYBODY), folder).open_named((path,))
    assert list(named) == ["dense"]


def test_a_named_file_that_lies_in_the_folder_stays(untried: None, folder: Path, dense_bundle: Bundle) -> None:
    replace(dense_bundle, name="shop").save(folder / "shop-v2.edgekd")
    models = Repository(Opening(ANYBODY), folder)
    named = models.open_named((folder / "shop-v2.edgekd", folder / "dense.edgekd"))
    site = Site({**named, **models.open_folder(named)}, api.ROUTES)
    with listening(site, repository=models):
        assert [(entry.name, entry.reason) for entry in models.index()] == [("dense", ""), ("shop", "")]
        assert models.reload() == {"shop": "loaded", "dense": "loaded"}
        assert {"shop", "dense"} == set(site.models)
    site.close()


def test_the_index_forgets_what_is_gone_and_a_folder_that_is_away_unloads_nothing(
    untried: None, folder: Path, dense_bundle: Bundle
) -> None:
    (folder / "broken.edgekd").write_bytes(b"x")
    models = Repository(Opening(ANYBODY), folder)
    site = Site(models.open_folder({}), api.ROUTES)
    with listening(site, repository=models):
        assert [entry.name for entry in models.index()] == ["broken", "dense"]
        (folder / "broken.edgekd").unlink()
        models.reload()
        assert [entry.name for entry in models.index()] == ["dense"]
        folder.rename(folder.with_name("away"))
        assert "no such file" in models.reload()["dense"]
        assert list(site.models) == ["dense"]
    site.close()


def test_a_successor_starts_without_what_is_broken_by_now(folder: Path) -> None:
    path = folder / "dense.edgekd"
    first = Repository(Opening(ANYBODY))
    assert list(first.open_named((path,))) == ["dense"]
    path.write_bytes(b"x")
    with pytest.raises(BundleError):
        Repository(Opening(ANYBODY)).open_named((path,))
    successor = Repository(Opening(ANYBODY))
    assert successor.open_named((path,), first.named) == {}
    assert [(entry.name, entry.is_ready, "dense.edgekd" in entry.reason) for entry in successor.index()] == [
        ("dense", False, True)
    ]


def test_a_server_without_a_repository_says_so(int8_dense: bytes, dense_bundle: Bundle) -> None:
    site = Site({"dense": Engine(dense_bundle)}, api.ROUTES)
    with listening(site) as port:
        assert Served(Path(), port, site).verb("dense", "load")[0] == 404
    with pytest.raises(ModelNotFoundError):
        Repository(Opening(ANYBODY)).load("dense")
    site.close()


def test_a_trial_runs_the_model(folder: Path, dense_bundle: Bundle) -> None:
    assert trial.try_bundle(folder / "dense.edgekd") == Engine(dense_bundle).model_sha256


def test_a_trial_that_is_refused_gives_the_reason(folder: Path) -> None:
    path = folder / "dense.edgekd"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(BundleError, match=r"dense\.edgekd") as caught:
        trial.try_bundle(path)
    assert not isinstance(caught.value, TrialError)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import sys; sys.exit(7)", "status 7"),
        ("pass", "status 0"),
        ("import time; time.sleep(60)", "within 1 s"),
    ],
)
def test_a_child_that_crashes_or_hangs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{program}'\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(TrialError, match=said):
        trial.try_bundle(folder / "dense.edgekd", timeout_s=1 if "sleep" in program else 60)


def test_a_trial_imports_nothing_from_the_current_directory(
    folder: Path, dense_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "queue.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert trial.try_bundle(Path("dense.edgekd")) == Engine(dense_bundle).model_sha256


def test_a_trial_gives_its_reason_in_any_locale(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    path = folder / "模型.edgekd"
    path.write_bytes(b"no bundle")
    with pytest.raises(BundleError, match=r"模型\.edgekd"):
        trial.try_bundle(path)


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Processes from here on hang when they open a model, and note their number in this file first."""
    noted = tmp_path / "pid"
    hang = f"open({str(noted)!r}, 'w').write(str(os.getpid())) and time.sleep(600)"
    program = f"import os, time\nfrom edgekd_runtime import engine\nengine.Engine = lambda *_, **__: {hang}\n"
    (tmp_path / "sitecustomize.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    return noted


def test_a_trial_that_hangs_ends_by_itself(folder: Path, hanging: Path) -> None:
    command = [sys.executable, "-c", trial._PROGRAM, str(folder / "dense.edgekd"), "auto", "1", ""]
    assert (
        subprocess.run([*command, *filter(None, sys.path)], timeout=TIMEOUT_S, check=False).returncode
        == -signal.SIGALRM
    )
    assert hanging.exists()


def test_a_trial_that_hangs_ends_with_the_server(folder: Path, hanging: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edgekd_runtime import trial; trial.try_bundle(Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder / "dense.edgekd")]) as server:
        assert soon(lambda: hanging.exists() and hanging.read_text() != "")
        server.kill()
    assert soon(lambda: has_ended(int(hanging.read_text())))


def has_ended(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("is_tried", [True, False], ids=["before", "after"])
def test_a_bundle_that_is_changed_while_it_is_tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_tried: bool
) -> None:
    """What has been checked, for its signature say, is what runs, even in the trial."""
    if not is_tried:
        monkeypatch.setattr(repository, "try_bundle", lambda path, **_: None)
    models = Repository(Opening(ANYBODY), folder, check=lambda path: replace(load_bundle(path), model=b"as it was"))
    assert models.open_folder({}) == {}
    assert "was changed" in models.index()[0].reason
