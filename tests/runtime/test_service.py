"""``edgekd-runtime service``: the units, checked by systemd's own tools where they are installed, and their place."""

from __future__ import annotations

import grp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekd_runtime import cli, service
from edgekd_runtime.bundle import Bundle

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: systemd)"
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["service", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``a model.edgekd`` and ``token``, and ``units`` to install into."""
    Bundle("shop", b"model", "int8", {"x": "x"}, {"y": "y"}).save(tmp_path / "a model.edgekd")
    (tmp_path / "a model.edgekd").chmod(0o644)
    (tmp_path / "token").write_text("correct-horse-battery-staple")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "units").mkdir()
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests keeps its services as they are."""
    monkeypatch.setattr(service, "runs_systemd", lambda: False)


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_the_unit_runs_serve_as_it_was_asked(folder: Path) -> None:
    bundle, token = folder / "a model.edgekd", folder / "token"
    done = run("print", bundle, "--port", "9000", "--token-file", token, "--rate-limit", "5", "--log-format=json")
    assert done.exit_code == 0, done.output
    unit = lines(done.stdout)
    start = f'"{bundle}" --port 9000 --token-file %d/token --rate-limit 5.0 --log-format json'
    assert f"ExecStart={sys.executable} -m edgekd_runtime serve {start}" in unit
    assert f"LoadCredential=token:{token}" in unit
    assert "correct-horse" not in done.stdout
    assert {"Type=notify", "DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "WatchdogSec=30"} < set(
        unit
    )
    assert {"IPAddressDeny=any", "IPAddressAllow=localhost", "MemoryMax=512M", "CapabilityBoundingSet="} < set(unit)
    assert f'BindReadOnlyPaths="{folder}"' in unit


def test_a_service_for_other_machines_may_talk_to_them(folder: Path) -> None:
    arguments = (folder / "a model.edgekd", "--host", "0.0.0.0")
    assert run("print", *arguments).exit_code == 2
    done = run("print", *arguments, "--token-file", folder / "token", "--memory-max", "1G", "--group", "shop")
    assert "IPAddressDeny" not in done.stdout
    assert {"MemoryMax=1G", "Group=shop"} < set(lines(done.stdout))


def test_sockets_that_systemd_opens(folder: Path) -> None:
    uds = "/run/shop/socket"
    done = run("print", "--socket", "--name", "shop", folder / "a model.edgekd", "--port", "80", "--uds", uds, "--json")
    files = json.loads(done.stdout)["files"]
    assert set(files) == {"shop.service", "shop.socket"}
    assert {"ListenStream=127.0.0.1:80", f"ListenStream={uds}", "SocketMode=0660"} < set(lines(files["shop.socket"]))
    assert "Requires=shop.socket" in lines(files["shop.service"])
    assert "RuntimeDirectory=" not in files["shop.service"]  # systemd removes it, with the socket, on every stop


def runtime_directories(*arguments: str | Path) -> list[str]:
    unit = json.loads(run("print", "--name", "shop", *arguments, "--json").stdout)["files"]["shop.service"]
    return [line for line in lines(unit) if line.startswith("RuntimeDirectory=")]


def test_sockets_that_the_service_makes_have_a_folder_that_goes_with_it(folder: Path) -> None:
    bundle = folder / "a model.edgekd"
    own = ("--uds", "/run/shop/socket", "--ipc", "/run/shop/ipc")
    assert runtime_directories(bundle, *own) == ["RuntimeDirectory=shop"]
    beside = ("--uds", "/run/shop/socket", "--ipc", "/run/shop/ipc/socket")
    assert runtime_directories("--socket", bundle, *beside) == ["RuntimeDirectory=shop/ipc"]


@pytest.mark.parametrize(
    ("host", "stream"),
    [
        ("localhost", "127.0.0.1:8080"),
        ("::1", "[::1]:8080"),
        ("fe80::1%eth0", "[fe80::1]:8080%%eth0"),
        ("0.0.0.0", "0.0.0.0:8080"),
    ],
)
def test_addresses_as_systemd_has_them(folder: Path, host: str, stream: str) -> None:
    arguments = (folder / "a model.edgekd", "--token-file", folder / "token", "--host", host)
    done = run("print", "--socket", *arguments, "--json")
    assert f"ListenStream={stream}" in lines(json.loads(done.stdout)["files"]["edgekd-runtime.socket"]), done.output


def test_percent_signs_of_paths_are_no_specifiers(folder: Path) -> None:
    (folder / "50%d").mkdir()
    bundle, token = folder / "50%d" / "a.edgekd", folder / "50%d" / "token"
    shutil.copy(folder / "a model.edgekd", bundle)
    shutil.copy(folder / "token", token)
    uds = "/run/edgekd-runtime/50%i"
    done = run("print", "--socket", bundle, "--token-file", token, "--uds", uds, "--json")
    files = json.loads(done.stdout)["files"]
    service_lines = lines(files["edgekd-runtime.service"])
    assert f"LoadCredential=token:{folder}/50%%d/token" in service_lines
    assert any(f"serve {folder}/50%%d/a.edgekd" in line and "%d/token" in line for line in service_lines)
    assert "ListenStream=/run/edgekd-runtime/50%%i" in lines(files["edgekd-runtime.socket"])


@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_a_folder_that_the_service_cannot_pass_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Of a home only the bundle's own folder is bound, so what is above it does not matter; elsewhere it does."""
    bundle = folder / "above" / "own" / "a.edgekd"
    bundle.parent.mkdir(parents=True)
    shutil.copy(folder / "a model.edgekd", bundle)
    bundle.parent.parent.chmod(0o700)
    bundle.parent.chmod(mode)
    passes = mode == 0o711
    done = run("print", bundle)
    assert (done.exit_code == 0) == passes
    assert passes or f"chmod o+x {bundle.parent}" in done.stderr
    done = run("print", "--model-dir", bundle.parent)
    assert (done.exit_code, f"chmod o+{'r' if passes else 'x'} {bundle.parent}" in done.stderr) == (1, True)
    monkeypatch.setattr(service, "_HIDDEN", ())
    done = run("print", bundle)
    first = next(path for path in reversed(bundle.parents) if not path.stat().st_mode & 0o001)
    assert (done.exit_code, f"chmod o+x {first}" in done.stderr) == (1, True)


def test_what_a_group_may_read_its_service_may(folder: Path) -> None:
    bundle, group = folder / "a model.edgekd", grp.getgrgid(folder.stat().st_gid).gr_name
    folder.chmod(0o750)
    bundle.chmod(0o640)
    assert run("print", bundle).exit_code == 1
    assert run("print", "--group", group, bundle).exit_code == 0
    folder.chmod(0o705)
    assert f"chmod g+x {folder}" in run("print", "--group", group, bundle).stderr


def test_what_can_be_wrong_is_said(folder: Path) -> None:
    bundle = folder / "a model.edgekd"
    (folder / "private.edgekd").write_bytes(bundle.read_bytes())
    (folder / "private.edgekd").chmod(0o600)
    for arguments, code, said in (
        ((), 2, "SERVE ARGUMENTS"),
        (("--port", "9000"), 2, "BUNDLE, or --model-dir"),
        ((bundle, "--nothing"), 2, "No such option"),
        ((bundle, "--port", "x"), 2, "not a valid integer"),
        ((bundle, "--port", "80"), 2, "add --socket"),
        (("--socket", bundle, "--port", "0"), 2, "wants a port"),
        (("--socket", bundle, "--host", "shop.local", "--token-file", folder / "token"), 2, "an address, not a name"),
        (("--socket", bundle, "--ipc", "/run/edgekd-runtime/ipc"), 2, "/run/edgekd-runtime/ipc/socket"),
        ((bundle, "--uds", "/tmp/s"), 2, "/run/edgekd-runtime"),
        ((bundle, "--ipc", "/run/s"), 2, "/run/edgekd-runtime"),
        ((bundle, "--name", "../x"), 2, "not a unit's name"),
        ((bundle, "--memory-max", "lots"), 2, "not a size"),
        ((bundle, "--token-file", folder / "none"), 2, "No such file"),
        ((folder / "none.edgekd",), 1, "No such file"),
        ((folder / "private.edgekd",), 1, "chmod o+r"),
    ):
        done = run("print", *arguments)
        assert (done.exit_code, said in done.stderr) == (code, True), (arguments, done.output)
        assert "Traceback" not in done.output


def test_install_and_uninstall(folder: Path) -> None:
    units = folder / "units"
    done = run("install", "--unit-dir", units, "--socket", folder / "a model.edgekd", "--json")
    names = {"edgekd-runtime.service", "edgekd-runtime.socket"}
    written = sorted(str(units / name) for name in names)
    assert json.loads(done.stdout) == {"written": written, "removed": [], "started": False}
    assert {path.name for path in units.iterdir()} == names
    again = run("install", "--unit-dir", units, folder / "a model.edgekd")
    assert again.exit_code == 0
    assert "start it: systemctl enable --now edgekd-runtime" in again.stdout
    assert f"removed {units / 'edgekd-runtime.socket'}" in again.stdout
    assert [path.name for path in units.iterdir()] == ["edgekd-runtime.service"]
    removed = run("uninstall", "--unit-dir", units)
    assert removed.exit_code == 0
    assert list(units.iterdir()) == []
    assert run("uninstall", "--unit-dir", units).exit_code == 1


class Systemd:
    """As much of it as ``install`` relies on. ``ran``: the text with which the service was last started."""

    def __init__(self, units: Path) -> None:
        self.units, self.ran, self.fails = units, "", ""
        self.enabled: set[str] = set()
        self.active: set[str] = set()

    def run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        verb, *names = (word for word in command[1:] if not word.startswith("--"))
        error = "" if verb == "daemon-reload" else self._does(verb, names, "--now" in command)
        return subprocess.CompletedProcess(command, 1 if error else 0, "", error)

    def _does(self, verb: str, names: list[str], now: bool) -> str:
        if missing := [name for name in names if not (self.units / name).exists()]:
            return f"{missing} does not exist"
        if verb == "is-enabled":
            return "" if self.enabled.issuperset(names) else "disabled"
        if verb == "is-active":
            return "" if self.active.issuperset(names) else "inactive"
        if verb == "enable":
            self.enabled.update(names)
        if verb == "disable":
            self.enabled.difference_update(names)
        if verb == "restart" or (verb == "disable" and now):
            self._stop(names)
        if verb in ("start", "restart") or (verb == "enable" and now):
            return "".join(map(self._start, names))
        return ""

    def _stop(self, names: list[str]) -> None:
        self.active.difference_update(names)
        if "shop.socket" in names:  # which the service requires
            self.active.discard("shop.service")

    def _start(self, name: str) -> str:
        if name in self.active:
            return ""
        if name.endswith(".socket"):
            if "shop.service" in self.active:
                return "Socket service shop.service already active, refusing."
            self.active.add(name)
            return ""
        unit = (self.units / name).read_text()
        if self.fails and self.fails in unit:
            return "Job failed."
        refused = self._start("shop.socket") if "Requires=shop.socket" in unit else ""
        if not refused:
            self.active.add(name)
            listens = (self.units / "shop.socket") if "shop.socket" in self.active else None
            self.ran = (listens.read_text() if listens and listens.exists() else "") + unit
        return refused


@pytest.fixture
def systemd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    one = Systemd(folder / "units")
    monkeypatch.setattr(service, "runs_systemd", lambda: True)
    monkeypatch.setattr(service.subprocess, "run", one.run)
    return one


def install(folder: Path, *arguments: str) -> Result:
    return run("install", "--unit-dir", folder / "units", "--name", "shop", folder / "a model.edgekd", *arguments)


def test_systemd_starts_what_is_installed(folder: Path, systemd: Systemd) -> None:
    assert install(folder).exit_code == 0
    assert (systemd.enabled, systemd.active) == ({"shop.service"}, {"shop.service"})
    assert run("uninstall", "--unit-dir", folder / "units", "--name", "shop").exit_code == 0
    assert (systemd.enabled, systemd.active) == (set(), set())


@pytest.mark.parametrize("first", [(), ("--socket",)])
@pytest.mark.parametrize("then", [(), ("--socket",)])
def test_another_install_takes_the_place_of_the_first(
    folder: Path, systemd: Systemd, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    assert install(folder, *first, "--port", "9001").exit_code == 0
    done = install(folder, *then, "--port", "9002")
    assert done.exit_code == 0, done.output
    assert systemd.enabled == {"shop.socket" if then else "shop.service"}
    assert systemd.active == ({"shop.socket", "shop.service"} if then else {"shop.service"})
    assert "--port 9002" in systemd.ran
    assert ("ListenStream=127.0.0.1:9002" in systemd.ran) == bool(then)
    assert {path.name for path in (folder / "units").iterdir()} == systemd.active


@pytest.mark.parametrize("first", [(), ("--socket",)])
@pytest.mark.parametrize("then", [(), ("--socket",)])
def test_an_install_that_fails_leaves_what_stood(
    folder: Path, systemd: Systemd, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    units = folder / "units"
    install(folder, *first, "--port", "9001")
    before = {path.name: path.read_text() for path in units.iterdir()}, set(systemd.enabled), set(systemd.active)
    systemd.fails = "--port 9002"
    done = install(folder, *then, "--port", "9002")
    assert (done.exit_code, "Job failed.; what stood before stands again" in done.stderr) == (1, True), done.output
    assert ({path.name: path.read_text() for path in units.iterdir()}, systemd.enabled, systemd.active) == before
    assert "--port 9001" in systemd.ran


def test_a_first_install_that_fails_leaves_nothing(folder: Path, systemd: Systemd) -> None:
    systemd.fails = "--port"
    done = install(folder, "--socket", "--port", "9001")
    assert (done.exit_code, "nothing is installed" in done.stderr) == (1, True), done.output
    assert (list((folder / "units").iterdir()), systemd.enabled, systemd.active) == ([], set(), set())


def test_what_could_not_be_put_back_is_said(folder: Path, systemd: Systemd) -> None:
    install(folder, "--port", "9001")
    systemd.fails = "--port"
    done = install(folder, "--port", "9002")
    assert (done.exit_code, "could not be put back: systemctl start shop.service" in done.stderr) == (1, True)


def test_units_are_written_without_a_start(folder: Path, systemd: Systemd) -> None:
    install(folder, "--socket", "--port", "9001")
    assert install(folder, "--no-start", "--port", "9002").exit_code == 0
    assert [path.name for path in (folder / "units").iterdir()] == ["shop.service"]
    assert (systemd.enabled, systemd.active) == (set(), set())  # a socket without its unit would be in the way


def test_only_root_installs(folder: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, "--port", "9001")
    monkeypatch.setattr(service.os, "access", lambda _, mode: mode != os.W_OK)
    done = install(folder, "--socket")
    assert (done.exit_code, "run it as root" in done.stderr) == (1, True)
    assert systemd.active == {"shop.service"}


@pytest.mark.parametrize(("argument", "word"), [("a", "a"), ("a b", '"a b"'), ("50%", "50%%"), ("$x", "$$x")])
def test_words_of_a_command(argument: str, word: str) -> None:
    assert service._quoted(argument) == word
    assert service._quoted("") == '""'
    assert service._quoted('a"b\\') == '"a\\"b\\\\"'
    assert service._quoted("%d/token") == "%d/token"
    assert service._quoted("/50%d/token") == "/50%%d/token"


@needs_systemd
@pytest.mark.parametrize("by_socket", [False, True])
def test_systemd_takes_the_units_and_finds_them_tight(folder: Path, by_socket: bool) -> None:
    units = folder / "units"
    options, ipc = (("--socket",), "ipc/socket") if by_socket else ((), "ipc")
    arguments = (
        "--token-file",
        folder / "token",
        "--uds",
        "/run/edgekd-runtime/socket",
        "--ipc",
        f"/run/edgekd-runtime/{ipc}",
    )
    done = run("install", "--unit-dir", units, *options, folder / "a model.edgekd", *arguments)
    assert done.exit_code == 0, done.output
    names = [str(path) for path in sorted(units.iterdir())]
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True)
    complaints = [line for line in verified.stderr.splitlines() if "edgekd-runtime" in line]
    assert (verified.returncode, complaints) == (0, [])
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", names[0]]
    rated = subprocess.run(command, capture_output=True, text=True)
    assert rated.returncode == 0, rated.stdout[-300:]  # exposure 2.0 of 10 at most
