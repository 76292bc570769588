"""The ``text-ngram`` student: hashed n-grams → embedding → pooling → dense, in stock Keras layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd_runtime.preprocess import TextNgram

TABLE, GAIN = "table", "gain"


@dataclass(frozen=True)
class StudentOptions:
    """``depth`` hidden layers of ``hidden`` units stand between pooling and logits; 0 is a linear classifier."""

    buckets: int = 16384
    width: int = 48
    depth: int = 0
    hidden: int = 128
    dropout: float = 0.3
    length: int = 256

    def preprocessor(self) -> TextNgram:
        return TextNgram(buckets=self.buckets, length=self.length)


def build_student(options: StudentOptions, classes: int) -> Any:
    """``(batch, length) int32`` ids → ``(batch, classes) float32`` logits.

    The embeddings of a sentence's n n-grams are added and scaled by 1/√n, which keeps their variance whatever the
    length. 1/√n is looked up by the count in position 0, so the whole graph runs on integers after quantisation.
    Row 0 of the table, the padding, is zero and must be kept so in training.
    """
    import keras

    ids = keras.Input((options.length,), dtype="int32", name="ids")
    uniform = keras.initializers.RandomUniform(-0.01, 0.01)
    table = keras.layers.Embedding(options.buckets, options.width, name=TABLE, embeddings_initializer=uniform)
    gain = keras.layers.Embedding(options.length, 1, name=GAIN, trainable=False)
    summed = keras.ops.sum(table(ids[:, 1:]), axis=1)
    x = summed * keras.ops.reshape(gain(ids[:, :1]), (-1, 1))
    x = keras.layers.Dropout(options.dropout, name="dropout")(x)
    for i in range(options.depth):
        x = keras.layers.Dense(options.hidden, activation="relu", name=f"hidden_{i}")(x)
        x = keras.layers.Dropout(options.dropout, name=f"dropout_{i}")(x)
    logits = keras.layers.Dense(classes, name="logits")(x)
    model = keras.Model(ids, logits, name="text_ngram")
    rows = table.get_weights()[0]
    rows[0] = 0
    table.set_weights([rows])
    # Below 16 n-grams the gain stays at 1/4: a few very short texts must not stretch its int8 scale for all others.
    counts = np.maximum(np.arange(options.length, dtype=np.float32), 16)
    gain.set_weights([(1 / np.sqrt(counts))[:, None]])
    return model
