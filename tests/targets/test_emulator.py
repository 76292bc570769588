"""What the emulator does before QEMU starts: stamps, cache, markers, launcher, errors. Needs no network."""

import os
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekd_targets import emulator, suite, sysroot, wheels
from edgekd_targets.board import Board, load_board
from edgekd_targets.cache import cached, prune, stamp
from edgekd_targets.errors import EmulatorError, PackagesError, ToolMissingError


@pytest.fixture
def board() -> Board:
    return load_board("cortex-a53")


def make_wheel(folder: Path, name: str, requires: Sequence[str] = (), tag: str = "py3-none-any") -> Path:
    """Write a wheel that holds one module and these ``Requires-Dist`` lines."""
    info = f"{name}-1.0.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        "Version: 1.0",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    path = folder / f"{name}-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


# --- the cache ---


def test_stamp_changes_with_every_part_and_with_their_borders() -> None:
    recipes = [("a", "b"), ("ab",), ("a", "c"), ("b", "a"), ("a", "b", "")]
    assert len({stamp(recipe) for recipe in recipes}) == len(recipes)
    assert stamp(("a", "b")) == stamp(["a", "b"])


def test_cache_fills_once_and_knows_the_final_path(tmp_path: Path) -> None:
    calls = []

    def fill(draft: Path, final: Path) -> None:
        calls.append(final)
        (draft / "content").write_text(str(final))

    first = cached(tmp_path / "new", "core", ["a"], fill)
    assert cached(tmp_path / "new", "core", ["a"], fill) == first
    assert calls == [first]
    assert (first / "content").read_text() == str(first)
    assert cached(tmp_path / "new", "core", ["b"], fill) != first


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def fill(draft: Path, final: Path) -> None:
        (draft / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "core", ["a"], fill)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_builds_at_once_counts(tmp_path: Path) -> None:
    def fill(draft: Path, final: Path) -> None:
        (draft / "by").write_text("second")
        final.mkdir()
        (final / "by").write_text("first")

    assert (cached(tmp_path, "core", ["a"], fill) / "by").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_prune_removes_old_entries_and_drafts_but_nothing_foreign(tmp_path: Path) -> None:
    for name in ("core-0123456789abcdef", ".sysroot-0123456789abcdef-x_1", "core-mine", "notes"):
        (tmp_path / name).mkdir()
    prune(tmp_path, keep_days=1)
    assert len(list(tmp_path.iterdir())) == 4
    prune(tmp_path, keep_days=-1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["core-mine", "notes"]


# --- packages ---


def test_markers_are_those_of_the_board(board: Board) -> None:
    requirements = [
        "everywhere>=1",
        "arm==2.1.0; platform_machine == 'aarch64'",
        "intel; platform_machine == 'x86_64'",
        "armv7; platform_machine == 'armv7l'",
        "old; python_version < '3.12'",
        "new; python_version >= '3.12'",
        "windows; sys_platform == 'win32'",
        "fast[cpu]; extra == 'serve' and platform_machine == 'aarch64'",
    ]
    assert wheels.for_board(requirements, board) == ["arm==2.1.0", "everywhere>=1", "old"]
    with_extra = wheels.for_board(requirements, board, ["serve"])
    assert with_extra == ["arm==2.1.0", "everywhere>=1", "fast[cpu]", "old"]
    other = replace(board, arch="armv7l")
    assert wheels.for_board(requirements, other) == ["armv7", "everywhere>=1", "old"]


def test_invalid_requirement_is_named(board: Board) -> None:
    with pytest.raises(PackagesError, match="'a b c' is not a valid requirement"):
        wheels.for_board(["a b c"], board)


def test_own_wheels_are_not_asked_of_an_index(board: Board, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "edgekd_runtime", ["click", "edgekd-runtime[serve]; extra == 'all'"])
    assert wheels.third_party(["pytest"], [wheel], board, ["all"]) == ["click", "pytest"]


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "x-1.0-py3-none-any.whl"
    broken.write_text("no zip")
    with pytest.raises(PackagesError, match="not a readable wheel"):
        wheels.wheel_requirements(broken)


def test_pip_chooses_for_the_board(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheel tags and the markers of indirect requirements are the board's, whatever this machine is."""
    index = tmp_path / "index"
    index.mkdir()
    make_wheel(index, "app", ["arm; platform_machine=='aarch64'", "intel; platform_machine!='aarch64'"])
    make_wheel(index, "arm", ["young; python_version>='3.12'", "grown; python_version<'3.12'"])
    make_wheel(index, "grown", tag="cp311-cp311-manylinux_2_28_aarch64")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr(wheels, "precompile", lambda *_: None)
    folder = wheels.install_packages(board, tmp_path / "sysroot", tmp_path / "cache", ["app"])
    assert sorted(file.name for file in folder.glob("*.py")) == ["app.py", "arm.py", "grown.py"]

    with pytest.raises(PackagesError, match=r"aarch64: .*intel"):
        wheels.install_packages(board, tmp_path / "sysroot", tmp_path / "cache", ["intel"])


def test_missing_packages_are_found(board: Board, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "app", ["gone", "intel; platform_machine=='x86_64'"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    gaps = wheels.missing_packages(board, [tmp_path / "site"], ["app>=2"])
    assert gaps == ["the request needs app>=2", "app needs gone"]
    assert wheels.missing_packages(board, [tmp_path / "empty"], []) == []


def test_a_package_from_debian_is_not_asked_of_an_index(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, from_debian = tmp_path / "index", wheels.dist_packages(tmp_path / "sysroot")
    index.mkdir()
    make_wheel(index, "app", ["numpy>=1.20"])
    make_wheel(index, "choosy", ["numpy>=2"])
    (from_debian / "numpy-1.24.2.egg-info").mkdir(parents=True)
    (from_debian / "numpy-1.24.2.egg-info" / "PKG-INFO").write_text(
        "Metadata-Version: 2.1\nName: numpy\nVersion: 1.24.2\n"
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr(wheels, "precompile", lambda *_: None)
    with_numpy = replace(board, debian_python=("numpy",))
    folder = wheels.install_packages(with_numpy, tmp_path / "sysroot", tmp_path / "cache", ["app"])
    assert sorted(entry.name for entry in folder.iterdir()) == ["app-1.0.dist-info", "app.py"]
    with pytest.raises(PackagesError, match="numpy"):
        wheels.install_packages(with_numpy, tmp_path / "sysroot", tmp_path / "cache", ["choosy"])
    with pytest.raises(EmulatorError, match="python3-scipy is not in"):
        wheels.debian_versions(replace(board, debian_python=("scipy",)), tmp_path / "sysroot")


# --- the sysroot and the launcher ---


def fake_program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_clear_error_without_qemu(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="qemu-aarch64 is not installed; run: apt-get install qemu-user"):
        emulator.build(board, cache_dir=tmp_path / "cache", requirements=[])
    fake_program(tmp_path, "qemu-aarch64", "exit 0")
    with pytest.raises(ToolMissingError, match="mmdebstrap is not installed"):
        emulator.build(board, cache_dir=tmp_path / "cache", requirements=[])
    assert list((tmp_path / "cache").iterdir()) == []


def test_mmdebstrap_error_is_passed_on_without_passwords(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_program(tmp_path, "mmdebstrap", "echo 'E: no http://user:secret@mirror here' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulatorError, match="no http://mirror here") as caught:
        sysroot.build_sysroot(board, tmp_path / "cache")
    assert "secret" not in str(caught.value)


def test_mirrors_are_those_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sysroot._mirrors() == []
    main, security = "deb http://m/debian bookworm main", "deb http://m/sec bookworm-security main"
    fake_program(tmp_path, "apt-get", f"echo '{main}\n{security}\n{main}\ndeb http://m/x other main\n'")
    assert sysroot._mirrors() == [main]
    fake_program(tmp_path, "apt-get", f"echo '{security}'")
    assert sysroot._mirrors() == []


def test_blas_is_linked_as_debian_would(tmp_path: Path) -> None:
    (tmp_path / "blas").mkdir()
    for name in ("libblas.so.3", "libother.so.3"):
        (tmp_path / "blas" / name).write_text("")
    sysroot._link_alternatives(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_symlink()] == ["libblas.so.3"]
    assert (tmp_path / "libblas.so.3").readlink() == Path("blas/libblas.so.3")


def test_launcher_names_itself_and_pairs_cpu_with_root(board: Board, tmp_path: Path) -> None:
    fake_program(tmp_path, "qemu", 'echo "$OPENBLAS_NUM_THREADS"; for arg; do echo "$arg"; done')
    core = tmp_path / "a core"
    script = tmp_path / "python3"
    script.write_text(emulator.launcher(board, str(tmp_path / "qemu"), tmp_path / "sys", core))
    output = subprocess.run(["sh", script, "-c", "a b"], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [
        os.environ.get("OPENBLAS_NUM_THREADS", "1"),
        *("-cpu", "cortex-a53", "-0", f"{core}/venv/bin/python3", "-L", f"{core}/root"),
        *(f"{tmp_path}/sys/usr/bin/python3.11", "-c", "a b"),
    ]


def test_run_keeps_the_host_s_packages_out(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    fake_program(tmp_path / "bin", "python3", 'echo "$1 [$PYTHONPATH] $MINE"; [ "$1" != slow ] || exec sleep 9')
    monkeypatch.setenv("PYTHONPATH", "/host")
    emulated = emulator.Emulated(board, tmp_path, tmp_path, tmp_path)
    assert emulated.run(["x"], {"MINE": "1"}).stdout == "x [] 1\n"
    assert emulated.run(["x"], {"PYTHONPATH": "/guest"}).stdout == "x [/guest] \n"
    with pytest.raises(EmulatorError, match=r"slow did not end within 0\.2 s on cortex-a53"):
        emulated.run(["slow"], timeout=0.2)


# --- the suite's command line ---


def suite_arguments(tmp_path: Path, *more: str) -> list[str]:
    wheel = make_wheel(tmp_path, "edgekd_runtime")
    return ["--runtime-wheel", str(wheel), "--tests", str(tmp_path), "--board", "cortex-a53", *more]


def test_suite_fails_if_one_board_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fake_build(board: Board, **options: object) -> emulator.Emulated:
        return emulator.Emulated(board, tmp_path, tmp_path, tmp_path)

    def fake_run_suite(emulated: emulator.Emulated, *arguments: object) -> bool:
        seen.append((emulated.board.name, arguments))
        return emulated.board.name != "cortex-a53"

    monkeypatch.setattr(suite, "build", fake_build)
    monkeypatch.setattr(suite, "run_suite", fake_run_suite)
    arguments = suite_arguments(tmp_path, "--board", "cortex-a76", "--env", "A=b=c", "--", "-k", "x")
    result = CliRunner().invoke(suite.main, arguments)
    assert result.exit_code == 1
    assert "cortex-a76: passed" in result.output
    assert "tests failed on cortex-a53" in result.output
    assert seen[1] == ("cortex-a76", (tmp_path, {"A": "b=c"}, ("-k", "x"), None))


@pytest.mark.parametrize(("more", "code"), [(["--env", "A"], 2), (["--board", "nope"], 2)])
def test_suite_usage_errors(tmp_path: Path, more: list[str], code: int) -> None:
    assert CliRunner().invoke(suite.main, suite_arguments(tmp_path, *more)).exit_code == code


def test_suite_uses_a_pytest_ini_beside_the_tests_only(tmp_path: Path) -> None:
    assert os.devnull in suite.pytest_args(tmp_path, [])
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    assert str(tmp_path / "pytest.ini") in suite.pytest_args(tmp_path, ["-x"])
