"""``.keras`` archives: names, order and numbers as in Keras; unknown sizes asked for; code refused by layer."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.converters.load.rows import assert_same, rows_for
from tests.converters.reals import real_outputs

from edgekd_converters.errors import LoadError, SourceNotFoundError
from edgekd_converters.graph import Graph
from edgekd_converters.load.keras3 import load_archive, open_source
from edgekd_converters.load.source import LoadOptions

Save = Callable[[Any], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(model: Any) -> Path:
        model.save(tmp_path / "model.keras")
        return (tmp_path / "model.keras").rename(tmp_path / "model.dat")

    return save


@pytest.fixture
def sequence_net(keras: Any, save: Save) -> Path:
    """An LSTM over a sequence of any length."""
    sequence = keras.Input((None, 4), name="sequence")
    return save(keras.Model(sequence, keras.layers.LSTM(5, name="last")(sequence)))


def test_ends_keep_their_names_and_order(keras: Any, save: Save) -> None:
    """Neither alphabetical nor legal names; two outputs of one layer, and one that serves twice."""
    zeta, alpha = keras.Input((3,), name="Zeta-1"), keras.Input((2,), name="alpha")
    halves = keras.layers.Dense(4, name="total")
    model = keras.Model(
        [zeta, alpha], [halves(keras.layers.Concatenate()([zeta, alpha])), halves(alpha_plus(keras, zeta, alpha))]
    )
    source = open_source(save(model), LoadOptions())
    assert list(source.graph.signature.inputs) == ["Zeta-1", "alpha"]
    assert list(source.graph.signature.outputs) == ["total", "total_1"]
    assert [tensor.shape for tensor in source.graph.inputs] == [(1, 3), (1, 2)]
    assert_same(source)


def alpha_plus(keras: Any, zeta: Any, alpha: Any) -> Any:
    return keras.layers.Concatenate()([alpha, keras.layers.Rescaling(2.0)(zeta)])


def test_dicts_go_by_their_keys(keras: Any, save: Save) -> None:
    left, right = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    outputs = {"sum": keras.layers.Add()([left, right]), "difference": keras.layers.Subtract()([left, right])}
    source = open_source(save(keras.Model({"left": left, "right": right}, outputs)), LoadOptions())
    columns = rows_for(source.graph, 4)
    assert set(columns) == {"left", "right"}
    np.testing.assert_allclose(source.run(columns)["difference"], columns["left"] - columns["right"], atol=1e-6)
    assert_same(source)


def test_a_sequential_model_has_ends_too(keras: Any, save: Save) -> None:
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(4), keras.layers.Softmax(name="p")])
    source = open_source(save(model), LoadOptions())
    assert [list(source.graph.signature.inputs), list(source.graph.signature.outputs)] == [["x"], ["p"]]
    assert_same(source)


def test_any_number_of_rows_gives_what_keras_gives(keras: Any, save: Save, conv_net: Any) -> None:
    source = open_source(save(conv_net), LoadOptions())
    rows = np.random.default_rng(0).normal(size=(70, 12, 12, 3)).astype(np.float32)
    made = source.run({"image": rows})["scores"]
    np.testing.assert_allclose(made, conv_net.predict(rows, verbose=0), rtol=0, atol=1e-5)


def test_a_fixed_batch_of_one_runs_row_by_row(keras: Any, save: Save) -> None:
    inputs = keras.Input(batch_shape=(1, 3), name="x")
    assert_same(open_source(save(keras.Model(inputs, keras.layers.Dense(2)(inputs))), LoadOptions()))


def test_a_fixed_batch_of_more_is_refused(keras: Any, save: Save) -> None:
    inputs = keras.Input(batch_shape=(8, 3), name="x")
    path = save(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
    with pytest.raises(LoadError, match="'x' has a fixed batch of 8; export the model with a batch of 1"):
        open_source(path, LoadOptions())


def test_an_unknown_size_is_asked_for(sequence_net: Path) -> None:
    with pytest.raises(LoadError, match=r"'sequence' has unknown sizes \[1, \?, 4\]; .*--shape sequence=1,128,4"):
        open_source(sequence_net, LoadOptions())
    source = open_source(sequence_net, LoadOptions(shapes={"sequence": (1, 6, 4)}))
    assert source.graph.inputs[0].shape == (1, 6, 4)
    assert_same(source)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"sequence": (1, 6, 5)}, r"--shape sequence=1,6,5: the model's input is \[1, \?, 4\]"),
        ({"sequence": (2, 6, 4)}, r"the model's input is \[1, \?, 4\]"),
        ({"sequence": (1, 6)}, r"the model's input is \[1, \?, 4\]"),
        ({"sequence": (1, 0, 4)}, r"the model's input is \[1, \?, 4\]"),
        ({"text": (1, 6, 4)}, r"--shape text: the model has no such input; it has 'sequence'"),
    ],
)
def test_a_shape_that_contradicts_the_model_is_refused(sequence_net: Path, shapes: Any, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        open_source(sequence_net, LoadOptions(shapes=shapes))


def test_layers_come_in_the_order_of_execution(keras: Any, save: Save) -> None:
    """Those of a model within the model as well; their values are the model's own."""
    inner = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(4, 3, name="conv"), keras.layers.ReLU()])
    image = keras.Input((6, 6, 3), name="image")
    flat = keras.layers.Flatten(name="flat")(inner(image))
    source = open_source(save(keras.Model(image, keras.ops.tanh(keras.layers.Dense(2, name="d")(flat)))), LoadOptions())
    columns = rows_for(source.graph, 1)
    assert source.layers
    found = list(source.layers(columns))
    assert [(layer.name, layer.op) for layer in found[:1] + found[2:4]] == [
        ("conv", "Conv2D"),
        ("flat", "Flatten"),
        ("d", "Dense"),
    ]
    assert [layer.op for layer in found] == ["Conv2D", "ReLU", "Flatten", "Dense", "Tanh"]
    np.testing.assert_array_equal(found[1].value, np.maximum(found[0].value, 0))
    (made,) = source.run(columns).values()
    np.testing.assert_allclose(found[-1].value, made, atol=1e-6)
    assert [layer.name for layer in source.layers(columns)] == [layer.name for layer in found]


def test_a_lambda_is_refused_by_layer(keras: Any, save: Save) -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Lambda(lambda x: x * 2, name="twice")(inputs)))
    with pytest.raises(LoadError, match=r"layer 'twice' is a Lambda, whose code is stored in the file;.*--trust"):
        open_source(save(model), LoadOptions())


def test_a_lambda_as_activation_is_refused_by_layer(keras: Any, save: Save) -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, activation=lambda x: x * 2, name="odd")(inputs))
    with pytest.raises(LoadError, match="layer 'odd' holds a lambda, whose code is stored in the file"):
        open_source(save(model), LoadOptions())


def test_a_trusted_lambda_runs(keras: Any, save: Save) -> None:
    inputs = keras.Input((3,), name="x")
    path = save(keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2, output_shape=(3,), name="y")(inputs)))
    source = open_source(path, LoadOptions(trust=True))
    columns = rows_for(source.graph, 2)
    np.testing.assert_array_equal(source.run(columns)["y"], 2 * columns["x"])


def test_a_layer_of_ones_own_is_refused_by_name(keras: Any, save: Save) -> None:
    @keras.saving.register_keras_serializable("mine")
    class Halve(keras.layers.Layer):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            return x / 2

    inputs = keras.Input((3,), name="x")
    path = save(keras.Model(inputs, Halve(name="half")(inputs)))
    with pytest.raises(LoadError, match=r"layer 'half' needs .*Halve.*, which is not part of Keras; .*model\.export"):
        open_source(path, LoadOptions())
    assert_same(open_source(path, LoadOptions(trust=True)))


def test_an_archive_of_keras_2_goes_through_tf_keras(save: Save) -> None:
    import tf_keras

    inputs = tf_keras.Input((4, 4, 2), name="x")
    x = tf_keras.layers.BatchNormalization()(tf_keras.layers.DepthwiseConv2D(3, name="d")(inputs))
    assert_same(open_source(save(tf_keras.Model(inputs, x)), LoadOptions()))


def test_an_op_that_tflite_lacks_is_named(keras: Any, save: Save) -> None:
    inputs = keras.Input((4,), name="x")
    path = save(keras.Model(inputs, keras.ops.erfinv(keras.ops.tanh(inputs))))
    with pytest.raises(LoadError, match=r"TFLite has no op for tf\.Erfinv; replace it"):
        open_source(path, LoadOptions())


def test_the_file_converts_like_the_model(save: Save, conv_net: Any, conv_graph: Graph) -> None:
    graph = open_source(save(conv_net), LoadOptions()).graph
    assert graph.signature.inputs.keys() == conv_graph.signature.inputs.keys()
    feed = rows_for(graph, 1)
    made, wanted = (real_outputs(one, [feed])["scores"] for one in (graph, conv_graph))
    np.testing.assert_array_equal(made, wanted)


def test_a_lambda_layer_is_refused_and_not_run(keras: Any, tmp_path: Path) -> None:
    marker = tmp_path / "the-code-has-run"

    write = f"__import__('pathlib').Path({str(marker)!r}).write_text('run')"
    harmless_looking = eval(f"lambda x: ({write}, x)[1]")  # Keras stores the bytecode of lambdas only
    inputs = keras.Input((3,))
    model = keras.Sequential([inputs, keras.layers.Lambda(harmless_looking)])
    model.save(tmp_path / "lambda.keras")
    marker.unlink()
    keras.models.load_model(tmp_path / "lambda.keras", safe_mode=False)
    assert marker.exists(), "loading it carelessly does run the code"
    marker.unlink()
    with pytest.raises(LoadError) as caught:
        load_archive(tmp_path / "lambda.keras")
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    assert "lambda" in str(caught.value).lower()


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no such file") as caught:
        load_archive(tmp_path / "none.keras")
    assert caught.value.exit_code == 2


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        load_archive(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + b"\x00" * 500], ids=["empty", "text", "h5"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(LoadError, match=r"not a \.keras archive"):
        load_archive(tmp_path / "model.keras")


@pytest.mark.parametrize("part", [0.2, 0.6, 0.98])
def test_a_truncated_archive_is_refused(student: Any, tmp_path: Path, part: float) -> None:
    student.save(tmp_path / "whole.keras")
    content = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: int(part * len(content))])
    with pytest.raises(LoadError) as caught:
        load_archive(tmp_path / "cut.keras")
    assert "\n" not in str(caught.value)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(LoadError, match=r"other\.keras") as caught:
        load_archive(tmp_path / "other.keras")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["weights", "config", "class"])
def test_an_archive_damaged_within_is_refused(student: Any, tmp_path: Path, damage: str) -> None:
    student.save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    if damage == "weights":
        members["model.weights.h5"] = members["model.weights.h5"][:200]
    elif damage == "config":
        members["config.json"] = members["config.json"][:50]
    else:
        config = json.loads(members["config.json"])
        config["class_name"] = config["registered_name"] = "NoSuchModel"
        members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "damaged.keras", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(LoadError) as caught:
        load_archive(tmp_path / "damaged.keras")
    assert "\n" not in str(caught.value)
