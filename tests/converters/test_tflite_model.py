"""A ``.tflite`` from other tools: float32 only, a batch of 1, nothing left to run time, and the same numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.errors import LoadError, SourceNotFoundError
from edgekd_converters.graph import Graph
from edgekd_converters.integer import require_integer
from edgekd_converters.quantize import quantize_int8
from edgekd_converters.quiet import quiet
from edgekd_converters.tflite_model import load_tflite

Outputs = dict[str, Any]


def run(content: bytes, **inputs: Any) -> Outputs:
    outputs: Outputs = Interpreter(model_content=content).get_signature_runner()(**inputs)
    return outputs


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def upscaler(keras: Any, tf: Any) -> Callable[..., bytes]:
    """What the converter computes from a batch of unknown size: transposed convolution, reshapes, flatten."""
    keras.utils.set_random_seed(5)
    image = keras.Input((6, 6, 3), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = keras.layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x)
    x = keras.layers.Flatten()(keras.layers.Reshape((12, 12, 4))(keras.layers.Reshape((144, 4))(x)))
    model = keras.Model(image, keras.layers.Dense(5)(x))

    def convert(**attributes: Any) -> bytes:
        with quiet():
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            for name, value in attributes.items():
                setattr(converter, name, value)
            content: bytes = converter.convert()
        return content

    return convert


@pytest.fixture(scope="module")
def dynamic(upscaler: Callable[..., bytes]) -> bytes:
    return upscaler()


def test_a_batch_of_one_is_read_as_it_is(conv_graph: Graph, tmp_path: Path) -> None:
    assert load_tflite(write(tmp_path / "a.tflite", conv_graph.content)).content == conv_graph.content


def test_a_batch_of_unknown_size_becomes_one(dynamic: bytes, tmp_path: Path) -> None:
    graph = load_tflite(write(tmp_path / "a.tflite", dynamic))
    assert graph.inputs[0].shape == (1, 6, 6, 3)
    assert not any(tensor.is_dynamic for tensor in graph.tensors)
    assert [op.name for op in graph.ops] == ["CONV_2D", "TRANSPOSE_CONV", "RESHAPE", "FULLY_CONNECTED"]
    rows = np.random.default_rng(0).normal(size=(20, 1, 6, 6, 3)).astype(np.float32)
    for row in rows[:5]:
        (wanted,), (got,) = run(dynamic, image=row).values(), run(graph.content, image=row).values()
        assert np.abs(wanted).max() > 0.01
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    require_integer(quantize_int8(graph, calibrate_minmax(graph, ({"image": row} for row in rows))))


def test_names_stay(dynamic: bytes, tmp_path: Path) -> None:
    graph = load_tflite(write(tmp_path / "a.tflite", dynamic))
    with quiet():
        stock = Interpreter(model_content=dynamic).get_signature_list()["serving_default"]
    assert [list(graph.signature.inputs), list(graph.signature.outputs)] == [stock["inputs"], stock["outputs"]]


def test_what_only_looks_at_the_batch_is_kept_if_it_is_given_out(
    tf: Any, to_tflite: Callable[..., bytes], tmp_path: Path
) -> None:
    def count(x: Any) -> Any:
        return {"rows": tf.shape(x)[:1], "twice": x + x}

    graph = load_tflite(write(tmp_path / "a.tflite", to_tflite(count, ((None, 3), tf.float32))))
    interpreter = Interpreter(model_content=graph.content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ones((1, 3), np.float32))
    interpreter.invoke()
    given = [interpreter.get_tensor(detail["index"]).tolist() for detail in interpreter.get_output_details()]
    assert sorted(given, key=repr) == [[1], [[2, 2, 2]]]


def test_another_unknown_size_is_refused_by_name(tf: Any, to_tflite: Callable[..., bytes], tmp_path: Path) -> None:
    content = to_tflite(lambda sequence: sequence * 2.0, ((None, None, 4), tf.float32))
    with pytest.raises(LoadError, match=r"a\.tflite: input '.*sequence.*' has unknown sizes \[1, \?, 4\]"):
        load_tflite(write(tmp_path / "a.tflite", content))


def test_a_hybrid_is_refused(tf: Any, upscaler: Callable[..., bytes], tmp_path: Path) -> None:
    content = upscaler(optimizations=[tf.lite.Optimize.DEFAULT])
    with pytest.raises(LoadError, match=r"a hybrid, with integer weights.* is INT8; export it as float32"):
        load_tflite(write(tmp_path / "a.tflite", content))


def test_float16_is_refused(tf: Any, to_tflite: Callable[..., bytes], tmp_path: Path) -> None:
    weights = tf.constant(np.random.default_rng(0).normal(size=(64, 64)), tf.float32)
    options = {"optimizations": [tf.lite.Optimize.DEFAULT], "types": [tf.float16]}
    content = to_tflite(lambda x: x @ weights, ((1, 64), tf.float32), **options)
    with pytest.raises(LoadError, match=r"is not float32: .* is FLOAT16; export it as float32"):
        load_tflite(write(tmp_path / "a.tflite", content))


def test_int8_is_refused(conv_graph: Graph, images: list[Any], tmp_path: Path) -> None:
    int8 = quantize_int8(conv_graph, calibrate_minmax(conv_graph, ({"image": image} for image in images)))
    with pytest.raises(LoadError, match=r"a\.tflite: the model is quantised already: '.*' is INT8"):
        load_tflite(write(tmp_path / "a.tflite", int8.content))


def test_integers_without_a_scale_are_no_quantisation(tf: Any, to_tflite: Callable[..., bytes], tmp_path: Path) -> None:
    content = to_tflite(lambda x: tf.cast(x, tf.float32) / 255.0, ((1, 4), tf.uint8))
    assert load_tflite(write(tmp_path / "a.tflite", content)).inputs[0].dtype == "UINT8"


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"none\.tflite: no such file"):
        load_tflite(tmp_path / "none.tflite")
    with pytest.raises(LoadError, match=r"Is a directory"):
        load_tflite(tmp_path)
    with pytest.raises(LoadError, match=r"a\.tflite: not a \.tflite file"):
        load_tflite(write(tmp_path / "a.tflite", b"no model"))
