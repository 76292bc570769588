"""PyTorch → ONNX → float32 ``.tflite``: exported programs; pickled modules and TorchScript where they are trusted."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import LoadError
from edgekd_converters.load import onnx as onnx_front_end
from edgekd_converters.load.columns import BATCH, Outputs, in_batches
from edgekd_converters.load.naming import unique
from edgekd_converters.load.shapes import settle
from edgekd_converters.load.source import Layer, LoadOptions, Source
from edgekd_converters.load.torch_guard import REMEDY, Kind, check_program, foreign_classes, kind_of
from edgekd_converters.observe import Feed
from edgekd_converters.quiet import quiet

_OPSET = 20  # the first that has GELU as one op
_TRAINING = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}  # op → position of its argument "training"


def open_source(path: Path, options: LoadOptions) -> Source:
    """A ``.pt2`` of ``torch.export.save``; with ``options.trust`` also a module of ``torch.save`` and TorchScript.

    Inputs have the names of ``forward``'s arguments; outputs the keys of the dict it returns, or ``output``,
    ``output_0``, … Nothing is unpickled without trust. Raises ``LoadError``.
    """
    kind = kind_of(path)
    if kind != "program":
        _require_trust(path, kind, options)
    torch = _import_torch()
    if kind == "program":
        if not options.trust:
            check_program(path)
        return _from_program(path, _load_program(torch, path, options.trust), options, "pt2")
    module = _load_module(torch, path, kind)
    examples = _examples(torch, path, module, options.shapes)
    program = _exported(torch, str(path), module, tuple(examples.values()))
    return _from_program(path, program, options, "torch", list(examples))


def load_module(module: Any, examples: tuple[Any, ...], options: LoadOptions | None = None) -> Source:
    """A ``torch.nn.Module`` in memory. ``examples``: what it takes, with a batch of 1. Raises ``LoadError``."""
    torch, name = _import_torch(), type(module).__name__
    program = _exported(torch, name, copy.deepcopy(module), examples)  # a copy, for it is put into evaluation mode
    return _from_program(Path(name), program, options or LoadOptions(), "torch")


def _require_trust(path: Path, kind: Kind, options: LoadOptions) -> None:
    """Weights alone are refused in any case: the code that uses them is not in the file."""
    if kind == "weights":
        raise LoadError(f"{path}: holds weights alone (a state_dict), not the model; load them into it, then {REMEDY}")
    if options.trust:
        return
    if kind == "script":
        raise LoadError(f"{path}: holds TorchScript, which is code; allow it with --trust, or better {REMEDY}")
    found = foreign_classes(path)
    named = ", ".join(
        sorted(found, key=lambda name: (name.startswith(("torch.", "collections.", "__builtin")), name))[:4]
    )
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    raise LoadError(
        f"{path}: a pickled module ({named}{more}), which is code; allow it with --trust, or better {REMEDY}"
    )


def _import_torch() -> Any:
    """PyTorch with its exporter, without their log lines."""
    try:
        with quiet():
            importlib.import_module("onnxscript")
            return importlib.import_module("torch")
    except ImportError as error:
        raise LoadError(
            f"{error.name or 'torch'} is missing; this needs PyTorch: pip install 'edgekd[torch]'"
        ) from error


@contextlib.contextmanager
def _weights_only(trust: bool) -> Iterator[None]:
    """``torch.load``, wherever PyTorch calls it, makes nothing but tensors."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "0" if trust else "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """PyTorch tells of every torchvision op that it does not know, and logs the errors that it raises."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with quiet(), contextlib.redirect_stdout(None):
            yield
    finally:
        logging.disable(disabled)


def _load_program(torch: Any, path: Path, trust: bool) -> Any:
    try:
        with _silent(), _weights_only(trust):
            program = torch.export.load(path)
    except Exception as error:  # PyTorch raises whatever is wrong with the archive
        raise LoadError(f"{path}: PyTorch {torch.__version__} cannot load it: {_one_line(error)}") from error
    for node in program.graph.nodes:
        position = _TRAINING.get(str(node.target))
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise LoadError(f"{path}: was exported in training mode ({node.name}); export model.eval()")
    return program


def _load_module(torch: Any, path: Path, kind: Kind) -> Any:
    try:
        with _silent():
            loaded = torch.jit.load(path) if kind == "script" else torch.load(path, "cpu", weights_only=False)
    except Exception as error:  # unpickling runs anything
        hint = "; its class must be importable here" if isinstance(error, AttributeError | ImportError) else ""
        raise LoadError(f"{path}: PyTorch cannot load it: {_one_line(error)}{hint}") from error
    if not isinstance(loaded, torch.nn.Module):
        raise LoadError(f"{path}: holds a {type(loaded).__name__}, not a torch.nn.Module; write one with {REMEDY}")
    return loaded


def _examples(torch: Any, path: Path, module: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Float32 inputs for a module, whose file does not say what it takes."""
    if isinstance(module, torch.jit.ScriptModule):
        names = [argument.name for argument in module.forward.schema.arguments[1:] if not argument.has_default_value()]
    else:
        parameters = inspect.signature(module.forward).parameters.values()
        names = [one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    try:
        sizes = settle(dict.fromkeys(names), shapes)
    except LoadError as error:
        raise LoadError(f"{path}: a module's file does not say its inputs' sizes: {error}") from error
    return {name: torch.zeros(sizes[name]) for name in names}


def _exported(torch: Any, name: str, module: Any, examples: tuple[Any, ...]) -> Any:
    try:
        with _silent(), torch.no_grad():
            if isinstance(module, torch.jit.ScriptModule):
                converter = importlib.import_module("torch._export.converter").TS2EPConverter
                return converter(module.eval(), examples).convert()
            return torch.export.export(module.eval(), examples)
    except Exception as error:  # the module's own code runs
        raise LoadError(f"{name}: torch.export cannot trace the module: {_one_line(error)}") from error


def _from_program(
    path: Path, program: Any, options: LoadOptions, name: str, public: Sequence[str] | None = None
) -> Source:
    """``public``: the inputs' names, where the program does not have them."""
    torch = _import_torch()
    inputs, outputs = _inputs(path, program), _output_names(torch, program)
    if public:
        inputs = dict(zip(public, inputs.values(), strict=True))
    settled = settle({key: _sizes(value) for key, value in inputs.items()}, options.shapes)
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        file = Path(folder) / "model.onnx"
        _write_onnx(torch, path, program, file, list(inputs), outputs)
        try:
            source = onnx_front_end.open_source(file, replace(options, shapes=settled))
        except LoadError as error:
            raise LoadError(str(error).replace(str(file), f"{path} as ONNX")) from error
    call, layers = _runners(torch, program, inputs, outputs)
    batch = BATCH if all(not isinstance(value.shape[0], int) for value in inputs.values()) else 1
    dtypes = {key: np.dtype(str(value.dtype).removeprefix("torch.")) for key, value in inputs.items()}
    return replace(source, format=name, run=lambda columns: in_batches(call, columns, dtypes, batch), layers=layers)


def _inputs(path: Path, program: Any) -> dict[str, Any]:
    """Name of each tensor that ``forward`` takes → a tensor of its shape and dtype."""
    kinds = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    found = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind.name != "USER_INPUT":
            continue
        if type(spec.arg).__name__ == "TensorArgument":
            found[spec.arg.name] = kinds[spec.arg.name]
        elif type(spec.arg).__name__ != "ConstantArgument":
            raise LoadError(f"{path}: input {spec.arg.name!r} is a number, not a tensor; make it a constant")
    if not found:
        raise LoadError(f"{path}: the program takes no tensors, so there is nothing to run it on")
    return found


def _sizes(value: Any) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in value.shape]


def _output_names(torch: Any, program: Any) -> list[str]:
    """The keys that lead to each tensor, joined; where there are none, ``output``."""
    tree = program.call_spec.out_spec
    flat, _ = torch.utils._pytree.tree_flatten_with_path(
        torch.utils._pytree.tree_unflatten(range(tree.num_leaves), tree)
    )
    paths = [[str(getattr(key, "key", getattr(key, "idx", key))) for key in keys] for keys, _ in flat]
    names = ["_".join(["output", *keys] if not keys or keys[0].isdigit() else keys) for keys in paths]
    taken = list(program.graph_signature.user_inputs)
    return unique([*map(str, taken), *names])[len(taken) :]


def _write_onnx(torch: Any, path: Path, program: Any, file: Path, inputs: list[str], outputs: list[str]) -> None:
    try:
        with _silent(), torch.no_grad():
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs, opset_version=_OPSET
            )
            made.save(file, external_data=False)
    except Exception as error:  # torch.onnx wraps whatever it meets
        cause = error.__cause__ or error
        raise LoadError(f"{path}: torch.onnx cannot write the program as ONNX: {_one_line(cause)}") from error


def _runners(
    torch: Any, program: Any, inputs: Mapping[str, Any], outputs: list[str]
) -> tuple[Callable[[Feed], Outputs], Callable[[Feed], Iterator[Layer]]]:
    """One batch → the outputs; one sample → what every op makes, in order."""
    module, pytree = program.module(), torch.utils._pytree
    user = [spec.arg for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]

    def arguments(feed: Feed) -> tuple[list[Any], dict[str, Any]]:
        values = (torch.from_numpy(np.array(feed[name])) for name in inputs)
        flat = [one.value if type(one).__name__ == "ConstantArgument" else next(values) for one in user]
        positional, named = pytree.tree_unflatten(flat, program.call_spec.in_spec)
        return positional, named

    def call(feed: Feed) -> Outputs:
        positional, named = arguments(feed)
        with torch.no_grad():
            leaves = pytree.tree_leaves(module(*positional, **named))
        return {name: _array(leaf) for name, leaf in zip(outputs, leaves, strict=True)}

    def layers(feed: Feed) -> Iterator[Layer]:
        positional, named = arguments(feed)
        made: list[Layer] = []

        class Recorder(torch.fx.Interpreter):  # type: ignore[misc]
            def run_node(self, node: Any) -> Any:
                value = super().run_node(node)
                if node.op == "call_function" and isinstance(value, torch.Tensor):
                    made.append(Layer(_layer_name(node), str(node.target), _array(value)))
                return value

        with torch.no_grad():
            Recorder(module).run(*pytree.tree_leaves((positional, named)))
        return iter(made)

    return call, layers


def _layer_name(node: Any) -> str:
    """The module that the op stands in, as its owner knows it, and the op's own name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    where = str(stack[-1][0]) if stack else ""
    return f"{where}:{node.name}" if where else str(node.name)


def _array(value: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = value.detach().cpu().numpy()
    return array


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
