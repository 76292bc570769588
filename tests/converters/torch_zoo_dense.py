"""Networks whose branches are concatenated, and networks for segmentation."""

from __future__ import annotations

import torch
from tests.converters.torch_zoo_plain import Bottleneck, conv_norm
from torch import Tensor, nn


class _DenseLayer(nn.Module):
    def __init__(self, source: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(source), nn.Conv2d(source, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(torch.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(torch.relu(self.norm2(x)))


class _DenseBlock(nn.Module):
    def __init__(self, source: int, growth: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_DenseLayer(source + i * growth, growth) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self, growth: int = 8, depths: tuple[int, ...] = (2, 3, 3), classes: int = 10) -> None:
        super().__init__()
        source = 2 * growth
        layers: list[nn.Module] = [conv_norm(3, source, 7, 2), nn.MaxPool2d(3, 2, 1)]
        for i, depth in enumerate(depths):
            layers.append(_DenseBlock(source, growth, depth))
            source += depth * growth
            if i < len(depths) - 1:
                layers += [nn.BatchNorm2d(source), nn.ReLU(True), nn.Conv2d(source, source // 2, 1, bias=False)]
                layers.append(nn.AvgPool2d(2, 2))
                source //= 2
        self.features, self.classifier = nn.Sequential(*layers, nn.BatchNorm2d(source)), nn.Linear(source, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.features(image)), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class _GoogLeNetBlock(nn.Module):
    def __init__(self, source: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> None:
        super().__init__()
        self.branch1 = conv_norm(source, one, 1)
        self.branch2 = nn.Sequential(conv_norm(source, three[0], 1), conv_norm(three[0], three[1], 3))
        self.branch3 = nn.Sequential(conv_norm(source, five[0], 1), conv_norm(five[0], five[1], 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_norm(source, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(conv_norm(3, 16, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(conv_norm(16, 16, 1), conv_norm(16, 24, 3), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(_GoogLeNetBlock(24, 8, (8, 16), (4, 8), 8), _GoogLeNetBlock(40, 16, (8, 16), (4, 8), 8)),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *(_GoogLeNetBlock(48, 16, (8, 24), (4, 8), 16), nn.MaxPool2d(2, 2, ceil_mode=True)),
            _GoogLeNetBlock(64, 24, (8, 24), (8, 16), 16),
        )
        self.avgpool, self.dropout, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(0.2), nn.Linear(80, classes)

    def forward(self, image: Tensor) -> Tensor:
        # As torchvision does with ImageNet weights: from its own normalisation to the one of the original.
        red = image[:, 0].unsqueeze(1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = image[:, 1].unsqueeze(1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = image[:, 2].unsqueeze(1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        x = self.layers(torch.cat((red, green, blue), 1))
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))


def _basic(source: int, channels: int, kernel: int | tuple[int, int], stride: int = 1) -> nn.Sequential:
    """Inception's convolution: odd kernels keep the size, strided ones do not."""
    sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = (0, 0) if stride > 1 else (sides[0] // 2, sides[1] // 2)
    conv = nn.Conv2d(source, channels, sides, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels, eps=0.001), nn.ReLU(True))


class _Branches(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _inception_a(n: int) -> nn.Module:
    return _Branches(
        _basic(n, 8, 1),
        nn.Sequential(_basic(n, 8, 1), _basic(8, 8, 5)),
        nn.Sequential(_basic(n, 8, 1), _basic(8, 12, 3), _basic(12, 12, 3)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), _basic(n, 8, 1)),  # the padding counts
    )


def _inception_c(n: int) -> nn.Module:
    return _Branches(
        _basic(n, 16, 1),
        nn.Sequential(_basic(n, 8, 1), _basic(8, 8, (1, 7)), _basic(8, 16, (7, 1))),
        nn.Sequential(*(_basic(n, 8, 1), _basic(8, 8, (7, 1)), _basic(8, 8, (1, 7)), _basic(8, 16, (7, 1)))),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), _basic(n, 16, 1)),
    )


def _inception_e(n: int) -> nn.Module:
    return _Branches(
        _basic(n, 16, 1),
        nn.Sequential(_basic(n, 16, 1), _Branches(_basic(16, 16, (1, 3)), _basic(16, 16, (3, 1)))),
        nn.Sequential(_basic(n, 16, 1), _basic(16, 16, 3), _Branches(_basic(16, 16, (1, 3)), _basic(16, 16, (3, 1)))),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), _basic(n, 8, 1)),
    )


class Inception(nn.Module):
    """Version 3, one block of each kind."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(_basic(3, 8, 3, 2), nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(True))),
            *(_basic(8, 16, 3), nn.MaxPool2d(3, 2), _basic(16, 20, 1)),
            _inception_a(20),
            _Branches(_basic(36, 24, 3, 2), nn.Sequential(_basic(36, 8, 1), _basic(8, 12, 3, 2)), nn.MaxPool2d(3, 2)),
            _inception_c(72),
            _Branches(
                nn.Sequential(_basic(64, 16, 1), _basic(16, 24, 3, 2)),
                nn.Sequential(
                    *(_basic(64, 16, 1), _basic(16, 16, (1, 7)), _basic(16, 16, (7, 1)), _basic(16, 16, 3, 2))
                ),
                nn.MaxPool2d(3, 2),
            ),
            _inception_e(104),
        )
        self.avgpool, self.dropout, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(), nn.Linear(88, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.dropout(self.avgpool(self.layers(image))), 1))


class UNet(nn.Module):
    """Down by pooling, up by transposed convolutions, what was cast off on the way concatenated again."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.down1, self.down2 = self._double(3, width), self._double(width, 2 * width)
        self.bottom = self._double(2 * width, 4 * width)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.dec2, self.dec1 = self._double(4 * width, 2 * width), self._double(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _double(source: int, channels: int) -> nn.Module:
        return nn.Sequential(conv_norm(source, channels, 3), conv_norm(channels, channels, 3))

    def forward(self, image: Tensor) -> Tensor:
        one = self.down1(image)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        x = self.up2(self.bottom(nn.functional.max_pool2d(two, 2)))
        x = self.up1(self.dec2(torch.cat([x, two], 1)))
        return self.head(self.dec1(torch.cat([x, one], 1)))


def _backbone(width: int = 4) -> nn.Sequential:
    """A ResNet that stops at an eighth of the size; its last stage is dilated instead."""
    last = Bottleneck(16 * width, 4 * width, 1)
    last.conv2[0].dilation, last.conv2[0].padding = (2, 2), (2, 2)
    return nn.Sequential(
        *(conv_norm(3, width, 7, 2), nn.MaxPool2d(3, 2, 1), Bottleneck(width, width, 1)),
        *(Bottleneck(4 * width, 2 * width, 2), Bottleneck(8 * width, 4 * width, 1), last),
    )


class FCN(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.backbone = _backbone()
        self.classifier = nn.Sequential(conv_norm(64, 16, 3), nn.Dropout(0.1), nn.Conv2d(16, classes, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.classifier(self.backbone(image))
        return {"out": nn.functional.interpolate(x, size=image.shape[-2:], mode="bilinear", align_corners=False)}


class _ASPP(nn.Module):
    """The same features through several dilations, and their mean spread over the image."""

    def __init__(self, source: int, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv_norm(source, channels, 1)])
        for rate in (2, 3, 4):
            conv = nn.Conv2d(source, channels, 3, padding=rate, dilation=rate, bias=False)
            self.convs.append(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU()))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm(source, channels, 1))
        self.project = nn.Sequential(conv_norm(5 * channels, channels, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        mean = nn.functional.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(conv(x) for conv in self.convs), mean], dim=1))


class DeepLab(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.backbone = _backbone()
        self.classifier = nn.Sequential(_ASPP(64, 16), conv_norm(16, 16, 3), nn.Conv2d(16, classes, 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.classifier(self.backbone(image))
        return {"out": nn.functional.interpolate(x, size=image.shape[-2:], mode="bilinear", align_corners=False)}
