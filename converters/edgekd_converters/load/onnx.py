"""ONNX → float32 graph: simplified by onnxsim, converted by onnx2tf, checked against onnxruntime."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgekd_converters.errors import ConverterError, LoadError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.load.memory import allow_memory
from edgekd_converters.load.onnx2tf_call import CallError, NoSuchOpError, can_write_directly, knows, to_tflite
from edgekd_converters.load.onnx_edit import (
    expanded,
    with_formulas,
    with_output_shapes,
    with_plain_names,
    without_outputs,
)
from edgekd_converters.load.onnx_explicit import explicit
from edgekd_converters.load.onnx_file import filled_bytes, read_model
from edgekd_converters.load.onnx_gelu import with_gelus
from edgekd_converters.load.onnx_inputs import settle_inputs
from edgekd_converters.load.onnx_pool import with_plain_pools
from edgekd_converters.load.onnx_ports import Axes, Match, match
from edgekd_converters.load.onnx_prepare import (
    COMPOSITE,
    MODERN_OPSET,
    find_trivial,
    inferred,
    kept_as_they_are,
    normalised,
    of_opset,
    open_session,
    samples,
    simplified,
)
from edgekd_converters.load.onnx_session import Arrays, Port, Session
from edgekd_converters.load.onnx_signature import Result, publish
from edgekd_converters.load.onnx_volume import with_flat_pools
from edgekd_converters.load.source import LoadOptions, Source
from edgekd_converters.strides import fit_strides
from edgekd_converters.tflite_model import require_float32, with_fixed_sizes


def open_source(path: Path, options: LoadOptions) -> Source:
    """Read and convert an ONNX model with a batch of 1.

    An input or output whose first axis is not a batch gets one in front. float16 and float64 become float32.
    Raises ``SourceNotFoundError`` or ``LoadError``.
    """
    model = read_model(path)
    try:
        allow_memory(model.ByteSize() + filled_bytes(model))
        model, notes = normalised(model)
        session = open_session(model, settle_inputs(model, options.shapes))
        graph, layouts = _convert(session)
    except ConverterError as error:
        raise LoadError(f"{path}: {error}") from error
    return Source("onnx", graph, session.run, session.layers, layouts, tuple(notes))


@dataclass(frozen=True)
class _Attempt:
    """One way to call onnx2tf. ``keep``: inputs whose axes stay as they are."""

    model: onnx.ModelProto
    keep: tuple[str, ...]
    strict: bool
    direct: bool


def _convert(session: Session) -> tuple[Graph, dict[str, Axes]]:
    """The first attempt whose graph computes what the source does; failing that the one that comes nearest."""
    checks = samples(session)
    best: tuple[float, tuple[Graph, dict[str, Axes]]] | None = None
    first: LoadError | None = None
    troubled: set[tuple[str, str]] = set()
    for attempt in _attempts(session.model, checks[0][1], troubled):
        try:
            excess, made = _try(attempt, session, checks)
        except NoSuchOpError as error:
            first = error  # it tells more than what another backend made of the same op
            break
        except ConverterError as error:
            first = first or LoadError(str(error))
            if isinstance(error, CallError) and error.op:
                troubled.add(error.op)
            continue
        if best is None or excess < best[0]:
            best = (excess, made)
        if excess <= 1:
            break
    if best is None:
        raise first or LoadError("onnx2tf has no way to convert the model")
    return best[1]


def _attempts(model: onnx.ModelProto, outputs: Arrays, troubled: Set[tuple[str, str]]) -> Iterator[_Attempt]:
    """onnx2tf's known remedies, the likeliest first.

    ``troubled``: ops that it has failed at meanwhile. Last of all they are written out in plainer ones, and so are
    those that it may have got wrong.
    """
    model = with_output_shapes(model, {name: value.shape for name, value in outputs.items()})
    unknown = {(node.domain, node.op_type) for node in model.graph.node if not knows(node.op_type)}
    whole = inferred(with_formulas(expanded(model, unknown) if unknown else model))
    del model
    wide = tuple(value.name for value in whole.graph.input if 3 <= len(value.type.tensor_type.shape.dim) <= 5)

    @functools.cache  # each holds all weights, so none is made before its turn
    def form_of(*, simple: bool) -> onnx.ModelProto | None:
        form = simplified(of_opset(whole, MODERN_OPSET)) if simple else whole
        return None if form is None else _plainer(form)

    for direct in (True, False) if can_write_directly() else (False,):
        for simple in (True, False):
            if (form := form_of(simple=simple)) is not None:
                for keep in dict.fromkeys((tuple(kept_as_they_are(form)), wide, ())):
                    yield _Attempt(form, keep, True, direct)
    forms = [form for simple in (True, False) if (form := form_of(simple=simple)) is not None]
    modern = of_opset(whole, MODERN_OPSET)
    composite = troubled | {(node.domain, node.op_type) for node in modern.graph.node if node.op_type in COMPOSITE}
    if composite:
        modern = inferred(expanded(modern, composite))
        forms = [_plainer(form) for form in (simplified(modern) or modern, modern)]
        yield from (_Attempt(form, tuple(kept_as_they_are(form)), True, can_write_directly()) for form in forms)
    yield _Attempt(forms[0], tuple(kept_as_they_are(forms[0])), False, False)


def _plainer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what onnx2tf reads wrongly or writes badly."""
    return with_plain_pools(with_flat_pools(with_gelus(explicit(model))))


def _try(
    attempt: _Attempt, session: Session, checks: list[tuple[Arrays, Arrays]]
) -> tuple[float, tuple[Graph, dict[str, Axes]]]:
    trivial = find_trivial(attempt.model, checks)
    wanted = checks[0][1]
    results: dict[str, Result] = {**trivial.passed, **{name: wanted[name] for name in trivial.constant}}
    computed = [Port(name, value.dtype, value.shape) for name, value in wanted.items() if name not in results]
    if not computed:
        return 0.0, publish(None, session.inputs, {name: results[name] for name in wanted})
    model = without_outputs(attempt.model, results) if results else attempt.model
    names = [value.name for value in model.graph.input]
    inputs = [port for name in names for port in session.inputs if port.name == name]
    graph, found = _matched(attempt, model, inputs, computed, checks)
    results |= {one.port.name: one for one in found.outputs}
    used = {one.port.name: one for one in found.inputs}
    ordered = [used.get(port.name, port) for port in session.inputs]
    return found.excess, publish(graph, ordered, {name: results[name] for name in wanted})


def _matched(
    attempt: _Attempt,
    model: onnx.ModelProto,
    inputs: list[Port],
    outputs: list[Port],
    checks: list[tuple[Arrays, Arrays]],
) -> tuple[Graph, Match]:
    plain, nodes = with_plain_names(model)
    known_as = dict(zip((value.name for value in model.graph.input), (v.name for v in plain.graph.input), strict=True))
    keep = [known_as[name] for name in attempt.keep if name in known_as]
    content = to_tflite(plain, nodes, keep, strict=attempt.strict, direct=attempt.direct)
    graph = fit_strides(read_graph(content))
    require_float32(graph)
    if any(tensor.is_dynamic for tensor in graph.tensors):
        graph = with_fixed_sizes(graph, {tensor.index: tensor.shape for tensor in graph.inputs})
    return graph, match(graph, inputs, outputs, checks)
