"""Networks made for small devices."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tests.converters.torch_zoo_plain import SqueezeExcite, conv_norm
from torch import Tensor, nn


class _Inverted(nn.Module):
    """Expand, filter by channel, project; a residual where nothing changes."""

    def __init__(
        self,
        source: int,
        expanded: int,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        act: type[nn.Module] = nn.ReLU6,
        se: SqueezeExcite | None = None,
    ) -> None:
        super().__init__()
        layers = [] if expanded == source else [conv_norm(source, expanded, 1, act=act)]
        layers.append(conv_norm(expanded, expanded, kernel, stride, expanded, act))
        layers += [se] if se else []
        self.conv = nn.Sequential(*layers, conv_norm(expanded, out, 1, act=None))
        self.residual = stride == 1 and source == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _stages(rows: Iterable[tuple[int, int, int, int, int]], act: type[nn.Module], se: bool = False) -> list[nn.Module]:
    """Rows of (times wider, kernel, stride of the first, out, how many); the first reads 8 channels."""
    layers: list[nn.Module] = []
    source = 8
    for times, kernel, stride, out, depth in rows:
        for i in range(depth):
            expanded = source * times
            gate = SqueezeExcite(expanded, max(1, source // 4), act, nn.Sigmoid) if se else None
            layers.append(_Inverted(source, expanded, out, kernel, 1 if i else stride, act, gate))
            source = out
    return layers


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        stem = conv_norm(3, 8, 3, 2, act=nn.ReLU6)
        rows = ((1, 3, 1, 8, 1), (6, 3, 2, 8, 2), (6, 3, 2, 16, 2), (6, 3, 2, 24, 1), (6, 3, 2, 32, 1))
        self.features = nn.Sequential(stem, *_stages(rows, nn.ReLU6), conv_norm(32, 64, 1, act=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(image), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def _v3_features() -> nn.Sequential:
    rows = [  # kernel, expanded, out, squeezes, hard swish, stride
        (3, 8, 8, True, False, 2),
        (3, 24, 12, False, False, 2),
        (3, 32, 12, False, False, 1),
        (5, 40, 16, True, True, 2),
        (5, 48, 16, True, True, 1),
        (5, 64, 24, True, True, 2),
    ]
    layers: list[nn.Module] = [conv_norm(3, 8, 3, 2, act=nn.Hardswish)]
    source = 8
    for kernel, expanded, out, squeezes, hard, stride in rows:
        se = SqueezeExcite(expanded, max(8, expanded // 4), nn.ReLU, nn.Hardsigmoid) if squeezes else None
        layers.append(_Inverted(source, expanded, out, kernel, stride, nn.Hardswish if hard else nn.ReLU, se))
        source = out
    return nn.Sequential(*layers, conv_norm(source, 96, 1, act=nn.Hardswish))


class MobileNetV3(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features, self.avgpool = _v3_features(), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(96, 64), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))


class LRASPP(nn.Module):
    """Segmentation on MobileNetV3: a gated deep branch and a shallow one, both brought to the image's size."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        features = _v3_features()
        self.low, self.high = features[:4], features[4:]
        self.cbr = conv_norm(96, 16, 1)
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(96, 16, 1, bias=False), nn.Sigmoid())
        self.low_classifier, self.high_classifier = nn.Conv2d(12, classes, 1), nn.Conv2d(16, classes, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        low = self.low(image)
        high = self.high(low)
        x = self.cbr(high) * self.scale(high)
        x = nn.functional.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
        x = self.low_classifier(low) + self.high_classifier(x)
        return {"out": nn.functional.interpolate(x, size=image.shape[-2:], mode="bilinear", align_corners=False)}


class MNASNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        stem = (conv_norm(3, 8, 3, 2), conv_norm(8, 8, 3, groups=8), conv_norm(8, 8, 1, act=None))
        rows = ((3, 3, 2, 8, 2), (3, 5, 2, 16, 2), (6, 5, 2, 24, 1), (6, 3, 1, 24, 2))
        self.layers = nn.Sequential(*stem, *_stages(rows, nn.ReLU), conv_norm(24, 64, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.layers(image).mean([2, 3]))


class EfficientNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        stem = conv_norm(3, 8, 3, 2, act=nn.SiLU)
        stages = _stages(((1, 3, 1, 8, 1), (6, 3, 2, 12, 2), (6, 5, 2, 16, 2), (6, 3, 2, 24, 1)), nn.SiLU, se=True)
        self.features = nn.Sequential(stem, *stages, conv_norm(24, 64, 1, act=nn.SiLU))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))


class _Shuffle(nn.Module):
    """Half of the channels pass by, half are filtered, then the halves are shuffled."""

    def __init__(self, source: int, out: int, stride: int) -> None:
        super().__init__()
        half, self.stride = out // 2, stride
        inner = source if stride > 1 else half
        if stride > 1:
            by_channel = conv_norm(source, source, 3, stride, source, None)
            self.branch1 = nn.Sequential(by_channel, conv_norm(source, half, 1))
        self.branch2 = nn.Sequential(
            conv_norm(inner, half, 1), conv_norm(half, half, 3, stride, half, None), conv_norm(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            kept, changed = x.chunk(2, dim=1)
        else:
            kept, changed = self.branch1(x), x
        x = torch.cat((kept, self.branch2(changed)), dim=1)
        n, channels, height, width = x.size()
        return x.view(n, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(n, channels, height, width)


class ShuffleNetV2(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1)]
        source = 8
        for out in (16, 32, 48):
            layers += [_Shuffle(source, out, 2), _Shuffle(out, out, 1)]
            source = out
        self.layers, self.fc = nn.Sequential(*layers, conv_norm(source, 64, 1)), nn.Linear(64, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.layers(image).mean([2, 3]))


class _Fire(nn.Module):
    def __init__(self, source: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(source, squeezed, 1)
        self.expand1, self.expand3 = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1(x)), torch.relu(self.expand3(x))], 1)


class SqueezeNet(nn.Module):
    """Its pools round sizes up."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 7, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(_Fire(16, 4, 16), _Fire(32, 4, 16), _Fire(32, 8, 32), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(_Fire(64, 8, 32), _Fire(64, 12, 48), nn.MaxPool2d(3, 2, ceil_mode=True), _Fire(96, 16, 64)),
        )
        conv = nn.Conv2d(128, classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(), conv, nn.ReLU(True), nn.AdaptiveAvgPool2d((1, 1)))

    def forward(self, image: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(image)), 1)
