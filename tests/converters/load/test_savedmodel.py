"""SavedModel folders: signatures, names, sizes, and what is refused before TensorFlow loads it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.converters.load.rows import assert_same, rows_for

from edgekd_converters.errors import LoadError
from edgekd_converters.load.savedmodel import open_source
from edgekd_converters.load.source import LoadOptions
from edgekd_converters.quiet import quiet


def save(tf: Any, path: Path, **functions: Any) -> Path:
    """A module with a variable ``w`` of (4, 5); each function: (module → callable, {input: shape})."""
    module = tf.Module()
    module.w = tf.Variable(np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32))
    signatures = {
        key: tf.function(
            make(module), input_signature=[tf.TensorSpec(shape, tf.float32, name=name) for name, shape in ends.items()]
        )
        for key, (make, ends) in functions.items()
    }
    with quiet():
        tf.saved_model.save(module, str(path), signatures=signatures)
    return path


@pytest.fixture(scope="module")
def functions(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signatures of plain functions."""
    return save(
        tf,
        tmp_path_factory.mktemp("functions"),
        product=(
            lambda m: lambda zeta, alpha: {"z": zeta @ m.w, "b": zeta * alpha},
            {"zeta": [None, 4], "alpha": [None, 4]},
        ),
        total=(lambda m: lambda rows: tf.reduce_sum(rows @ m.w, 1), {"rows": [None, None, 4]}),
    )


def test_a_signature_is_chosen_by_its_name(functions: Path) -> None:
    source = open_source(functions, LoadOptions(signature="product"))
    assert list(source.graph.signature.inputs) == ["alpha", "zeta"]  # a SavedModel keeps no order
    assert list(source.graph.signature.outputs) == ["b", "z"]
    rows = rows_for(source.graph, 40)
    np.testing.assert_allclose(source.run(rows)["b"], rows["alpha"] * rows["zeta"], atol=1e-6)
    assert_same(source)


def test_several_signatures_are_listed(functions: Path) -> None:
    with pytest.raises(LoadError, match="several signatures; say which with --signature: it has product, total"):
        open_source(functions, LoadOptions())
    with pytest.raises(LoadError, match="--signature sum: there is no such signature: it has product, total"):
        open_source(functions, LoadOptions(signature="sum"))


def test_an_unknown_size_is_asked_for(functions: Path) -> None:
    with pytest.raises(LoadError, match=r"'rows' has unknown sizes \[1, \?, 4\]; .*--shape rows=1,128,4"):
        open_source(functions, LoadOptions(signature="total"))
    source = open_source(functions, LoadOptions(signature="total", shapes={"rows": (1, 3, 4)}))
    assert not any(tensor.is_dynamic for tensor in source.graph.tensors)
    assert_same(source)


def test_a_keras_3_export_serves(keras: Any, tmp_path: Path) -> None:
    image = keras.Input((6, 6, 3), name="image")
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(image))
    outputs = [keras.layers.Dense(2 + i)(x) for i in range(11)]
    with quiet():
        keras.Model(image, outputs).export(tmp_path / "export", verbose=False)
    source = open_source(tmp_path / "export", LoadOptions())
    made = assert_same(source)
    assert [values.shape[1] for values in made.values()] == list(range(2, 13)), "the order of the model's outputs"


def test_a_keras_2_folder_keeps_names_and_tells_its_inner_results(tmp_path: Path, keras: Any) -> None:
    import tf_keras

    inputs = tf_keras.Input((8, 2), name="my-input")
    x = tf_keras.layers.LSTM(3, name="lstm")(tf_keras.layers.BatchNormalization(name="norm")(inputs))
    with quiet():
        tf_keras.Model(inputs, tf_keras.layers.Dense(2, name="scores")(x)).save(tmp_path / "folder")
    source = open_source(tmp_path / "folder", LoadOptions())
    assert list(source.graph.signature.inputs) == ["my-input"]
    made = assert_same(source)
    assert source.layers
    layers = list(source.layers({name: rows[:1] for name, rows in rows_for(source.graph, 3).items()}))
    assert layers[0].name.split("/")[1] == "norm"
    assert (layers[-1].name.split("/")[-2:], layers[-1].op) == (["scores", "BiasAdd"], "BiasAdd")
    np.testing.assert_allclose(layers[-1].value, made["scores"][:1], atol=1e-5)


def test_no_signature_is_no_model(tf: Any, tmp_path: Path) -> None:
    with quiet():
        tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(LoadError, match="no signature, so its inputs are not known; save it with"):
        open_source(tmp_path, LoadOptions())


def test_a_python_function_is_refused_where_it_is_used(tf: Any, tmp_path: Path) -> None:
    def with_python(module: Any) -> Any:
        return lambda x: tf.ensure_shape(tf.py_function(lambda v: v * 2, [x], tf.float32), [None, 4])

    ends = {"x": [None, 4]}
    save(tf, tmp_path, python=(with_python, ends), plain=(lambda m: lambda x: x @ m.w, ends))
    with pytest.raises(LoadError, match=r"'EagerPyFunc' in the function .* is a tf\.py_function, whose Python code"):
        open_source(tmp_path, LoadOptions(signature="python", trust=True))
    assert_same(open_source(tmp_path, LoadOptions(signature="plain")))


def test_an_op_that_reaches_out_is_refused_and_not_run(tf: Any, tmp_path: Path) -> None:
    marker = tmp_path / "written"

    def writing(module: Any) -> Any:
        def call(x: Any) -> Any:
            tf.io.write_file(str(marker), "x")
            return x @ module.w

        return call

    save(tf, tmp_path / "m", serving_default=(writing, {"x": [None, 4]}))
    with pytest.raises(LoadError, match=r"'WriteFile' in the function .* reaches out of the model; .*--trust"):
        open_source(tmp_path / "m", LoadOptions())
    assert not marker.exists()


def test_an_op_that_tflite_lacks_is_named(tf: Any, tmp_path: Path) -> None:
    save(tf, tmp_path, one=(lambda m: lambda x: tf.math.digamma(tf.math.erfinv(x)), {"x": [None, 4]}))
    with pytest.raises(LoadError, match=r"TFLite has no op for tf\.Digamma, tf\.Erfinv; replace them"):
        open_source(tmp_path, LoadOptions())


def test_a_custom_op_is_named(tf: Any, functions: Path, tmp_path: Path) -> None:
    content = (functions / "saved_model.pb").read_bytes()
    assert b"\x06MatMul" in content
    (tmp_path / "saved_model.pb").write_bytes(content.replace(b"\x06MatMul", b"\x06MyOp42"))
    (tmp_path / "variables").symlink_to(functions / "variables")
    with pytest.raises(LoadError, match="custom op 'MyOp42', which TensorFlow does not know"):
        open_source(tmp_path, LoadOptions(signature="product"))


def test_strings_are_refused(tf: Any, tmp_path: Path) -> None:
    function = tf.function(
        lambda text: tf.strings.length(text), input_signature=[tf.TensorSpec([None], tf.string, "text")]
    )
    with quiet():
        tf.saved_model.save(tf.Module(), str(tmp_path), signatures={"serve": function})
    with pytest.raises(LoadError, match="input 'text' is of type string"):
        open_source(tmp_path, LoadOptions())


@pytest.mark.parametrize("damage", ["cut", "no variables", "nothing"])
def test_a_damaged_folder_is_one_line(functions: Path, tmp_path: Path, damage: str) -> None:
    content = (functions / "saved_model.pb").read_bytes()
    part = {"cut": content[: len(content) // 2], "no variables": content, "nothing": b""}[damage]
    (tmp_path / "saved_model.pb").write_bytes(part)
    with pytest.raises(LoadError) as caught:
        open_source(tmp_path, LoadOptions(signature="product"))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)
