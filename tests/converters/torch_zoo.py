"""The families of torchvision as plain modules with random weights: their structure, narrow and shallow."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable

import torch
from tests.converters import torch_zoo_attention as attention
from tests.converters import torch_zoo_dense as dense
from tests.converters import torch_zoo_mobile as mobile
from tests.converters import torch_zoo_plain as plain
from torch import nn

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "alexnet": plain.AlexNet,
    "vgg11": plain.VGG,
    "vgg11_bn": functools.partial(plain.VGG, norm=True),
    "resnet18": plain.resnet18,
    "resnet50": plain.resnet50,
    "resnext50": plain.resnext50,
    "wide_resnet50": plain.wide_resnet50,
    "regnet_x": plain.RegNet,
    "regnet_y": functools.partial(plain.RegNet, squeezes=True),
    "convnext": attention.ConvNeXt,
    "vit": attention.ViT,
    "swin": attention.Swin,
    "mobilenet_v2": mobile.MobileNetV2,
    "mobilenet_v3": mobile.MobileNetV3,
    "mnasnet": mobile.MNASNet,
    "efficientnet": mobile.EfficientNet,
    "shufflenet_v2": mobile.ShuffleNetV2,
    "squeezenet": mobile.SqueezeNet,
    "densenet": dense.DenseNet,
    "googlenet": dense.GoogLeNet,
    "inception_v3": dense.Inception,
    "unet": dense.UNet,
    "fcn": dense.FCN,
    "deeplab_v3": dense.DeepLab,
    "lraspp": mobile.LRASPP,
}
"""Name → builder of a module that takes one ``(n, 3, h, w) float32`` tensor."""

_SIZES = {"inception_v3": 96, "vit": 32, "swin": 64, "unet": 32}


def shape(name: str) -> tuple[int, int, int, int]:
    """The example input's, NCHW with a batch of 1."""
    size = _SIZES.get(name, 64)
    return (1, 3, size, size)


def model(name: str) -> nn.Module:
    """In evaluation mode. Weights and statistics are drawn such that the input still tells at the output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        built = ARCHITECTURES[name]()
        for part in built.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, 0, 0.1)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
                nn.init.uniform_(part.weight, 0.8, 1.2)
                nn.init.normal_(part.bias, 0, 0.1)
    return built.eval()


def program(name: str, *, dynamic: bool = False) -> torch.export.ExportedProgram:
    """``torch.export.export`` of the model, with a batch of 1 or of any size."""
    batch = torch.export.Dim("batch", min=1, max=64)
    example = torch.zeros(2 if dynamic else 1, *shape(name)[1:])
    return torch.export.export(model(name), (example,), dynamic_shapes=({0: batch},) if dynamic else None)
