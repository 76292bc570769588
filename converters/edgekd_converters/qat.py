"""Quantisation-aware recovery: weights and ranges trained with int8's rounding, under a float graph, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.calibrate import Ranges
from edgekd_converters.distance import distance, logits_of, spread, squared_error
from edgekd_converters.errors import RecoverError
from edgekd_converters.fake_quant import FakeQuant, free_tensors
from edgekd_converters.graph import Graph
from edgekd_converters.limits import LAYERS
from edgekd_converters.observe import Columns
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Program
from edgekd_converters.quiet import import_tensorflow

_WARM_UP = 0.05
_OF_BIASES, _OF_RANGES = 3.0, 30.0  # learning rates, relative to that of weights


@dataclass(frozen=True)
class QatOptions:
    """``learning_rate``: of Adam, relative: of a weight to its channel's greatest. Biases move three times as fast,
    relative to the range of their layer's output, and the ends of ranges thirty times: they are few, and none but they
    tell how much is clipped."""

    steps: int
    batch: int = 64
    learning_rate: float = 3e-5
    seed: int = 0


@dataclass(frozen=True)
class QatResult:
    """A float graph and its ranges, for ``quantize_int8``. ``loss``: mean of the last twentieth of steps."""

    graph: Graph
    ranges: Ranges
    loss: float


def recover_int8(
    graph: Graph,
    teacher: Graph,
    ranges: Ranges,
    samples: Columns,
    options: QatOptions,
    on_step: Callable[[str], None] = lambda note: None,
) -> QatResult:
    """Train weights and biases of convolutions and dense layers, and the ranges of activations.

    Args:
        graph: a float graph that was conditioned for the quantiser; it has no normalisations any more.
        teacher: a float graph with the same public inputs and outputs; ``graph`` itself, or what it was pruned from.
        ranges: of every float activation of ``graph``, to begin with.
        samples: by input name, ``(n, …)``.

    Raises ``RecoverError`` when training diverges, ``UnsupportedOpError`` for an op that cannot run in TensorFlow.
    """
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(options.seed)
    trained = _Trained(graph, ranges)
    step = _train_step(trained, Program(teacher), options)
    losses: list[float] = []
    for part in _batches(len(next(iter(samples.values()))), options):
        losses.append(float(step({name: tf.constant(column[part]) for name, column in samples.items()})))
        if not np.isfinite(losses[-1]):
            raise RecoverError(f"training diverged at step {len(losses)}; take a smaller --qat-learning-rate")
        on_step(f"step {len(losses)}, loss {np.mean(losses[-50:]):.5f}")
    last = losses[-max(1, len(losses) // 20) :]
    return QatResult(graph.edited(trained.weights(), {}), trained.final_ranges(), float(np.mean(last)))


class _Trained:
    """Variables, all in relative units and 0 to begin with: so one learning rate fits them all."""

    def __init__(self, graph: Graph, ranges: Ranges) -> None:
        import keras

        self.rounding = FakeQuant(graph, ranges)
        self._start: dict[int, npt.NDArray[np.float32]] = {}
        self._unit: dict[int, npt.NDArray[np.float32]] = {}
        for op in graph.main:
            if op.name in LAYERS:
                _, bias, axis = LAYERS[op.name]
                low, high = self.rounding.ranges[op.outputs[0].name]
                self._add(graph, op.slots[1], axis, None)
                self._add(graph, op.slots[bias] if bias < len(op.slots) else None, None, high - low)
        self._root = free_tensors(graph)
        roots = sorted(set(self._root.values()))
        self._place = {index: place for place, index in enumerate(roots)}
        self._ends = np.array([self.rounding.ends[index] for index in roots], np.float32)
        self._moved = {index: keras.Variable(np.zeros_like(value)) for index, value in self._start.items()}
        self._stretch = keras.Variable(np.zeros_like(self._ends))

    @property
    def variables(self) -> list[Any]:
        return [*self._moved.values(), self._stretch]

    def constants(self) -> dict[int, Any]:
        return {index: self._start[index] + self._unit[index] * moved.value for index, moved in self._moved.items()}

    def ends(self) -> dict[int, tuple[Any, Any]]:
        """Ranges as they stand: either end by a factor of its own, so that none changes its sign."""
        now = self._ends * tf.exp(_OF_RANGES * self._stretch.value)
        return {
            **self.rounding.ends,
            **{i: (now[self._place[root], 0], now[self._place[root], 1]) for i, root in self._root.items()},
        }

    def weights(self) -> dict[int, npt.NDArray[Any]]:
        return {index: np.asarray(value, np.float32) for index, value in self.constants().items()}

    def final_ranges(self) -> Ranges:
        names, ends = self.rounding.graph.tensors, self.ends()
        return {names[index].name: (float(low), float(high)) for index, (low, high) in ends.items()}

    def _add(self, graph: Graph, tensor: Any, axis: int | None, unit: float | None) -> None:
        if tensor is None or not tensor.is_constant or tensor.dtype != "FLOAT32" or tensor.index in self._start:
            return
        value = graph.constant(tensor)
        self._start[tensor.index] = value
        if unit is None:
            unit = np.abs(value).max(tuple(k for k in range(value.ndim) if k != axis), keepdims=True)
        else:
            unit = _OF_BIASES * unit
        self._unit[tensor.index] = np.asarray(unit, np.float32)


def _train_step(trained: _Trained, teacher: Program, options: QatOptions) -> Any:
    import keras

    rate, warm = options.learning_rate, int(_WARM_UP * options.steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 10, options.steps - warm, warmup_target=rate, warmup_steps=warm
    )
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(trained.variables)
    graph = trained.rounding.graph
    copies = [tensor.shape in {given.shape for given in graph.inputs} for tensor in graph.results]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(feeds: dict[str, Any]) -> Any:
        wanted = logits_of(teacher.graph, teacher.run(feeds))
        with tf.GradientTape() as tape:
            made = logits_of(graph, trained.rounding.run(feeds, trained.constants(), trained.ends()))
            pairs = zip(made, wanted, strict=True)
            loss = tf.add_n([_apart(copy, *pair) for copy, pair in zip(copies, pairs, strict=True)])
        gradients = tape.gradient(loss, [one.value for one in trained.variables])
        known = [(g, v) for g, v in zip(gradients, trained.variables, strict=True) if g is not None]
        optimizer.apply(*map(list, zip(*known, strict=True)))
        return loss

    return step


def _apart(copy: bool, mine: Any, its: Any) -> Any:
    """What ``Judge`` measures too: an output like an input is no classifier's."""
    return squared_error(mine, its) if copy else distance(mine, its, spread(its))


def _batches(count: int, options: QatOptions) -> Iterator[npt.NDArray[np.int64]]:
    """Pass after pass in a new order, batches of one size."""
    rng, size, done = np.random.default_rng(options.seed), min(options.batch, count), 0
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            if done == options.steps:
                return
            yield np.sort(order[start : start + size])
            done += 1
