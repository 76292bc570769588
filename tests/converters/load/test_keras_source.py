"""A Keras model in memory → float graph: same numbers, same names."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekd_converters.errors import LoadError
from edgekd_converters.graph import Graph
from edgekd_converters.load.keras_source import convert_keras

Rows = list[npt.NDArray[Any]]


def run(graph: Graph, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """A fresh stock interpreter, through the signature: what anybody would do with the file."""
    runner = Interpreter(model_content=graph.content).get_signature_runner(graph.signature.key)
    outputs: dict[str, npt.NDArray[Any]] = runner(**inputs)
    return outputs


def test_a_text_student_gives_what_keras_gives(student: Any, student_graph: Graph, student_rows: Rows) -> None:
    assert list(student_graph.signature.inputs) == ["ids"]
    assert list(student_graph.signature.outputs) == ["logits"]
    for row in student_rows[:10]:
        wanted = np.asarray(student(row, training=False))
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(run(student_graph, ids=row)["logits"], wanted, rtol=0, atol=1e-5)


def test_a_conv_net_gives_what_keras_gives(conv_net: Any, conv_graph: Graph, images: Rows) -> None:
    for image in images[:10]:
        wanted = np.asarray(conv_net(image, training=False))
        assert np.abs(wanted).max() > 0.01
        np.testing.assert_allclose(run(conv_graph, image=image)["scores"], wanted, rtol=0, atol=1e-5)


def test_several_inputs_and_outputs_keep_their_names_and_order(keras: Any) -> None:
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    total = keras.layers.Dense(4, name="total")(keras.layers.Concatenate()([left, right]))
    double = keras.layers.Rescaling(2.0, name="double")(left)
    model = keras.Model([left, right], [total, double])
    graph = convert_keras(model)
    assert set(graph.signature.inputs) == {"left", "right"}
    assert set(graph.signature.outputs) == {"total", "double"}
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[-1, 5]], np.float32)
    got, wanted = run(graph, left=a, right=b), model([a, b])
    np.testing.assert_allclose(got["total"], np.asarray(wanted[0]), atol=1e-5)
    np.testing.assert_array_equal(got["double"], 2 * a)


def test_an_input_of_unknown_size_is_refused_by_name(keras: Any) -> None:
    sequence = keras.Input((None, 4), name="sequence")
    model = keras.Model(sequence, keras.layers.GlobalAveragePooling1D()(sequence))
    with pytest.raises(LoadError, match=r"'sequence'.*\[1, \?, 4\].*--shape sequence=1,128,4"):
        convert_keras(model)


def test_a_model_of_foreign_ops_is_refused_with_one_line(keras: Any) -> None:
    inputs = keras.Input((4,), name="x")
    with pytest.raises(LoadError, match="TensorFlow cannot convert") as caught:
        convert_keras(keras.Model(inputs, keras.ops.erf(inputs)))
    assert "\n" not in str(caught.value)
    assert "Erf" in str(caught.value)


def test_converting_writes_nothing_to_standard_error(conv_net: Any, capfd: pytest.CaptureFixture[str]) -> None:
    convert_keras(conv_net)
    assert capfd.readouterr() == ("", "")
