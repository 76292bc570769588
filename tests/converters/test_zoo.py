"""The zoo is what it claims to be; and every graph of it is read, written and read again without loss."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tests.converters.zoo import ZOO, graph, model, samples

from edgekd_converters.graph import Graph, read_graph, write_model

DATA = Path(__file__).parents[3] / "shared/data/mlperf_tiny_resnet8"
MARKS = {
    "mobilenet_v1": {"CONV_2D", "DEPTHWISE_CONV_2D", "SOFTMAX"},
    "mobilenet_v2": {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD"},
    "mobilenet_v3": {"DEPTHWISE_CONV_2D", "HARD_SWISH", "MUL", "MEAN", "ADD"},
    "efficientnet_lite": {"DEPTHWISE_CONV_2D", "ADD"},
    "resnet": {"CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED"},
    "resnet_padded": {"ADD", "PAD", "STRIDED_SLICE"},
    "resnet_bottleneck": {"MAX_POOL_2D", "ADD"},
    "resnext": {"MAX_POOL_2D", "ADD"},
    "densenet": {"CONCATENATION", "AVERAGE_POOL_2D", "MUL", "ADD"},
    "shufflenet_v1": {"RESHAPE", "TRANSPOSE", "DEPTHWISE_CONV_2D", "ADD", "CONCATENATION", "AVERAGE_POOL_2D"},
    "shufflenet_v2": {"SPLIT", "RESHAPE", "TRANSPOSE", "DEPTHWISE_CONV_2D", "CONCATENATION"},
    "squeezenet": {"CONCATENATION", "MAX_POOL_2D"},
    "inception": {"CONCATENATION", "AVERAGE_POOL_2D"},
    "unet_resize": {"RESIZE_BILINEAR", "CONCATENATION"},
    "unet_nearest": {"RESIZE_NEAREST_NEIGHBOR", "TILE", "CONCATENATION"},
    "unet_transposed": {"TRANSPOSE_CONV", "CONCATENATION", "LOGISTIC"},
    "ds_cnn": {"DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "FULLY_CONNECTED"},
    "conv_autoencoder": {"FULLY_CONNECTED", "RESHAPE", "TRANSPOSE_CONV"},
    "multi_input_output": {"CONCATENATION", "REDUCE_MAX", "TANH", "ELU", "LEAKY_RELU"},
    "dense_autoencoder": {"FULLY_CONNECTED"},
    "cnn_1d": {"CONV_2D", "RESHAPE", "PAD", "MAX_POOL_2D"},
    "text_student": {"GATHER", "SUM", "FULLY_CONNECTED"},
    "bert": {"GATHER", "BATCH_MATMUL", "SOFTMAX", "GELU", "SQUARED_DIFFERENCE", "RSQRT", "TRANSPOSE"},
    "bert_by_hand": {"GATHER", "BATCH_MATMUL", "SOFTMAX", "TANH", "RSQRT", "TRANSPOSE"},
    "bert_keras": {"GATHER", "BATCH_MATMUL", "SOFTMAX", "GELU", "RSQRT", "TRANSPOSE"},
    "bert_keras_sigmoid": {"GATHER", "BATCH_MATMUL", "SOFTMAX", "LOGISTIC", "RSQRT", "TRANSPOSE"},
    "lstm": {"UNIDIRECTIONAL_SEQUENCE_LSTM", "FULLY_CONNECTED"},
    "lstm_while": {"WHILE", "FULLY_CONNECTED"},
}
"""Ops without which it would not be that architecture."""

Rows = dict[str, npt.NDArray[Any]]


def run(of: Graph, feed: Rows) -> Rows:
    """The stock interpreter, row by row; the outputs by their public names, rows joined again."""
    interpreter = Interpreter(model_content=of.content)
    interpreter.allocate_tensors()
    index = {tensor.name: tensor.index for tensor in of.tensors}
    batch = max(of.inputs[0].shape[0], 1)  # -1 where it is not fixed
    rows: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in of.signature.outputs}
    for start in range(0, len(next(iter(feed.values()))), batch):
        for name, tensor in of.signature.inputs.items():
            interpreter.set_tensor(index[tensor], feed[name][start : start + batch])
        interpreter.reset_all_variables()  # an LSTM keeps its state from one run to the next
        interpreter.invoke()
        for name, tensor in of.signature.outputs.items():
            rows[name].append(interpreter.get_tensor(index[tensor]))
    return {name: np.concatenate(values) for name, values in rows.items()}


def assert_same(one: Any, other: Any, where: str = "model") -> None:
    """Two objects of the schema hold the same, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, where
        np.testing.assert_array_equal(one, other, err_msg=where)
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for i, (mine, others) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, others, f"{where}[{i}]")
    elif type(one).__module__ == schema.__name__:
        assert vars(one).keys() == vars(other).keys(), where
        for name, value in vars(one).items():
            assert_same(value, getattr(other, name), f"{where}.{name}")
    else:
        assert one == other, where


def assert_written_without_loss(given: Graph, feed: Rows) -> None:
    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(given.content, 0))
    written = write_model(parsed)
    assert_same(schema.ModelT.InitFromObj(schema.Model.GetRootAs(written, 0)), parsed)
    again = read_graph(written)
    assert (again.tensors, again.ops, again.signature) == (given.tensors, given.ops, given.signature)
    assert (again.inputs, again.outputs) == (given.inputs, given.outputs)
    outputs, outputs_again = run(given, feed), run(again, feed)
    assert outputs.keys() == outputs_again.keys()
    for name, value in outputs.items():
        assert value.tobytes() == outputs_again[name].tobytes(), name


@pytest.mark.parametrize("name", ZOO)
def test_it_is_the_architecture_that_it_is_named_after(name: str) -> None:
    names = {op.name for op in graph(name).ops}
    assert names >= MARKS[name]
    assert not [op for op in names if op.startswith("Flex")]
    assert len(graph(name).content) < 250_000


@pytest.mark.parametrize("name", ZOO)
def test_it_computes_what_keras_computes_and_rows_differ(name: str) -> None:
    feed = samples(graph(name), 4, seed=1)
    wanted = model(name)(dict(feed) if len(feed) > 1 else next(iter(feed.values())), training=False)
    wanted = dict(zip(model(name).output_names, wanted if isinstance(wanted, list) else [wanted], strict=True))
    got = run(graph(name), feed)
    assert got.keys() == wanted.keys()
    for output, value in wanted.items():
        assert np.abs(value).max() < 100
        assert np.std(value, axis=0).mean() > 1e-3
        np.testing.assert_allclose(got[output], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_it_is_written_without_loss(name: str) -> None:
    assert_written_without_loss(graph(name), samples(graph(name), 2, seed=2))


@pytest.mark.parametrize("name", ["bert", "lstm"])
def test_a_batch_of_eight_gives_what_eight_single_rows_give(name: str) -> None:
    batch = graph(name, 8)
    assert all(tensor.shape[0] == 8 for tensor in (*batch.inputs, *batch.outputs))
    feed = samples(batch, 8, seed=3)
    alone = run(graph(name), feed)
    for output, value in run(batch, feed).items():
        np.testing.assert_allclose(value, alone[output], rtol=0, atol=1e-5)


def test_grouped_convolutions_stay_one_op() -> None:
    """Input channels are a multiple of the kernel's; no split into one convolution per group."""
    for name, count in (("resnext", 3), ("shufflenet_v1", 6), ("resnet_bottleneck", 0)):
        convolutions = [op for op in graph(name).ops if op.name == "CONV_2D"]
        grouped = [op for op in convolutions if op.inputs[0].shape[-1] == 2 * op.inputs[1].shape[-1]]
        assert len(grouped) == count
        assert "SPLIT" not in {op.name for op in graph(name).ops}


def test_an_lstm_is_one_op_a_layer() -> None:
    names = [op.name for op in graph("lstm").ops]
    assert names.count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 2
    assert "WHILE" not in names


def test_samples_repeat_by_seed_and_fit_every_table() -> None:
    of = graph("text_student")
    ids = samples(of, 200, seed=4)["ids"]
    assert (ids.shape, ids.dtype, ids.min(), ids.max()) == ((200, 48), np.int32, 0, 47)
    np.testing.assert_array_equal(ids, samples(of, 200, seed=4)["ids"])
    assert (ids != samples(of, 200, seed=5)["ids"]).any()


@pytest.mark.parametrize("file", ["pretrainedResnet.tflite", "pretrainedResnet_quant.tflite"])
def test_files_of_others_are_written_without_loss(file: str) -> None:
    if not (DATA / file).is_file():
        pytest.skip(f"{DATA / file} is not here; this test needs the shared data beside the checkout")
    given = read_graph((DATA / file).read_bytes())
    name, image = next(iter(given.signature.inputs)), given.inputs[0]
    pixels = np.random.default_rng(0).integers(-128, 128, (3, *image.shape[1:]))
    dtype = {"FLOAT32": np.float32, "INT8": np.int8}[image.dtype]
    assert_written_without_loss(given, {name: pixels.astype(dtype)})
