"""Training a model on ids with hard labels and, where there is a teacher, its soft ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.distill.student import TABLE
from edgekd.errors import TrainingError

_EVAL_BATCH = 512


@dataclass(frozen=True)
class TrainOptions:
    """Loss: α·CE + (1−α)·T²·KL (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"); α is ``alpha``."""

    epochs: int = 25
    batch: int = 128
    learning_rate: float = 5e-3
    temperature: float = 3.0
    alpha: float = 0.1
    token_dropout: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """``ids`` ``(n, length) int32``, ``targets`` ``(n,) int32``, ``teacher`` logits ``(n, classes) float32``."""

    ids: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    teacher: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Trained:
    """``history``: held-out accuracy after each epoch, fractions of 1; empty where nothing was held out."""

    best_epoch: int
    holdout_accuracy: float | None
    history: tuple[float, ...]


def train(
    model: Any,
    split: Split,
    holdout: Split | None,
    options: TrainOptions,
    on_epoch: Callable[[str], None],
    stop_after: int | None = None,
) -> Trained:
    """Train ``model`` in place and leave it with the weights of its best epoch on ``holdout``, or of the last if None.

    Best is the last epoch within one standard error of the highest held-out accuracy. ``stop_after`` ends earlier on
    the schedule of ``options.epochs``: to train again on all data for as long as was best.

    The seed is set by the caller before the model is built, so that one seed governs weights, order and dropout.
    """
    import keras
    import tensorflow as tf

    steps = math.ceil(len(split.ids) / options.batch)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps * options.epochs)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(model.trainable_variables)
    step = _train_step(model, optimizer, options)
    soft = split.teacher if split.teacher is not None else np.zeros((len(split.ids), 1), np.float32)
    rows = tf.data.Dataset.from_tensor_slices((split.ids, split.targets, soft))
    batches = rows.shuffle(len(split.ids), seed=options.seed).batch(options.batch).prefetch(2)
    best_weights, best_epoch, history = model.get_weights(), 0, []
    last_epoch = stop_after or options.epochs
    for epoch in range(1, last_epoch + 1):
        losses = [step(*batch) for batch in batches]
        if not np.isfinite(losses).all():
            raise TrainingError(f"training diverged in epoch {epoch}; take a smaller --learning-rate")
        note = f"epoch {epoch}, loss {float(np.mean(losses)):.3f}"
        if holdout is not None:
            history.append(accuracy(predict(model, holdout.ids), holdout.targets))
            if history[-1] >= within_one_error(max(history), len(holdout.ids)):
                best_weights, best_epoch = model.get_weights(), epoch
            note += f", held-out {history[-1]:.4f}"
        on_epoch(note)
    if holdout is None:
        return Trained(last_epoch, None, ())
    model.set_weights(best_weights)
    return Trained(best_epoch, history[best_epoch - 1], tuple(round(score, 5) for score in history))


def within_one_error(best: float, count: int) -> float:
    """The least accuracy that ``count`` samples cannot tell from ``best``: one standard error below it.

    Breiman et al. 1984, the one-standard-error rule. Of equals the last epoch is taken: there the learning rate has
    annealed, which generalises better than the luckiest epoch does.
    """
    return best - math.sqrt(best * (1 - best) / count)


def _train_step(model: Any, optimizer: Any, options: TrainOptions) -> Any:
    import tensorflow as tf

    temperature, alpha = options.temperature, options.alpha
    variables = model.trainable_variables
    # The padding row of the embedding stays zero: it gets no gradient, and plain Adam moves nothing without one.
    keep_padding = [_padding_mask(variable) for variable in variables]

    @tf.function  # type: ignore[untyped-decorator]
    def step(ids: Any, targets: Any, teacher: Any) -> Any:
        ids = drop_tokens(ids, options.token_dropout)
        with tf.GradientTape() as tape:
            logits = model(ids, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
            if teacher.shape[-1] == logits.shape[-1]:
                soft = tf.nn.softmax(teacher / temperature)
                cross = tf.nn.softmax_cross_entropy_with_logits(soft, logits / temperature)
                entropy = tf.nn.softmax_cross_entropy_with_logits(soft, teacher / temperature)
                loss = alpha * loss + (1 - alpha) * temperature**2 * tf.reduce_mean(cross - entropy)
        gradients = [
            gradient if mask is None else tf.convert_to_tensor(gradient) * mask
            for gradient, mask in zip(tape.gradient(loss, variables), keep_padding, strict=True)
        ]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    return step


def _padding_mask(variable: Any) -> npt.NDArray[np.float32] | None:
    if not variable.path.split("/")[-2].startswith(TABLE):
        return None
    mask = np.ones((variable.shape[0], 1), np.float32)
    mask[0] = 0
    return mask


def drop_tokens(ids: Any, rate: float) -> Any:
    """Word dropout (Iyyer et al. 2015, "Deep Unordered …"): n-grams become padding at ``rate``; the count follows."""
    import tensorflow as tf

    if not rate:
        return ids
    tokens = ids[:, 1:] * tf.cast(tf.random.uniform(tf.shape(ids[:, 1:])) >= rate, tf.int32)
    counts = tf.reduce_sum(tf.cast(tokens > 0, tf.int32), axis=1, keepdims=True)
    return tf.concat([counts, tokens], axis=1)


def predict(model: Any, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """``(n, length) int32`` → ``(n, classes) float32`` logits."""
    parts = [model(ids[start : start + _EVAL_BATCH], training=False) for start in range(0, len(ids), _EVAL_BATCH)]
    return np.concatenate([np.asarray(part) for part in parts])


def accuracy(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int32]) -> float:
    """Top-1, a fraction of 1."""
    return float((logits.argmax(1) == targets).mean())
