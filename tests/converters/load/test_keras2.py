"""``.h5`` files of Keras 1, 2 and 3, those with configs that Keras 3 refuses among them; no code in them is run."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tests.converters.load.rows import assert_same, rows_for

from edgekd_converters.errors import LoadError
from edgekd_converters.load.keras2 import open_source
from edgekd_converters.load.source import LoadOptions


@pytest.fixture(scope="module")
def tf_keras(keras: Any) -> Any:
    import tf_keras

    return tf_keras


@pytest.fixture
def old_net(tf_keras: Any, tmp_path: Path) -> Path:
    """As Keras 2.2 wrote DepthwiseConv2D: with ``groups``, an argument of Conv2D."""
    tf_keras.utils.set_random_seed(1)
    image = tf_keras.Input((8, 8, 3), name="image")
    x = tf_keras.layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(image)
    x = tf_keras.layers.ReLU(6.0)(tf_keras.layers.BatchNormalization()(x))
    model = tf_keras.Model(image, tf_keras.layers.Dense(4, name="scores")(tf_keras.layers.Flatten()(x)))
    model.save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "a") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"].update(groups=1)
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.2.4-tf"
    return (tmp_path / "old.h5").rename(tmp_path / "old.dat")


def test_a_config_that_keras_3_refuses_is_opened(keras: Any, old_net: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="groups"):
        keras.models.load_model(old_net.rename(tmp_path / "old.h5"), compile=False)
    source = open_source((tmp_path / "old.h5").rename(old_net), LoadOptions())
    assert (source.format, list(source.graph.signature.inputs)) == ("h5", ["image"])
    assert_same(source)
    assert source.layers
    layers = list(source.layers(rows_for(source.graph, 1)))
    assert [layer.name for layer in layers][:2] == ["depthwise", "batch_normalization"]
    assert [layer.value.shape for layer in layers][-2:] == [(1, 108), (1, 4)]


def test_a_file_of_keras_3_is_opened_by_keras_3(keras: Any, conv_net: Any, tmp_path: Path) -> None:
    conv_net.save(tmp_path / "new.h5")
    source = open_source(tmp_path / "new.h5", LoadOptions())
    rows = rows_for(source.graph, 5)
    np.testing.assert_allclose(source.run(rows)["scores"], conv_net.predict(rows["image"], verbose=0), atol=1e-5)


def test_an_unknown_size_is_asked_for(tf_keras: Any, tmp_path: Path) -> None:
    sequence = tf_keras.Input((None, 4), name="sequence")
    tf_keras.Model(sequence, tf_keras.layers.GRU(3)(sequence)).save(tmp_path / "m.h5")
    with pytest.raises(LoadError, match=r"'sequence' has unknown sizes \[1, \?, 4\]"):
        open_source(tmp_path / "m.h5", LoadOptions())
    assert_same(open_source(tmp_path / "m.h5", LoadOptions(shapes={"sequence": (1, 5, 4)})))


def test_a_lambda_is_refused_and_not_run_unless_trusted(tf_keras: Any, tmp_path: Path) -> None:
    marker = tmp_path / "the-code-has-run"
    code = eval(f"lambda x: (__import__('pathlib').Path({str(marker)!r}).write_text('run'), x * 2)[1]")
    inputs = tf_keras.Input((3,), name="x")
    tf_keras.Model(inputs, tf_keras.layers.Lambda(code, name="trap")(inputs)).save(tmp_path / "m.h5")
    marker.unlink()
    with pytest.raises(LoadError, match="layer 'trap' is a Lambda, whose code is stored in the file"):
        open_source(tmp_path / "m.h5", LoadOptions())
    assert not marker.exists()
    source = open_source(tmp_path / "m.h5", LoadOptions(trust=True))
    assert marker.exists()
    rows = rows_for(source.graph, 2)
    np.testing.assert_array_equal(source.run(rows)["trap"], 2 * rows["x"])


def test_an_unknown_layer_is_named(old_net: Path) -> None:
    with h5py.File(old_net, "a") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"DepthwiseConv2D"', '"MyConv"')
    with pytest.raises(LoadError, match="tf_keras cannot load it: Unknown layer: 'MyConv'") as caught:
        open_source(old_net, LoadOptions())
    assert "\n" not in str(caught.value)


def test_weights_alone_are_no_model(conv_net: Any, tmp_path: Path) -> None:
    conv_net.save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(LoadError, match=r"holds weights without a model; save the whole.*not save_weights"):
        open_source(tmp_path / "net.weights.h5", LoadOptions())
