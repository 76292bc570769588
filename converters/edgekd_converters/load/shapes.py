"""Sizes that a model leaves open: the batch becomes 1, the others are asked for, never guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgekd_converters.errors import LoadError

Declared = Mapping[str, Sequence[int | None] | None]
"""Input name → sizes in the source's own layout; None: an unknown size, or an unknown rank."""


def settle(declared: Declared, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """All sizes of all inputs, the batch of 1 included.

    Raises ``LoadError`` where one remains unknown, where ``given`` contradicts the model, or names no input of it.
    """
    for name in given:
        if name not in declared:
            raise LoadError(f"--shape {name}: the model has no such input; it has {_names(declared)}")
    return {name: _settle_one(name, sizes, given.get(name)) for name, sizes in declared.items()}


def _settle_one(name: str, sizes: Sequence[int | None] | None, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if sizes is None and given is None:
        raise LoadError(f"input {name!r} has no known number of axes; say --shape {name}=1,… with all its sizes")
    known: list[int | None] = list(sizes) if sizes is not None else [None] * len(given or ())
    if not known:
        raise LoadError(f"input {name!r} is a single number; every input needs a batch axis, so make it a constant")
    if known[0] not in (None, 1):
        raise LoadError(f"input {name!r} has a fixed batch of {known[0]}; export the model with a batch of 1")
    known[0] = 1
    if given is None:
        given = tuple(-1 if size is None else size for size in known)
        if -1 in given:
            shown = ", ".join("?" if size < 0 else str(size) for size in given)
            example = ",".join("128" if size < 0 else str(size) for size in given)
            raise LoadError(f"input {name!r} has unknown sizes [{shown}]; say which, such as --shape {name}={example}")
    fits = len(given) == len(known) and all(old in (None, new) for old, new in zip(known, given, strict=True))
    if not fits or min(given) < 1:
        shown = ", ".join("?" if size is None else str(size) for size in known)
        raise LoadError(f"--shape {name}={','.join(map(str, given))}: the model's input is [{shown}]")
    return given


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names))
