"""Tiny models of sequences, text and vectors, each wired as its architecture is. ``zoo.py`` draws their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekd.distill.student import StudentOptions, build_student
from edgekd_converters.quiet import import_tensorflow

import_tensorflow()
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, ops  # noqa: E402

LENGTH, VOCABULARY, WIDTH, HEADS = 12, 48, 32, 4


def dense_autoencoder() -> keras.Model:
    """MLPerf Tiny's anomaly detection: dense, batch norm and relu down to 8 and up again."""
    frames = keras.Input((64,), name="frames")
    x = frames
    for width in (32, 32, 8, 32, 32):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(width)(x)))
    return keras.Model(frames, layers.Dense(64, name="restored")(x))


def cnn_1d() -> keras.Model:
    """Same, dilated causal and strided convolutions over time, with both poolings."""
    signal = keras.Input((32, 4), name="signal")
    x = layers.Conv1D(16, 5, padding="same", use_bias=False)(signal)
    x = layers.MaxPooling1D(2)(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Conv1D(24, 3, padding="causal", dilation_rate=2, activation="relu")(x)
    x = layers.AveragePooling1D(2)(layers.Conv1D(24, 3, strides=2, activation="relu")(x))
    x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    return keras.Model(signal, layers.Dense(5, activation="softmax", name="scores")(x))


def text_student() -> keras.Model:
    return build_student(StudentOptions(buckets=48, width=16, depth=1, hidden=24, length=48), 6)


def _attention(x: Any) -> Any:
    """Heads by reshape and transpose, as it is written by hand."""

    def heads(y: Any) -> Any:
        return ops.transpose(ops.reshape(y, (-1, LENGTH, HEADS, WIDTH // HEADS)), (0, 2, 1, 3))

    query, key, value = (heads(layers.Dense(WIDTH)(x)) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / (WIDTH // HEADS) ** 0.5
    mixed = ops.transpose(ops.matmul(ops.softmax(scores, axis=-1), value), (0, 2, 1, 3))
    return layers.Dense(WIDTH)(ops.reshape(mixed, (-1, LENGTH, WIDTH)))


def _keras_attention(x: Any) -> Any:
    return layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, x)


def _gelu_exact(x: Any) -> Any:
    return ops.gelu(x, approximate=False)


def _gelu_tanh(x: Any) -> Any:
    return ops.gelu(x, approximate=True)


def _gelu_tanh_by_hand(x: Any) -> Any:
    """The order in which the converter does not recognise it."""
    return 0.5 * x * (1.0 + ops.tanh(0.7978845608 * x * (1.0 + 0.044715 * x * x)))


def _gelu_sigmoid(x: Any) -> Any:
    return x * ops.sigmoid(1.702 * x)


def _encoder(attention: Callable[[Any], Any], gelu: Callable[[Any], Any], pre_norm: bool) -> keras.Model:
    """Token and position embedding, two layers, first token → tanh pooler → logits."""

    def residual(x: Any, inner: Callable[[Any], Any]) -> Any:
        if pre_norm:
            return layers.Add()([x, inner(layers.LayerNormalization(epsilon=1e-6)(x))])
        return layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, inner(x)]))

    def feed_forward(x: Any) -> Any:
        return layers.Dense(WIDTH)(gelu(layers.Dense(2 * WIDTH)(x)))

    ids = keras.Input((LENGTH,), dtype="int32", name="ids")
    positions = layers.Embedding(LENGTH, WIDTH)(ops.arange(LENGTH)[None])
    x = layers.Embedding(VOCABULARY, WIDTH)(ids) + positions
    if not pre_norm:
        x = layers.LayerNormalization(epsilon=1e-6)(x)
    for _ in range(2):
        x = residual(residual(x, attention), feed_forward)
    if pre_norm:
        x = layers.LayerNormalization(epsilon=1e-6)(x)
    pooled = layers.Dense(WIDTH, activation="tanh")(x[:, 0])
    return keras.Model(ids, layers.Dense(4, name="logits")(pooled))


def bert() -> keras.Model:
    return _encoder(_attention, _gelu_exact, pre_norm=False)


def bert_by_hand() -> keras.Model:
    return _encoder(_attention, _gelu_tanh_by_hand, pre_norm=True)


def bert_keras() -> keras.Model:
    return _encoder(_keras_attention, _gelu_tanh, pre_norm=True)


def bert_keras_sigmoid() -> keras.Model:
    return _encoder(_keras_attention, _gelu_sigmoid, pre_norm=False)


class FusedLSTM(layers.LSTM):  # type: ignore[misc]
    """An LSTM as Keras 2 hands it to the converter: in a function marked ``lstm_…``, which becomes one op.

    Keras 3 has dropped the mark; its own layer becomes a WHILE.
    """

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        def run(x: Any, h: Any, c: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
            states = []
            for step in range(x.shape[1]):
                i, f, g, o = tf.split(x[:, step] @ kernel + h @ recurrent + bias, 4, axis=1)
                c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
                h = tf.sigmoid(o) * tf.tanh(c)
                states.append(h)
            return h, tf.stack(states, 1), h, c, tf.constant(0.0)  # the five that the converter expects

        marks = {"api_implements": f"lstm_{self.name}", "time_major": False, "go_backwards": False}
        zeros = tf.zeros((tf.shape(sequences)[0], self.units))
        weights = (self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias)
        last, states, *_ = tf.function(run, autograph=False, experimental_attributes=marks)(
            sequences, zeros, zeros, *map(tf.convert_to_tensor, weights)
        )
        return states if self.return_sequences else last


def _lstm(layer: type[layers.LSTM]) -> keras.Model:
    signal = keras.Input((16, 6), name="signal")
    x = layers.Dense(16, activation="relu")(signal)
    x = layer(16)(layer(24, return_sequences=True)(x))
    x = layers.Dense(16, activation="relu")(x)
    return keras.Model(signal, layers.Dense(5, activation="softmax", name="scores")(x))


def lstm() -> keras.Model:
    return _lstm(FusedLSTM)


def lstm_while() -> keras.Model:
    return _lstm(layers.LSTM)
