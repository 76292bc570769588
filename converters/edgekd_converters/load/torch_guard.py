"""What a PyTorch file holds, told without PyTorch, and whether anything in it could run code.

``torch.export.load`` is not safe by itself: it unpickles what the archive says is pickled, loads compiled libraries,
and hands sizes, which are text, to ``sympify``, which evaluates them as Python.
"""

from __future__ import annotations

import ast
import io
import json
import pickletools
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from edgekd_converters.errors import LoadError, SourceNotFoundError

Kind = Literal["program", "script", "module", "weights"]

REMEDY = "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of ``torch.save`` began until 1.6, which were pickles and no zip archives."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError, KeyError)
_MOST_TEXT = 1 << 28  # bytes of one JSON or pickle; the largest programs have some 10 MB
_PICKLES = 4  # magic number, version, system, and then the object; behind them lie its tensors
_PROGRAM_MARKS = {"models/model.json", "serialized_exported_program.json"}
_WEIGHTS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
_SIZES = {  # what a size may be made of
    *("Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Max", "Min", "Abs", "true", "false"),
    *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv"),
    *("LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt"),
    *("RoundToInt", "RoundDecimal", "ToFloat", "Identity", "IsNonOverlappingAndDenseIndicator", "And", "Or", "Not"),
    *("Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "Eq", "Ne"),
}
_SIZE_PARTS = (
    *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub, ast.BinOp),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow),
)
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def kind_of(path: Path) -> Kind:
    """An exported program, TorchScript, a pickled module, or weights alone. Raises ``LoadError`` for anything else."""
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise LoadError(f"{path}: not a file of PyTorch's, or a damaged one; write it anew with {REMEDY}")
        return "weights" if not foreign_classes(path) else "module"
    with _opened(path) as archive:
        names = archive.namelist()
    if is_program(names):
        return "program"
    if any("/code/" in name for name in names):
        return "script"
    if not any(name.endswith("/data.pkl") for name in names):
        raise LoadError(f"{path}: a zip file without a PyTorch model in it; write one with {REMEDY}")
    return "weights" if not foreign_classes(path) else "module"


def is_program(names: Sequence[str]) -> bool:
    """Whether an archive of these entries is an exported program; today's PyTorch puts all into one folder."""
    return any(not _PROGRAM_MARKS.isdisjoint((name, name.partition("/")[2])) for name in names)


def foreign_classes(path: Path) -> tuple[str, ...]:
    """Classes and functions that unpickling the file would call, but for those that any weights need; none is run."""
    if zipfile.is_zipfile(path):
        with _opened(path) as archive:
            pickles = [_read(path, archive, name) for name in archive.namelist() if name.endswith("data.pkl")]
    else:
        with path.open("rb") as file:
            pickles = [file.read(_MOST_TEXT)]
    found = {name for pickled in pickles for name in _globals(path, pickled)}
    return tuple(sorted(name.replace(" ", ".") for name in found - _WEIGHTS if not _is_storage(name)))


def check_program(path: Path) -> None:
    """Raise ``LoadError`` naming what in an exported program's archive would run code, or does not fit in it."""
    with _opened(path) as archive:
        _check_entries(path, archive)
        for name in archive.namelist():
            if "/aotinductor/" in f"/{name}":
                raise LoadError(f"{path}: {name} is compiled code, which is not run; write the program with {REMEDY}")
            if name.endswith(".json"):
                try:
                    content = json.loads(_read(path, archive, name))
                except (ValueError, RecursionError) as error:
                    raise LoadError(f"{path}: {name} is damaged: {error}") from error
                _check_json(path, name, content)


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        raise LoadError(f"{path}: the archive has two entries of one name; PyTorch writes no such file")
    for entry in entries:
        if entry.filename.startswith("/") or ".." in entry.filename.replace("\\", "/").split("/"):
            raise LoadError(f"{path}: entry {entry.filename!r} leads out of the archive")
    # PyTorch stores without compression, so what is in the archive cannot be larger than it.
    declared, there = sum(entry.file_size for entry in entries), path.stat().st_size
    if declared > there:
        raise LoadError(
            f"{path}: the archive declares {declared:,} bytes but has only {there:,}; it is not PyTorch's own"
        )


def _check_json(path: Path, name: str, content: Any) -> None:
    for key, value in _walk(content):
        if key == "use_pickle" and value is True:
            raise LoadError(_refusal(path, f"{name} has a pickled tensor"))
        if key == "path_name" and not str(value).startswith(("weight_", "tensor_")):
            raise LoadError(_refusal(path, f"{name} has the pickled object {str(value)[:60]!r}"))
        if key == "expr_str" and not _is_size(value):
            raise LoadError(_refusal(path, f"{name} has {str(value)[:60]!r} where a size belongs"))
        if key in ("in_spec", "out_spec", "treespec") and not _is_spec(value):
            raise LoadError(f"{path}: {name}: inputs or outputs are held in classes other than tuple, list and dict")


def _refusal(path: Path, found: str) -> str:
    return f"{path}: {found}, and to open that would run code stored in the file; allow it with --trust if it is yours"


def _walk(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested JSON."""
    rest = [content]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            yield from value.items()
            rest += value.values()
        elif isinstance(value, list):
            rest += value


def _is_size(text: Any) -> bool:
    try:
        parts = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    plain = {name for name in names if name[:1] in "suf" and name[1:].isdigit()}  # s0, u1: symbols by their own names
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return (
        all(isinstance(part, _SIZE_PARTS) for part in parts)
        and names <= _SIZES | plain
        and all(isinstance(part.func, ast.Name) for part in parts if isinstance(part, ast.Call))
        and all(text.isidentifier() or text.replace(".", "", 1).isdigit() for text in texts)
    )


def _is_spec(text: Any) -> bool:
    """Whether a tree of inputs or outputs has only Python's own containers, whose making runs nothing."""
    try:
        _, tree = json.loads(text)
        return all(value in _CONTAINERS for key, value in _walk([tree]) if key == "type")
    except (ValueError, TypeError, RecursionError):
        return False


def _globals(path: Path, pickled: bytes) -> Iterator[str]:
    """``"module name"`` of everything that the opcodes look up."""
    texts: list[str] = []
    stream = io.BytesIO(pickled)
    try:
        for _ in range(_PICKLES if pickled.startswith(MAGIC) else 1):
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument)
                elif opcode.name == "STACK_GLOBAL":
                    yield " ".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
    except Exception as error:  # pickletools raises whatever a bad opcode leads to
        raise LoadError(f"{path}: its pickle is damaged: {error}") from error


def _is_storage(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    return module in ("torch", "torch.storage") and attribute.endswith("Storage")


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise LoadError(f"{path}: the archive is damaged: {error}") from error
    if min((entry.header_offset for entry in archive.infolist()), default=0):
        # Cut short, it ends within one of the archives that it holds.
        archive.close()
        raise LoadError(f"{path}: the archive is damaged or cut short")
    return archive


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        if archive.getinfo(name).file_size > _MOST_TEXT:
            raise LoadError(f"{path}: {name} has {archive.getinfo(name).file_size:,} bytes; no model needs so many")
        return archive.read(name)
    except _DAMAGED as error:
        raise LoadError(f"{path}: {name} is damaged: {error}") from error
