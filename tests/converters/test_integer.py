"""What may be called int8, on models made by TensorFlow's own converter."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt
import pytest

from edgekd_converters.errors import NotIntegerError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.integer import integer_fraction, require_integer

Rows = list[npt.NDArray[Any]]
ToTflite = Callable[..., bytes]
FIXED = (1, 12, 12, 3)


@pytest.fixture(scope="module")
def int8_attributes(tf: Any, images: Rows) -> dict[str, Any]:
    def representative() -> Iterator[Rows]:
        for image in images:
            yield [image]

    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": representative,
        "ops": ["TFLITE_BUILTINS_INT8"],
        "inference_input_type": tf.int8,
        "inference_output_type": tf.int8,
    }


def refused(graph: Graph, pattern: str) -> tuple[str, ...]:
    with pytest.raises(NotIntegerError, match=pattern) as caught:
        require_integer(graph)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    return caught.value.reasons


def test_a_true_int8_model_is_accepted(
    tf: Any, conv_net: Any, to_tflite: ToTflite, int8_attributes: dict[str, Any]
) -> None:
    graph = read_graph(to_tflite(lambda image: conv_net(image), (FIXED, tf.float32), **int8_attributes))
    require_integer(graph)
    assert integer_fraction(graph) == 1
    assert {"CONV_2D", "ADD", "FULLY_CONNECTED"} <= {op.name for op in graph.ops}


def test_a_float_model_is_refused_and_every_op_named(conv_graph: Graph) -> None:
    reasons = refused(conv_graph, rf"op 0 CONV_2D .*FLOAT32.*and {len(conv_graph.ops) - 1} more")
    assert len(reasons) == len(conv_graph.ops)
    assert all(op.name in reason for op, reason in zip(conv_graph.ops, reasons, strict=True))
    assert integer_fraction(conv_graph) == 0


def test_float_at_the_border_is_refused(
    tf: Any, conv_net: Any, to_tflite: ToTflite, int8_attributes: dict[str, Any]
) -> None:
    attributes = {**int8_attributes, "inference_output_type": tf.float32}
    graph = read_graph(to_tflite(lambda image: conv_net(image), (FIXED, tf.float32), **attributes))
    (reason,) = refused(graph, "DEQUANTIZE.*FLOAT32")
    assert "more" not in reason
    assert integer_fraction(graph) == 1 - 1 / len(graph.ops)


def test_dynamic_range_is_not_int8(tf: Any, keras: Any, to_tflite: ToTflite) -> None:
    dense = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    content = to_tflite(lambda x: dense(x), ((1, 64), tf.float32), optimizations=[tf.lite.Optimize.DEFAULT])
    graph = read_graph(content)
    assert "INT8" in {tensor.dtype for tensor in graph.tensors if tensor.is_constant}
    refused(graph, "FULLY_CONNECTED.*FLOAT32")


def test_float16_is_not_int8(tf: Any, conv_net: Any, to_tflite: ToTflite) -> None:
    content = to_tflite(
        lambda image: conv_net(image),
        (FIXED, tf.float32),
        optimizations=[tf.lite.Optimize.DEFAULT],
        types=[tf.float16],
    )
    graph = read_graph(content)
    reasons = refused(graph, "FLOAT")
    assert any("FLOAT16" in reason for reason in reasons)
    assert len(reasons) == len(graph.ops)
    assert "DEQUANTIZE" not in reasons[0], "the op that computes is named before those that only convert"


def test_a_dynamic_batch_is_refused(
    tf: Any, conv_net: Any, to_tflite: ToTflite, int8_attributes: dict[str, Any]
) -> None:
    content = to_tflite(lambda image: conv_net(image), ((None, *FIXED[1:]), tf.float32), **int8_attributes)
    refused(read_graph(content), "unknown size.*fix the model's input shape")


def test_the_unknown_size_is_shown_as_unknown(
    tf: Any, conv_net: Any, to_tflite: ToTflite, int8_attributes: dict[str, Any]
) -> None:
    content = to_tflite(lambda image: conv_net(image), ((None, *FIXED[1:]), tf.float32), **int8_attributes)
    refused(read_graph(content), r"unknown size \[-1, 12, 12, 3\]")


def test_a_reshape_by_data_is_refused(tf: Any, to_tflite: ToTflite) -> None:
    content = to_tflite(lambda x, shape: tf.reshape(x, shape), ((1, 4), tf.int32), ((2,), tf.int32))
    refused(read_graph(content), "RESHAPE")


def test_a_size_from_a_tensor_is_refused_even_if_the_shape_looks_fixed(tf: Any, to_tflite: ToTflite) -> None:
    """``set_shape`` promises a size that the flatbuffer cannot hold the model to."""

    def promised(x: Any, shape: Any) -> Any:
        y = tf.reshape(x, shape)
        y.set_shape((2, 2))
        return y + 1

    graph = read_graph(to_tflite(promised, ((1, 4), tf.int32), ((2,), tf.int32)))
    refused(graph, "RESHAPE")


def test_a_size_from_the_data_themselves_is_refused(tf: Any, to_tflite: ToTflite) -> None:
    refused(read_graph(to_tflite(lambda x: tf.where(x > 0), ((4,), tf.int32))), "WHERE")


def test_a_flex_op_is_refused_by_name(tf: Any, to_tflite: ToTflite) -> None:
    content = to_tflite(lambda x: tf.raw_ops.Erf(x=x), ((1, 4), tf.float32), ops=["TFLITE_BUILTINS", "SELECT_TF_OPS"])
    refused(read_graph(content), "FlexErf.*TensorFlow op")


def test_a_flex_op_on_integers_is_refused_all_the_same(tf: Any, to_tflite: ToTflite) -> None:
    content = to_tflite(
        lambda x: tf.raw_ops.PopulationCount(x=x), ((4,), tf.int32), ops=["TFLITE_BUILTINS", "SELECT_TF_OPS"]
    )
    graph = read_graph(content)
    assert any(op.name == "FlexPopulationCount" for op in graph.ops)
    refused(graph, "FlexPopulationCount")


def test_integer_arithmetic_on_ids_is_accepted(tf: Any, to_tflite: ToTflite) -> None:
    graph = read_graph(to_tflite(lambda x: tf.reshape(x, (2, 2)) + 1, ((1, 4), tf.int32)))
    require_integer(graph)
    assert integer_fraction(graph) == 1


def test_a_size_from_a_constant_is_accepted(tf: Any, to_tflite: ToTflite) -> None:
    ops: dict[str, Callable[[Any], Any]] = {
        "PAD": lambda x: tf.pad(x, [[0, 0], [1, 1]]),
        "TILE": lambda x: tf.tile(x, [1, 2]),
        "STRIDED_SLICE": lambda x: x[:, 1:3],
    }
    for name, function in ops.items():
        graph = read_graph(to_tflite(function, ((1, 4), tf.int32)))
        assert name in {op.name for op in graph.ops}
        require_integer(graph)


def test_the_message_counts_the_rest() -> None:
    assert str(NotIntegerError(["one", "two", "three"])) == "this cannot be called int8: one (and 2 more)"
    assert str(NotIntegerError(["one"])) == "this cannot be called int8: one"
