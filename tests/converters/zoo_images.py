"""Tiny models of images and sounds, each wired as its architecture is. Weights are random; ``zoo.py`` draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekd_converters.quiet import import_tensorflow

import_tensorflow()
import keras  # noqa: E402
from keras import layers, ops  # noqa: E402

CLASSES = 10


def _bn_act(x: Any, activation: str | None = "relu") -> Any:
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def _conv(x: Any, filters: int, size: Any = 3, activation: str | None = "relu", **options: Any) -> Any:
    """Convolution without bias → batch norm → activation, what nearly all of them are made of."""
    options = {"padding": "same", "use_bias": False} | options
    return _bn_act(layers.Conv2D(filters, size, **options)(x), activation)


def _depthwise(x: Any, size: int = 3, activation: str | None = "relu", **options: Any) -> Any:
    options = {"padding": "same", "use_bias": False} | options
    return _bn_act(layers.DepthwiseConv2D(size, **options)(x), activation)


def _classifier(image: Any, x: Any, activation: str | None = "softmax") -> keras.Model:
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(CLASSES, activation=activation, name="scores")(x))


def _image(size: int = 16, channels: int = 3) -> Any:
    return keras.Input((size, size, channels), name="image")


def _shuffle(x: Any, groups: int) -> Any:
    """Channels read column-wise instead of row-wise, as a matrix with one row per group."""
    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height, width, groups, channels // groups))
    return ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, height, width, channels))


def mobilenet_v1() -> keras.Model:
    """As in keras.applications: explicit padding before strides, a 1×1 convolution as classifier."""
    image = _image(24)
    x = _conv(image, 8, strides=2, activation="relu6")
    for filters, strides in ((16, 1), (24, 2), (24, 1), (32, 2)):
        if strides == 2:
            x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
        x = _depthwise(x, activation="relu6", strides=strides, padding="same" if strides == 1 else "valid")
        x = _conv(x, filters, 1, activation="relu6")
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Reshape((CLASSES,))(layers.Conv2D(CLASSES, 1)(x))
    return keras.Model(image, layers.Softmax(name="scores")(x))


def _inverted_residual(x: Any, expand: int, filters: int, strides: int, size: int = 3, act: str = "relu6") -> Any:
    y = _conv(x, expand, 1, activation=act) if expand > x.shape[-1] else x
    y = _depthwise(y, size, activation=act, strides=strides)
    y = _conv(y, filters, 1, activation=None)
    return layers.Add()([x, y]) if strides == 1 and filters == x.shape[-1] else y


def mobilenet_v2() -> keras.Model:
    image = _image(24)
    x = _conv(image, 16, strides=2, activation="relu6")
    x = _inverted_residual(x, 16, 8, 1)
    for expand, filters, strides in ((32, 16, 2), (64, 16, 1), (64, 16, 1), (64, 24, 2)):
        x = _inverted_residual(x, expand, filters, strides)
    return _classifier(image, _conv(x, 48, 1, activation="relu6"))


def _hard_sigmoid(x: Any) -> Any:
    return layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)


def _squeeze_excite(x: Any, squeezed: int) -> Any:
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(squeezed, 1, activation="relu")(gate)
    return layers.Multiply()([x, _hard_sigmoid(layers.Conv2D(x.shape[-1], 1)(gate))])


def mobilenet_v3() -> keras.Model:
    """V3-Small: relu blocks, then hard-swish blocks, squeeze-excite after the depthwise convolution."""
    image = _image(24)
    x = _conv(image, 16, strides=2, activation="hard_swish")
    for expand, filters, strides, act in ((16, 16, 1, "relu"), (32, 24, 2, "hard_swish"), (48, 24, 1, "hard_swish")):
        y = _conv(x, expand, 1, activation=act) if expand > x.shape[-1] else x
        y = _squeeze_excite(_depthwise(y, 5, activation=act, strides=strides), 8)
        y = _conv(y, filters, 1, activation=None)
        x = layers.Add()([x, y]) if y.shape == x.shape else y
    x = layers.GlobalAveragePooling2D(keepdims=True)(_conv(x, 48, 1, activation="hard_swish"))
    x = layers.Conv2D(32, 1, activation="hard_swish")(x)
    x = layers.Flatten()(layers.Conv2D(CLASSES, 1)(x))
    return keras.Model(image, layers.Softmax(name="scores")(x))


def efficientnet_lite() -> keras.Model:
    """Inverted residuals with 5×5 among them; Lite has relu6 and no squeeze-excite."""
    image = _image(24)
    x = _conv(image, 16, strides=2, activation="relu6")
    x = _inverted_residual(x, 16, 16, 1)
    for expand, filters, strides, size in ((48, 24, 2, 3), (72, 24, 1, 3), (72, 32, 2, 5), (96, 32, 1, 5)):
        x = _inverted_residual(x, expand, filters, strides, size)
    return _classifier(image, _conv(x, 64, 1, activation="relu6"))


def _basic_block(x: Any, filters: int, strides: int, shortcut: Any) -> Any:
    y = _conv(x, filters, strides=strides)
    y = _conv(y, filters, activation=None)
    return layers.ReLU()(layers.Add()([shortcut, y]))


def resnet() -> keras.Model:
    """Basic blocks; where the shape changes, the shortcut is a 1×1 convolution (with bias, as in MLPerf Tiny's)."""
    image = _image()
    x = _conv(image, 16)
    for filters, strides in ((16, 1), (24, 2), (32, 2), (32, 1)):
        same = strides == 1 and filters == x.shape[-1]
        x = _basic_block(x, filters, strides, x if same else layers.Conv2D(filters, 1, strides=strides)(x))
    return _classifier(image, x)


def resnet_padded() -> keras.Model:
    """Option A of the paper: the shortcut takes every other pixel and pads the channels with zeros on both sides."""
    image = _image()
    x = _conv(image, 16)
    for filters, strides in ((16, 1), (24, 2), (40, 2)):
        shortcut = x
        if filters != x.shape[-1]:
            more = (filters - x.shape[-1]) // 2
            shortcut = ops.pad(x[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (more, more)))
        x = _basic_block(x, filters, strides, shortcut)
    return _classifier(image, x)


def _bottlenecks(groups: int) -> keras.Model:
    image = _image()
    x = layers.MaxPooling2D(3, 2, padding="same")(_conv(image, 16))
    for inner, filters, strides in ((16, 32, 1), (16, 32, 1), (24, 48, 2)):
        shortcut = x
        if filters != x.shape[-1] or strides != 1:
            shortcut = _conv(x, filters, 1, activation=None, strides=strides)
        y = _conv(x, inner, 1)
        y = _conv(y, inner, strides=strides, groups=groups)
        y = _conv(y, filters, 1, activation=None)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    return _classifier(image, x)


def resnet_bottleneck() -> keras.Model:
    return _bottlenecks(groups=1)


def resnext() -> keras.Model:
    return _bottlenecks(groups=2)


def densenet() -> keras.Model:
    """Batch norm and relu come before each convolution, so that they cannot be folded; all earlier maps are joined."""
    image = _image()
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(image)
    for block in range(2):
        for _ in range(3):
            y = layers.Conv2D(24, 1, use_bias=False)(_bn_act(x))
            y = layers.Conv2D(8, 3, padding="same", use_bias=False)(_bn_act(y))
            x = layers.Concatenate()([x, y])
        if block == 0:  # the transition halves channels and pixels
            x = layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(_bn_act(x))
            x = layers.AveragePooling2D(2)(x)
    return _classifier(image, _bn_act(x))


def shufflenet_v1() -> keras.Model:
    """Grouped 1×1 → shuffle → depthwise → grouped 1×1; added where strides are 1, joined to a pooled shortcut else."""
    image = _image()
    x = layers.MaxPooling2D(3, 2, padding="same")(_conv(image, 16))
    for filters, strides in ((32, 1), (32, 1), (64, 2)):
        joined = filters != x.shape[-1]
        y = _conv(x, 16, 1, groups=2)
        y = _depthwise(_shuffle(y, 2), activation=None, strides=strides)
        y = _conv(y, filters - x.shape[-1] if joined else filters, 1, activation=None, groups=2)
        shortcut = layers.AveragePooling2D(3, strides, padding="same")(x) if joined else x
        x = layers.ReLU()((layers.Concatenate() if joined else layers.Add())([shortcut, y]))
    return _classifier(image, x)


def shufflenet_v2() -> keras.Model:
    """Half of the channels pass untouched (split), then both halves are joined and shuffled."""
    image = _image()
    x = _conv(image, 16, strides=2)
    for strides in (1, 2, 1):
        if strides == 1:
            kept, y = ops.split(x, 2, axis=-1)
        else:
            kept, y = _conv(_depthwise(x, activation=None, strides=2), x.shape[-1], 1), x
        y = _depthwise(_conv(y, y.shape[-1], 1), activation=None, strides=strides)
        y = _conv(y, y.shape[-1], 1)
        x = _shuffle(layers.Concatenate()([kept, y]), 2)
    return _classifier(image, _conv(x, 48, 1))


def squeezenet() -> keras.Model:
    """Fire modules: squeeze 1×1 → 1×1 and 3×3 side by side → concat. No batch norm; the last convolution classifies."""
    image = _image()
    x = layers.Conv2D(16, 3, strides=2, activation="relu", padding="same")(image)
    for squeeze, expand in ((8, 16), (8, 16), (16, 24)):
        x = layers.Conv2D(squeeze, 1, activation="relu")(x)
        sides = [layers.Conv2D(expand, size, activation="relu", padding="same")(x) for size in (1, 3)]
        x = layers.Concatenate()(sides)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(CLASSES, 1, activation="relu")(x))
    return keras.Model(image, layers.Softmax(name="scores")(x))


def inception() -> keras.Model:
    """Four branches of different depth, one of them average pooling; one 3×3 in its 1×3 and 3×1 halves."""
    image = _image()
    x = _conv(image, 16, strides=2, padding="valid")
    for _ in range(2):
        one = _conv(x, 16, 1)
        three = _conv(_conv(x, 8, 1), 16)
        double = _conv(_conv(_conv(x, 8, 1), 16, (1, 3)), 16, (3, 1))
        pooled = _conv(layers.AveragePooling2D(3, 1, padding="same")(x), 8, 1)
        x = layers.Concatenate()([one, three, double, pooled])
    return _classifier(image, x)


def _unet(*up: Callable[[Any], Any]) -> keras.Model:
    """Two levels down and up again; ``up``: the upsampling from the deepest on."""
    image = _image()
    first = _conv(_conv(image, 8), 8)
    second = _conv(layers.MaxPooling2D(2)(first), 16)
    x = _conv(layers.MaxPooling2D(2)(second), 24)
    for rise, skip in zip(up, (second, first), strict=True):
        x = _conv(layers.Concatenate()([skip, rise(x)]), skip.shape[-1])
    return keras.Model(image, layers.Conv2D(3, 1, activation="sigmoid", name="mask")(x))


def unet_resize() -> keras.Model:
    return _unet(*(layers.UpSampling2D(2, interpolation="bilinear") for _ in range(2)))


def unet_nearest() -> keras.Model:
    """A resize proper, and Keras 3's own upsampling, which is written as tiles."""

    def resize(x: Any) -> Any:
        return ops.image.resize(x, (8, 8), interpolation="nearest")

    return _unet(resize, layers.UpSampling2D(2))


def unet_transposed() -> keras.Model:
    return _unet(layers.Conv2DTranspose(16, 2, strides=2), layers.Conv2DTranspose(8, 2, strides=2))


def ds_cnn() -> keras.Model:
    """Keyword spotting: 49 frames of 10 MFCCs."""
    sound = keras.Input((49, 10, 1), name="mfcc")
    x = _conv(sound, 16, (10, 4), strides=2, use_bias=True)
    for _ in range(3):
        x = _conv(_depthwise(x, use_bias=True), 16, 1, use_bias=True)
    x = layers.Flatten()(layers.AveragePooling2D((25, 5))(x))
    return keras.Model(sound, layers.Dense(12, activation="softmax", name="words")(x))


def conv_autoencoder() -> keras.Model:
    """Convolutions → flatten → dense code → dense → reshape → transposed convolutions, with batch norm after them."""
    image = _image(16, 1)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    code = layers.Dense(8, name="code")(layers.Flatten()(x))
    x = layers.Reshape((4, 4, 16))(layers.Dense(4 * 4 * 16, activation="relu")(code))
    x = _bn_act(layers.Conv2DTranspose(16, 3, strides=2, padding="same")(x))
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="restored")(x))


def multi_input_output() -> keras.Model:
    """A picture and a vector of sensors; out come classes, a regression and the joint features themselves."""
    image, sensors = _image(), keras.Input((6,), name="sensors")
    x = _conv(_conv(image, 16, strides=2), 24, strides=2)
    seen = layers.GlobalMaxPooling2D()(x)
    felt = layers.Dense(16, activation="tanh")(sensors)
    joint = layers.Dense(24, activation="relu", name="features")(layers.Concatenate()([seen, felt]))
    scores = layers.Dense(CLASSES, activation="softmax", name="scores")(layers.Dense(16, activation="elu")(joint))
    value = layers.Dense(1, name="value")(layers.Dense(16, activation="leaky_relu")(joint))
    return keras.Model([image, sensors], [scores, value, joint])
