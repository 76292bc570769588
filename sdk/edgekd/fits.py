"""Whether a model, what belongs to it and what is asked of it go together, told before any work is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from edgekd.errors import UsageError
from edgekd.options import ConvertOptions
from edgekd.student import Student
from edgekd_converters.cost import count_macs
from edgekd_converters.graph import Graph, Signature, Tensor
from edgekd_runtime.preprocess import TextNgram

_LEAST_SIGNAL = 16  # values; below, an input as large as the output is more likely some features of as many classes
_NUMBERS = ("BOOL", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "FLOAT32")


def public_inputs(graph: Graph) -> dict[str, Tensor]:
    """Public name → tensor, in the order of the signature."""
    return _public(graph.signature.inputs, graph)


def public_outputs(graph: Graph) -> dict[str, Tensor]:
    """Public name → tensor, in the order of the signature. The first is the one that is judged."""
    return _public(graph.signature.outputs, graph)


def count_classes(graph: Graph) -> int | None:
    """Classes of a classifier, whose first output is ``(1, classes)`` with two or more of them; None for any other."""
    shape = next(iter(public_outputs(graph).values())).shape
    return shape[1] if len(shape) == 2 and shape[1] > 1 and not is_autoencoder(graph) else None


def is_autoencoder(graph: Graph) -> bool:
    """Whether the only input and the first output are reals of one shape, as of a model that gives its input back."""
    inputs, outputs = list(public_inputs(graph).values()), list(public_outputs(graph).values())
    return len(inputs) == 1 and math.prod(inputs[0].shape) >= _LEAST_SIGNAL and _same_kind(inputs[0], outputs[0])


def _same_kind(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.dtype in ("FLOAT32", "INT8", "INT16")


def check_fits(options: ConvertOptions, student: Student, graph: Graph) -> None:
    """Raises ``UsageError`` naming what does not fit."""
    if isinstance(student.preprocess, TextNgram):
        _check_text(student, student.preprocess.length, student.preprocess.buckets, graph)
    for name, tensor in (public_inputs(graph) | public_outputs(graph)).items():
        if not tensor.shape or tensor.shape[0] != 1:
            raise UsageError(f"{student.model}: {name!r} is {list(tensor.shape)}; its first axis must be a batch of 1")
    for name, tensor in public_inputs(graph).items():
        if tensor.dtype not in _NUMBERS:
            raise UsageError(f"{student.model}: input {name!r} is {tensor.dtype}, which no array can hold")
    classes = count_classes(graph)
    if student.labels and len(student.labels) != classes:
        first = list(next(iter(public_outputs(graph).values())).shape)
        raise UsageError(f"{student.model}: gives {first}; there are {len(student.labels)} labels")
    if classes is None and options.out_of_scope is not None:
        raise UsageError("--out-of-scope is for classifiers, whose first output is [1, classes]")
    if options.prune and not count_macs(graph):
        raise UsageError(f"--prune: {student.model} has no multiply-accumulates to remove")
    if options.recover and options.recover.augment and not any(len(t.shape) == 4 for t in graph.inputs):
        raise UsageError(f"--augment is for images; no input of {student.model} is [1, height, width, channels]")


def as_teacher_of(student: Graph, teacher: Graph) -> Graph:
    """``teacher`` under the student's names, where a single input or output leaves no doubt which is meant.

    Raises ``UsageError`` when the two do not take and give the same.
    """
    signature = Signature(
        teacher.signature.key,
        _renamed(student.signature.inputs, teacher.signature.inputs),
        _renamed(student.signature.outputs, teacher.signature.outputs),
    )
    renamed = replace(teacher, signature=signature)
    for what, read in (("takes", public_inputs), ("gives", public_outputs)):
        wanted, got = _kinds(read(student)), _kinds(read(renamed))
        if wanted != got:
            raise UsageError(f"--teacher {what} {_listed(got)}; the student {what} {_listed(wanted)}")
    return renamed


def _renamed(student: Mapping[str, str], teacher: Mapping[str, str]) -> dict[str, str]:
    """In the student's order; names that it does not know stay, for the comparison to find."""
    if len(student) == len(teacher) == 1:
        return dict(zip(student, teacher.values(), strict=True))
    return {name: teacher[name] for name in (*student, *teacher) if name in teacher}


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def _listed(kinds: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name!r} {dtype} {list(shape)}" for name, (dtype, shape) in kinds.items())


def _public(names: Mapping[str, str], graph: Graph) -> dict[str, Tensor]:
    by_name = {tensor.name: tensor for tensor in graph.tensors}
    return {name: by_name[tensor] for name, tensor in names.items()}


def _check_text(student: Student, length: int, buckets: int, graph: Graph) -> None:
    inputs = [tensor.shape for tensor in public_inputs(graph).values()]
    outputs = [tensor.shape for tensor in public_outputs(graph).values()]
    if inputs != [(1, length)]:
        raise UsageError(f"{student.model}: takes {inputs}; preprocess.json makes (1, {length})")
    rows = [op.inputs[0].shape[0] for op in graph.ops if op.name == "GATHER" and op.inputs[0].is_constant]
    # The table of length normalisations has as many rows as a text has ids.
    if rows.count(buckets) < 1 + (buckets == length):
        raise UsageError(f"{student.model}: has no embedding of {buckets} rows, the buckets of preprocess.json")
    if outputs != [(1, len(student.labels))]:
        raise UsageError(f"{student.model}: gives {outputs}; labels.txt has {len(student.labels)} labels")
