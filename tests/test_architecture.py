"""One roof on three rooms: who may import whom, and that nobody imports what he does not declare."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ROOMS = {
    "edgekd": ROOT / "sdk/edgekd",
    "edgekd_converters": ROOT / "converters/edgekd_converters",
    "edgekd_targets": ROOT / "targets/edgekd_targets",
    "edgekd_runtime": ROOT / "runtime/edgekd_runtime",
}
MAY_IMPORT = {
    "edgekd": set(ROOMS),
    "edgekd_converters": {"edgekd_converters"},
    "edgekd_targets": {"edgekd_targets"},
    "edgekd_runtime": {"edgekd_runtime"},
}
RUNTIME_MAY_IMPORT = {
    *("numpy", "click", "h11", "uvicorn", "ai_edge_litert", "tflite_runtime"),
    *("httptools", "orjson", "PIL", "cryptography"),  # extras
}
MAX_PACKAGES = 12
PYPROJECT = dict.fromkeys(ROOMS, ROOT / "pyproject.toml") | {"edgekd_runtime": ROOT / "runtime/pyproject.toml"}


def imported_names(source: str) -> set[str]:
    """Top-level packages of all imports, those inside functions and by ``import_module("…")`` included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            found |= {
                arg.value.split(".")[0]
                for arg in node.args
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            }
    return found


def imports_of(room: str) -> dict[str, set[Path]]:
    """Imported top-level package → files of the room that import it."""
    imports: dict[str, set[Path]] = {}
    for path in sorted(ROOMS[room].rglob("*.py")):
        for name in imported_names(path.read_text("utf-8")):
            imports.setdefault(name, set()).add(path.relative_to(ROOT))
    return imports


def third_party(room: str) -> dict[str, set[Path]]:
    own = {*ROOMS, *sys.stdlib_module_names}
    return {name: files for name, files in imports_of(room).items() if name not in own}


def declared(room: str) -> set[str]:
    """Normalised names of the distributions in ``dependencies`` and in the users' extras (not ``dev``)."""
    project = tomllib.loads(PYPROJECT[room].read_text("utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    lines = [*project["dependencies"], *(line for extra, many in extras.items() if extra != "dev" for line in many)]
    return {normal(Requirement(line).name) for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def loaded_after(statement: str, *packages: str) -> str:
    """Which of ``packages`` a fresh Python has loaded after ``statement``."""
    loaded = "{name.split('.')[0] for name in sys.modules}"
    code = f"import sys\n{statement}\nprint('\\n', *sorted({loaded} & set({packages!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].strip()


def test_the_reader_of_imports_sees_all_kinds() -> None:
    source = "import a.b\nfrom c.d import e\ndef f():\n import g\n importlib.import_module('h.i')\n import_module(name)"
    assert imported_names(source) == {"a", "c", "g", "h"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_files_and_imports_only_what_it_may(room: str) -> None:
    imports = imports_of(room)
    assert len(list(ROOMS[room].rglob("*.py"))) > 3
    wrong = {name: files for name, files in imports.items() if name in ROOMS and name not in MAY_IMPORT[room]}
    assert not wrong


def test_the_runtime_imports_nothing_beyond_its_list() -> None:
    assert set(third_party("edgekd_runtime")) <= RUNTIME_MAY_IMPORT


@pytest.mark.parametrize("room", ROOMS)
def test_every_third_party_import_is_declared(room: str) -> None:
    providers = importlib.metadata.packages_distributions()
    known = declared(room)
    undeclared = {
        name: files
        for name, files in third_party(room).items()
        # A module that is not installed here (tflite_runtime) must be declared under its own name.
        if not known & {normal(dist) for dist in providers.get(name, [name])}
    }
    assert not undeclared


def test_the_tool_depends_on_the_runtime() -> None:
    assert "edgekd-runtime" in declared("edgekd")


def installed_with(lines: list[str], extras: frozenset[str] = frozenset()) -> set[str]:
    """Names of the distributions that pip installs for these requirements, by the metadata of those that are here."""
    found = set()
    for requirement in map(Requirement, lines):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in ("", *extras)):
            below = importlib.metadata.requires(requirement.name) or []
            found |= {normal(requirement.name), *installed_with(below, frozenset(requirement.extras))}
    return found


def test_a_board_needs_few_packages() -> None:
    project = tomllib.loads(PYPROJECT["edgekd_runtime"].read_text("utf-8"))["project"]
    base = {normal(project["name"]), *installed_with(project["dependencies"])}
    assert {"numpy", "uvicorn", "click", "h11", "ai-edge-litert", "protobuf"} <= base
    assert len(base) <= MAX_PACKAGES, sorted(base)
    assert not base & installed_with(project["optional-dependencies"]["fast"])


@pytest.mark.parametrize("module", ["cli", "server", "serving", "engine", "bundle", "preprocess"])
def test_no_module_of_the_runtime_loads_the_developers_tools(module: str) -> None:
    heavy = (
        "PIL",
        "tensorflow",
        "keras",
        "tf_keras",
        "edgekd",
        "edgekd_converters",
        "edgekd_targets",
        "ai_edge_quantizer",
    )
    assert loaded_after(f"import edgekd_runtime.{module}", *heavy) == ""


def test_the_runtime_runs_a_bundle_without_tensorflow_installed(tmp_path: Path) -> None:
    """With the developer's packages made impossible to import, ``edgekd-runtime`` still starts."""
    blocked = "class B:\n def find_spec(self, name, *_):\n  if name.split('.')[0] in WORDS: raise ImportError(name)\n"
    words = "WORDS={'tensorflow','keras','edgekd','edgekd_converters','edgekd_targets','ai_edge_quantizer','rich'}\n"
    call = (
        "import sys; sys.meta_path.insert(0, B())\nfrom edgekd_runtime.cli import main\nmain(['info', 'none.edgekd'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", words + blocked + call],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.stderr.strip() == "edgekd-runtime: none.edgekd: no such file"
    assert done.returncode == 1


def test_the_command_itself_does_not_load_tensorflow() -> None:
    assert loaded_after("import edgekd.cli", "tensorflow", "keras", "ai_edge_quantizer", "onnxruntime") == ""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["distill", "--help"], ["convert", "--help"]])
def test_help_does_not_load_tensorflow(arguments: list[str]) -> None:
    call = f"from edgekd.cli import main\ntry: main({arguments!r})\nexcept SystemExit as e: assert e.code == 0"
    assert loaded_after(call, "tensorflow", "keras", "ai_edge_quantizer") == ""


def test_the_probe_for_loaded_modules_sees_them() -> None:
    assert loaded_after("import numpy, edgekd_runtime", "numpy", "edgekd_runtime", "click") == "edgekd_runtime numpy"
