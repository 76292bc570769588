"""Small models, built and converted once for all tests of the converters."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd.distill.student import StudentOptions, build_student
from edgekd_converters.calibrate import Ranges, calibrate_minmax
from edgekd_converters.graph import Graph
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.quiet import import_tensorflow, quiet

Rows = npt.NDArray[Any]


@pytest.fixture(scope="session")
def keras() -> Any:
    import_tensorflow()
    import keras

    return keras


@pytest.fixture(scope="session")
def tf(keras: Any) -> Any:
    import tensorflow

    return tensorflow


@pytest.fixture(scope="session")
def student_options() -> StudentOptions:
    return StudentOptions(buckets=128, width=8, depth=1, hidden=16, length=48)


@pytest.fixture(scope="session")
def student(keras: Any, student_options: StudentOptions) -> Any:
    """A text student with random, not tiny, weights: ``(1, 48) int32`` → 3 logits."""
    keras.utils.set_random_seed(1)
    model = build_student(student_options, 3)
    table = model.get_layer("table")
    rows = np.random.default_rng(1).normal(size=(128, 8)).astype(np.float32)
    rows[0] = 0
    table.set_weights([rows])
    return model


@pytest.fixture(scope="session")
def student_rows(student_options: StudentOptions) -> list[Rows]:
    preprocess = student_options.preprocessor()
    return [preprocess(f"please refund order {i} and thank you {i * i}")[None] for i in range(40)]


@pytest.fixture(scope="session")
def student_graph(student: Any) -> Graph:
    return convert_keras(student)


@pytest.fixture(scope="session")
def student_ranges(student_graph: Graph, student_rows: list[Rows]) -> Ranges:
    return calibrate_minmax(student_graph, ({"ids": row} for row in student_rows))


@pytest.fixture(scope="session")
def conv_net(keras: Any) -> Any:
    """The usual trouble in one: batch norm, plain and depthwise convolutions, a residual add, a concatenation."""
    keras.utils.set_random_seed(2)
    image = keras.Input((12, 12, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", name="stem")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    y = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = keras.layers.Add()([x, keras.layers.Conv2D(8, 1)(y)])
    x = keras.layers.Concatenate()([keras.layers.MaxPooling2D()(x), keras.layers.AveragePooling2D(2)(x)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(4, name="scores")(x))


@pytest.fixture(scope="session")
def conv_graph(conv_net: Any) -> Graph:
    return convert_keras(conv_net)


@pytest.fixture(scope="session")
def images() -> list[Rows]:
    return list(np.random.default_rng(3).normal(size=(30, 1, 12, 12, 3)).astype(np.float32))


@pytest.fixture(scope="session")
def to_tflite(tf: Any) -> Callable[..., bytes]:
    """``to_tflite(function, (shape, dtype), …, **converter attributes)``: the flatbuffer of a plain function."""

    def convert(function: Callable[..., Any], *inputs: tuple[tuple[int | None, ...], Any], **attributes: Any) -> bytes:
        signature = [tf.TensorSpec(shape, dtype) for shape, dtype in inputs]
        concrete = tf.function(function, input_signature=signature).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
        for name, value in attributes.items():
            if name == "ops":
                converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, op) for op in value]
            elif name == "types":
                converter.target_spec.supported_types = value
            else:
                setattr(converter, name, value)
        with quiet():
            content: bytes = converter.convert()
        return content

    return convert
