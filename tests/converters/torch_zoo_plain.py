"""AlexNet, VGG, and the residual networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def conv_norm(
    source: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    """A convolution that keeps the size, batch norm, and an activation."""
    conv = nn.Conv2d(source, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), *([act()] if act else []))


class AlexNet(nn.Module):
    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, width, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(width, 3 * width, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(3 * width, 6 * width, 3, padding=1), nn.ReLU(True)),
            *(nn.Conv2d(6 * width, 4 * width, 3, padding=1), nn.ReLU(True)),
            *(nn.Conv2d(4 * width, 4 * width, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(4 * width, 32), nn.ReLU(True)),
            *(nn.Dropout(), nn.Linear(32, 32), nn.ReLU(True), nn.Linear(32, classes)),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))


class VGG(nn.Module):
    """Its first dense layer reads a grid of 2 × 2, which flattening puts into NCHW's order."""

    def __init__(self, width: int = 8, classes: int = 10, norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        source = 3
        for times in (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"):
            if times == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(source, width * int(times), 3, padding=1))
            source = width * int(times)
            layers += [nn.BatchNorm2d(source), nn.ReLU(True)] if norm else [nn.ReLU(True)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            *(nn.Linear(source * 4, 48), nn.ReLU(True), nn.Dropout()),
            *(nn.Linear(48, 48), nn.ReLU(True), nn.Dropout(), nn.Linear(48, classes)),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, source: int, width: int, stride: int, **_: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_norm(source, width, 3, stride), conv_norm(width, width, 3, act=None)
        changes = stride > 1 or source != width
        self.downsample = conv_norm(source, width, 1, stride, act=None) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(self.conv1(x)) + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, source: int, width: int, stride: int, groups: int = 1, widening: int = 1) -> None:
        super().__init__()
        inner, out = width * widening, width * self.expansion
        self.conv1 = conv_norm(source, inner, 1)
        self.conv2 = conv_norm(inner, inner, 3, stride, groups)
        self.conv3 = conv_norm(inner, out, 1, act=None)
        changes = stride > 1 or source != out
        self.downsample = conv_norm(source, out, 1, stride, act=None) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv3(self.conv2(self.conv1(x))) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, block: Any, depths: tuple[int, ...], width: int, classes: int = 10, **options: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, width, 7, 2), nn.MaxPool2d(3, 2, 1))
        layers, source = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                channels = width * 2**stage
                layers.append(block(source, channels, 2 if stage and not i else 1, **options))
                source = channels * block.expansion
        self.layers = nn.Sequential(*layers)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(source, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.layers(self.stem(image))), 1))


def resnet18(width: int = 8) -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), width)


def resnet50(width: int = 4, depths: tuple[int, ...] = (1, 2, 2, 1)) -> nn.Module:
    return ResNet(Bottleneck, depths, width)


def resnext50(width: int = 8, depths: tuple[int, ...] = (1, 2, 2, 1)) -> nn.Module:
    return ResNet(Bottleneck, depths, width, groups=4)


def wide_resnet50(width: int = 4, depths: tuple[int, ...] = (1, 2, 2, 1)) -> nn.Module:
    return ResNet(Bottleneck, depths, width, widening=2)


class SqueezeExcite(nn.Module):
    """A gate for every channel; ``gate`` is a sigmoid, hard or not."""

    def __init__(self, channels: int, squeezed: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.avgpool(x)))))


class _RegNetBlock(nn.Module):
    def __init__(self, source: int, width: int, stride: int, group: int, squeezes: bool) -> None:
        super().__init__()
        self.a, self.b = conv_norm(source, width, 1), conv_norm(width, width, 3, stride, width // group)
        self.se = SqueezeExcite(width, source // 4, nn.ReLU, nn.Sigmoid) if squeezes else nn.Identity()
        self.c = conv_norm(width, width, 1, act=None)
        changes = stride > 1 or source != width
        self.proj = conv_norm(source, width, 1, stride, act=None) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.proj(x) + self.c(self.se(self.b(self.a(x)))))


class RegNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 16, 24, 40), group: int = 8, squeezes: bool = False) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8, 3, 2)
        blocks, source = [], 8
        for width, depth in zip(widths, (1, 1, 2, 1), strict=True):
            for i in range(depth):
                blocks.append(_RegNetBlock(source, width, 1 if i else 2, group, squeezes))
                source = width
        self.blocks, self.avgpool, self.fc = nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Linear(source, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.blocks(self.stem(image))).flatten(start_dim=1))
