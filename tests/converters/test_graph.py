"""Reading flatbuffers: what is in them, and that no damage leads to anything but a ``LoadError``."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd_converters.errors import ConverterError, LoadError
from edgekd_converters.graph import Graph, read_graph


def test_a_conv_net_is_read_as_it_is(conv_graph: Graph) -> None:
    assert conv_graph.signature.key == "serving_default"
    assert list(conv_graph.signature.inputs) == ["image"]
    assert list(conv_graph.signature.outputs) == ["scores"]
    by_name = {tensor.name: tensor for tensor in conv_graph.tensors}
    image, scores = (
        by_name[conv_graph.signature.inputs["image"]],
        by_name[conv_graph.signature.outputs["scores"]],
    )
    assert (image.shape, image.dtype, image.is_constant, image.is_dynamic) == ((1, 12, 12, 3), "FLOAT32", False, False)
    assert (scores.shape, scores.dtype, scores.is_constant) == ((1, 4), "FLOAT32", False)
    names = [op.name for op in conv_graph.ops]
    assert names.count("CONV_2D") == 2
    assert {"DEPTHWISE_CONV_2D", "ADD", "CONCATENATION", "MEAN", "FULLY_CONNECTED"} <= set(names)
    assert [op.index for op in conv_graph.ops] == list(range(len(names)))
    stem = conv_graph.ops[0]
    assert stem.name == "CONV_2D"
    assert [tensor.is_constant for tensor in stem.inputs] == [False, True, True]
    assert stem.inputs[1].shape == (8, 3, 3, 3)
    assert [tensor.index for tensor in conv_graph.tensors] == list(range(len(conv_graph.tensors)))


def test_an_op_names_itself_and_what_it_makes(conv_graph: Graph) -> None:
    last = conv_graph.ops[-1]
    assert str(last) == f"op {last.index} FULLY_CONNECTED (makes {last.outputs[0].name!r})"


def test_a_custom_op_carries_its_own_name(tf: Any, to_tflite: Callable[..., bytes]) -> None:
    content = to_tflite(lambda x: tf.raw_ops.Erf(x=x), ((1, 4), tf.float32), ops=["TFLITE_BUILTINS", "SELECT_TF_OPS"])
    assert [op.name for op in read_graph(content).ops] == ["FlexErf"]


def test_without_a_signature_tensor_names_serve(tf: Any, to_tflite: Callable[..., bytes]) -> None:
    content = to_tflite(lambda given: tf.nn.relu(given), ((1, 4), tf.float32))
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    model.signatureDefs = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    graph = read_graph(bytes(builder.Output()))
    assert graph.signature.key == ""
    assert list(graph.signature.inputs) == list(graph.signature.inputs.values()) == [graph.tensors[0].name]
    assert list(graph.signature.outputs.values()) == [graph.ops[-1].outputs[0].name]


def test_an_unknown_size_is_marked(tf: Any, to_tflite: Callable[..., bytes]) -> None:
    graph = read_graph(to_tflite(lambda x: tf.nn.relu(x) + 1.0, ((None, 4), tf.float32)))
    assert all(tensor.is_dynamic for op in graph.ops for tensor in op.outputs)


@pytest.mark.parametrize(
    "content",
    [b"", b"TFL3", b"PK\x03\x04 a zip", b"\x00" * 64, b"\x1c\x00\x00\x00TFL2" + b"\x00" * 64, b"{}" * 1000],
    ids=["empty", "short", "zip", "zeros", "wrong-identifier", "json"],
)
def test_what_is_not_a_tflite_is_refused(content: bytes) -> None:
    with pytest.raises(LoadError, match=r"not a \.tflite file"):
        read_graph(content)


@pytest.mark.parametrize("rest", [b"", b"\x00" * 64, b"\xff" * 64], ids=["nothing", "zeros", "ones"])
def test_the_identifier_alone_is_not_enough(rest: bytes) -> None:
    with pytest.raises(LoadError):
        read_graph(b"\x1c\x00\x00\x00TFL3" + rest)


@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_refused_or_read(student_graph: Graph, part: float) -> None:
    """Flatbuffers are written back to front, so that a cut takes the weights; nothing but ``LoadError`` may come."""
    content = student_graph.content
    try:
        graph = read_graph(content[: int(part * len(content))])
    except LoadError as error:
        assert "\n" not in str(error)
    else:
        assert graph.ops


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.integers(1, 40), seed=st.integers(0, 2**32), head=st.booleans())
def test_random_damage_never_raises_anything_else(student_graph: Graph, flips: int, seed: int, head: bool) -> None:
    rng = random.Random(seed)
    content = bytearray(student_graph.content)
    reach = 400 if head else len(content)  # the tables stand in front, where a flip does most harm
    for _ in range(flips):
        content[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    try:
        graph = read_graph(bytes(content))
    except LoadError as error:
        assert error.exit_code == 1
        assert isinstance(error, ConverterError)
    else:
        assert graph.ops
