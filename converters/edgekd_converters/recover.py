"""Self-distillation on the graph: the original, or a better teacher, teaches the pruned graph on unlabelled samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters import augment
from edgekd_converters.distance import distance, hint_distance, hint_points, logits_of
from edgekd_converters.divergence import is_scores
from edgekd_converters.errors import RecoverError
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Program, verify_program
from edgekd_converters.quiet import import_tensorflow
from edgekd_converters.teaching import lessons
from edgekd_converters.trainable import EMBEDDING, LAST, Trainable

_STATISTICS_SAMPLES = 2048
_HELD_OUT = 0.05
_HELD_OUT_MOST = 1000
_WEIGHT_DECAY = 2e-4
_WARM_UP = 0.05

Labels = npt.NDArray[np.int32]
Batch = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RecoverOptions:
    """Loss: (1−α)·T²·KL to the teacher + α·cross-entropy of the labels, where there are any, + ``hints``·hint distance.

    ``alpha`` and ``temperature`` as in Hinton et al. 2015; outputs that are no classifier's take the squared error
    relative to the teacher's variance in place of both. ``augment``: any of ``flip`` and ``crop``, on image inputs.
    """

    steps: int
    batch: int = 128
    learning_rate: float = 3e-3
    temperature: float = 4.0
    alpha: float = 0.3
    hints: float = 0.0
    augment: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Recovered:
    """``loss``: mean of the last twentieth of steps. ``agreement``: with the teacher on held-out samples, 0 to 1."""

    graph: Graph
    loss: float
    agreement: float


def recover(
    student: Graph,
    teacher: Graph,
    samples: Columns,
    options: RecoverOptions,
    labels: Labels | None = None,
    on_step: Callable[[str], None] = lambda note: None,
) -> Recovered:
    """Train ``student``'s weights; the result is a float graph of the same shape.

    Args:
        student, teacher: float graphs with the same public inputs and outputs.
        samples: n training samples; 5 % of them (1,000 at most) are held out to measure agreement.
        labels: ``(n,) int32``, for a model whose first output is a classifier's.

    Raises ``RecoverError`` when the two do not fit each other, the samples do not suffice, or training diverges.
    """
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(options.seed)
    _check(student, teacher, samples, options, labels)
    rng = np.random.default_rng(options.seed)
    rows = rng.permutation(_count(samples))
    held = rows[: min(_HELD_OUT_MOST, int(_HELD_OUT * len(rows)))]
    trained = rows[len(held) :]
    fixed = [{name: column[part] for name, column in samples.items()} for part in _parts(trained, options.batch)]
    trainable, knowing = Trainable(student, fixed), Program(teacher)
    passes = options.steps * options.batch // len(rows)
    told = None if options.hints else lessons(knowing, samples, options.augment, options.batch, passes, rng)
    step = _train_step(trainable, knowing, options, labels is not None)
    losses = []
    for number, part in enumerate(_shuffled(trained, options, rng), 1):
        batch = augment.apply({name: column[part] for name, column in samples.items()}, options.augment, rng)
        targets = labels[part] if labels is not None else np.zeros(len(part), np.int32)
        losses.append(float(step(batch, targets, told and [one[part] for one in told])))
        if not np.isfinite(losses[-1]):
            raise RecoverError(f"training diverged at step {number}; take a smaller --recover-learning-rate")
        on_step(f"step {number}, loss {np.mean(losses[-50:]):.4f}")
    trainable.settle(augment.apply(batch, options.augment, rng) for batch in fixed)
    graph = trainable.folded()
    last = losses[-max(1, len(losses) // 20) :]
    return Recovered(graph, float(np.mean(last)), agreement(graph, teacher, {k: v[held] for k, v in samples.items()}))


def agreement(graph: Graph, teacher: Graph, columns: Columns) -> float:
    """Share of samples with the teacher's top-1; for what is no classifier, 1 − relative squared error, at least 0."""
    if not _count(columns):
        return float("nan")
    mine, its = (_first_output(Program(one), columns) for one in (graph, teacher))
    if is_scores(its):
        return float((mine.argmax(1) == its.argmax(1)).mean())
    return max(0.0, 1 - float(np.square(mine - its).mean() / max(float(its.var()), 1e-12)))


def _first_output(program: Program, columns: Columns) -> npt.NDArray[Any]:
    rows = []
    for part in np.array_split(np.arange(_count(columns)), max(1, _count(columns) // 256)):
        values = program.run({name: tf.constant(column[part]) for name, column in columns.items()})
        rows.append(np.asarray(next(iter(program.outputs(values).values()))))
    return np.concatenate(rows)


def _count(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _check(student: Graph, teacher: Graph, samples: Columns, options: RecoverOptions, labels: Labels | None) -> None:
    for what, ends in (("inputs", "inputs"), ("outputs", "outputs")):
        mine, its = (list(getattr(one.signature, ends)) for one in (student, teacher))
        if mine != its:
            raise RecoverError(f"the teacher's {what} are {its}, the student's {mine}; they must have the same names")
    wanted, given = ([one.shape for one in graph.results] for graph in (student, teacher))
    if wanted != given:
        raise RecoverError(f"the teacher gives {given}, the student {wanted}")
    if _count(samples) < 2:
        raise RecoverError("recovery needs at least two samples")
    judged = student.results[0].shape
    if labels is not None and len(judged) == 2 and labels.max() >= judged[1]:
        raise RecoverError(f"label {int(labels.max())} is beyond the {judged[1]} classes of the model")
    augment.check(options.augment, samples)
    for graph in (student, teacher):
        verify_program(graph, samples)


def _parts(rows: npt.NDArray[np.int64], batch: int) -> list[npt.NDArray[np.int64]]:
    """Whole batches of the rows that statistics are taken from."""
    taken = rows[:_STATISTICS_SAMPLES]
    size = min(batch, len(taken))
    return [taken[start : start + size] for start in range(0, len(taken) - size + 1, size)]


def _shuffled(
    rows: npt.NDArray[np.int64], options: RecoverOptions, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """``options.steps`` batches of one size: pass after pass in a new order, the left-over of each dropped."""
    size, done = min(options.batch, len(rows)), 0
    while done < options.steps:
        order = rng.permutation(rows)
        for start in range(0, len(order) - size + 1, size):
            if done == options.steps:
                return
            yield order[start : start + size]
            done += 1


def _optimizer(trainable: Trainable, options: RecoverOptions) -> Any:
    """Muon (Jordan et al. 2024; scaled as in Liu et al. 2025) for inner matrices and kernels, AdamW for the rest."""
    import keras

    peak = options.learning_rate
    warm = int(_WARM_UP * options.steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / 10, options.steps - warm, warmup_target=peak, warmup_steps=warm
    )
    decay = _WEIGHT_DECAY / peak
    optimizer = keras.optimizers.Muon(
        schedule,
        weight_decay=decay,
        adam_weight_decay=decay,
        exclude_layers=[EMBEDDING, LAST],
        clipnorm=5.0,
    )
    optimizer.exclude_from_weight_decay(
        [one for one in trainable.variables if not any(one is d for d in trainable.decayed)]
    )
    optimizer.build(trainable.variables)
    return optimizer


def _train_step(trainable: Trainable, teacher: Program, options: RecoverOptions, labelled: bool) -> Any:
    optimizer = _optimizer(trainable, options)
    points = hint_points(trainable.graph, teacher.graph) if options.hints else []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(feeds: dict[str, Any], targets: Any, told: list[Any] | None) -> Any:
        shown = {} if told else teacher.run(feeds)
        wanted = told or logits_of(teacher.graph, shown)
        with tf.GradientTape() as tape:
            values = trainable.run(feeds, training=True)
            loss = _loss(logits_of(trainable.graph, values), wanted, targets if labelled else None, options)
            if points:
                loss += options.hints * hint_distance(points, values, shown)
        gradients = trainable.masked(tape.gradient(loss, [one.value for one in trainable.variables]))
        optimizer.apply_gradients(zip(gradients, trainable.variables, strict=True))
        return loss

    return step


def _loss(logits: list[Any], wanted: list[Any], targets: Any, options: RecoverOptions) -> Any:
    total = 0.0
    for number, (left, right) in enumerate(zip(logits, wanted, strict=True)):
        soft = distance(left, right, options.temperature)
        if number == 0 and targets is not None and len(left.shape) == 2:
            hard = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, left))
            soft = (1 - options.alpha) * soft + options.alpha * hard
        total += soft
    return total
