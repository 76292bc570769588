"""Which channels belong together, shown by taking them away: what counts for nothing may leave, and nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert.interpreter import Interpreter
from tests.converters.zoo import ZOO, graph, samples

from edgekd_converters.channels import Channels
from edgekd_converters.cost import count_macs, count_parameters
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.ops.table import channels_of
from edgekd_converters.slim import Mask, keep_all, remove

UNPRUNABLE = {"lstm", "lstm_while"}
"""The recurrent op lets no channel pass; what is left is a dense layer or nothing."""


def run(of: Graph, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    interpreter = Interpreter(model_content=of.content)
    interpreter.allocate_tensors()
    index = {tensor.name: tensor.index for tensor in of.tensors}
    for name, tensor in of.signature.inputs.items():
        interpreter.set_tensor(index[tensor], feed[name])
    interpreter.invoke()
    return [interpreter.get_tensor(tensor.index) for tensor in of.outputs]


def some_units(channels: Channels, seed: int, share: float = 0.4) -> Mask:
    """A mask that lets a random part of every group go."""
    rng = np.random.default_rng(seed)
    kept = keep_all(channels)
    for group in channels.groups():
        kept[rng.choice(group.units, min(len(group) - 1, max(1, round(share * len(group)))), replace=False)] = False
    return kept


def silenced(channels: Channels, kept: Mask, factor: float = 0) -> Graph:
    """The graph with all weights into and out of the channels that are not kept set to zero, or scaled."""
    constants: dict[int, npt.NDArray[Any]] = {}
    operands: dict[tuple[int, int], npt.NDArray[Any]] = {}
    for op in channels.graph.main:
        for slot, tensor in enumerate(op.slots):
            if tensor is None or not tensor.is_constant or tensor.dtype != "FLOAT32":
                continue
            key = channels.key(op, slot)
            value = channels.graph.constant(tensor).copy()
            for axis, labels in enumerate(channels.axes.get(key, [])):
                if labels is not None:
                    np.moveaxis(value, axis, 0)[~kept[labels]] *= factor
            if isinstance(key, tuple):
                operands[key] = value
            else:
                constants[key] = value
    return channels.graph.edited(constants, {}, operands)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", ZOO)
def test_removing_silent_channels_changes_nothing(name: str, batch: int) -> None:
    original = graph(name, batch)
    channels = channels_of(original)
    kept = some_units(channels, seed=batch)
    silent, slim = silenced(channels, kept), remove(channels, kept)
    feed = samples(original, batch, 5)
    if name not in UNPRUNABLE:
        assert count_macs(slim) < 0.85 * count_macs(original)
        assert count_parameters(slim) < 0.85 * count_parameters(original)
        assert len(slim.content) < len(original.content)
    for wanted, got, untouched in zip(run(silent, feed), run(slim, feed), run(original, feed), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        if name not in UNPRUNABLE:
            assert np.abs(untouched - wanted).max() > 1e-4, "the channels counted for nothing anyway"


@pytest.mark.parametrize("name", ZOO)
def test_names_and_ends_survive(name: str) -> None:
    original = graph(name)
    channels = channels_of(original)
    slim = remove(channels, some_units(channels, seed=3))
    assert slim.signature == original.signature
    for before, after in ((original.inputs, slim.inputs), (original.outputs, slim.outputs)):
        assert [(one.name, one.shape, one.dtype) for one in before] == [(o.name, o.shape, o.dtype) for o in after]
    assert [op.name for op in slim.main] == [op.name for op in original.main]
    names = [tensor.name for tensor in slim.tensors]
    assert len(set(names)) == len(names)


def test_keeping_all_is_the_same_graph() -> None:
    original = graph("mobilenet_v2")
    channels = channels_of(original)
    same = remove(channels, keep_all(channels))
    assert same.tensors == original.tensors
    assert same.ops == original.ops


def test_heads_leave_whole_and_the_residual_stream_stays() -> None:
    channels = channels_of(graph("bert"))
    heads = [group for group in channels.groups() if len(group) == 4]
    assert len(heads) == 2, "two layers of four heads"
    for group in heads:
        for key, axis in group.places:
            labels = channels.axes[key][axis]
            assert labels is not None
            positions = [int((labels == unit).sum()) for unit in group.units]
            assert len(set(positions)) == 1
    hidden = graph("bert").outputs[0]
    assert all(hidden.index != key for group in channels.groups() for key, _ in group.places)


def test_a_residual_stage_is_one_group() -> None:
    channels = channels_of(graph("resnet"))
    adds = [op for op in channels.graph.main if op.name == "ADD"]
    for op in adds:
        groups = [
            {number for number, group in enumerate(channels.groups()) if (tensor.index, 3) in group.places}
            for tensor in (*op.inputs, *op.outputs)
        ]
        assert groups[0] == groups[1] == groups[2] != set()


def test_an_op_without_a_rule_is_fenced_off_and_said() -> None:
    channels = channels_of(graph("lstm_while"))
    assert channels.notes
    assert all("WHILE" in note and "has no channel rule" in note for note in channels.notes)
    original = graph("conv_autoencoder")
    known = channels_of(original)
    fenced = Channels(original, lambda op: None)
    assert not fenced.groups()
    assert len(fenced.notes) == len(original.main)
    assert known.groups()


def test_outputs_keep_their_channels() -> None:
    for name in ZOO:
        channels = channels_of(graph(name))
        ends = {tensor.index for tensor in (*channels.graph.inputs, *channels.graph.outputs)}
        touched = {key for group in channels.groups() for key, _ in group.places}
        assert not ends & touched, name


@pytest.mark.parametrize(("filled", "groups"), [(True, [8]), (False, [])])
def test_layers_share_weights_on_purpose_unless_these_are_one_number(
    tf: Any, to_tflite: Any, filled: bool, groups: list[int]
) -> None:
    """The converter keeps one copy of equal constants: of equal layers, and of layers that are merely filled alike."""
    drawn = np.random.default_rng(0).normal(size=(1, 1, 8, 8)).astype(np.float32)
    weights = np.full((1, 1, 8, 8), 0.5, np.float32) if filled else drawn

    def function(image: Any) -> Any:
        return tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(image, weights, 1, "SAME")), weights, 1, "SAME")

    given = read_graph(to_tflite(function, ((1, 4, 4, 8), tf.float32)))
    first, second = (op for op in given.main if op.name == "CONV_2D")
    assert first.inputs[1] == second.inputs[1]
    channels = channels_of(given)
    assert [len(group) for group in channels.groups()] == groups
    kept = some_units(channels, seed=0)
    feed = {name: np.ones((1, 4, 4, 8), np.float32) for name in given.signature.inputs}
    np.testing.assert_allclose(run(remove(channels, kept), feed)[0], run(silenced(channels, kept), feed)[0], rtol=1e-5)


@pytest.mark.parametrize("cut", ["strided_slice", "slice", "split"])
def test_what_is_cut_out_alone_stays(tf: Any, to_tflite: Any, cut: str) -> None:
    """Query, key and value of one dense layer: none of the three can leave, but their channels can."""
    weights = np.random.default_rng(0).normal(size=(6, 3 * 8)).astype(np.float32)

    def function(rows: Any) -> Any:
        parts = tf.transpose(tf.reshape(rows @ weights, (5, 3, 8)), (1, 0, 2))
        if cut == "split":
            query, key, value = tf.split(parts, 3)
        elif cut == "slice":
            query, key, value = (tf.slice(parts, (i, 0, 0), (1, 5, 8)) for i in range(3))
        else:
            query, key, value = (parts[i : i + 1] for i in range(3))
        return tf.matmul(tf.nn.softmax(tf.matmul(query, key, transpose_b=True)), value)

    channels = channels_of(read_graph(to_tflite(function, ((5, 6), tf.float32))))
    assert not [group for group in channels.groups() if len(group) == 3]
