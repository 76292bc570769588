"""ConvNeXt, ViT and Swin."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _NormOfChannels(nn.LayerNorm):
    """Layer norm over the channels of NCHW."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.up, self.gelu, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.layer_scale * self.down(self.gelu(self.up(y))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 16, 32), classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), _NormOfChannels(widths[0])]
        for i, width in enumerate(widths):
            if i:
                layers += [_NormOfChannels(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)]
            layers.append(_ConvNeXtBlock(width))
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(_NormOfChannels(widths[-1]), nn.Flatten(1), nn.Linear(widths[-1], classes))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(image)))


class _Encoder(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4, depth: int = 2, patch: int = 8, grid: int = 4) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embedding = nn.Parameter(torch.randn(1, grid * grid + 1, width))
        self.layers = nn.Sequential(*(_Encoder(width, heads) for _ in range(depth)))
        self.ln, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_proj(image).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embedding
        return self.head(self.ln(self.layers(x))[:, 0])


class _SwinBlock(nn.Module):
    """Attention within windows of the image; every second block shifts it by half a window, around its edges."""

    def __init__(self, width: int, heads: int, window: int, grid: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.grid, self.shift = heads, window, grid, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.bias = nn.Parameter(torch.randn(heads, window * window, window * window) * 0.1)
        self.register_buffer("mask", self._mask() if shift else None, persistent=False)

    def _mask(self) -> Tensor:
        """``(windows, 1, w², w²)``: parts that are neighbours only around the image's edge do not see each other."""
        cuts = [slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None)]
        region = torch.zeros(1, self.grid, self.grid, 1)
        for i, rows in enumerate(cuts):
            for j, columns in enumerate(cuts):
                region[:, rows, columns] = 3 * i + j
        parts = self._windows(region)[..., 0]
        return torch.where(parts[:, None, :] == parts[:, :, None], 0.0, -100.0)[:, None]

    def _windows(self, x: Tensor) -> Tensor:
        """``(n, g, g, c)`` → ``(n · windows, w², c)``."""
        count, side = self.grid // self.window, self.window
        x = x.view(-1, count, side, count, side, x.shape[-1]).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, side * side, x.shape[-1])

    def _attend(self, x: Tensor) -> Tensor:
        tokens, width = self.window * self.window, x.shape[-1]
        q, k, v = self.qkv(x).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1) + self.bias
        if self.shift:
            count = (self.grid // self.window) ** 2
            scores = scores.view(-1, count, self.heads, tokens, tokens) + self.mask
            scores = scores.view(-1, self.heads, tokens, tokens)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        count, side, width = self.grid // self.window, self.window, x.shape[-1]
        y = self.norm1(x)
        y = torch.roll(y, (-self.shift, -self.shift), (1, 2)) if self.shift else y
        y = self._attend(self._windows(y)).view(-1, count, count, side, side, width)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.grid, self.grid, width)
        x = x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)
        return x + self.mlp(self.norm2(x))


class _Merging(nn.Module):
    """Four neighbours become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """``width`` differs from height and width of the map, as in the original: onnx2tf tells axes apart by size."""

    def __init__(self, width: int = 24, classes: int = 10) -> None:
        super().__init__()
        self.patches, self.norm0 = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.layers = nn.Sequential(
            *(_SwinBlock(width, 2, 4, 16, 0), _SwinBlock(width, 2, 4, 16, 2), _Merging(width)),
            *(_SwinBlock(2 * width, 4, 4, 8, 0), _SwinBlock(2 * width, 4, 4, 8, 2)),
        )
        self.norm, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm0(self.patches(image).permute(0, 2, 3, 1))
        return self.head(self.norm(self.layers(x)).mean(dim=(1, 2)))
