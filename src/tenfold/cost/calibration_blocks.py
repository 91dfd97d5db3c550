"""The blocks that calibration's networks are made of, each in its plainest form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Shortcut(nn.Module):
    """y = activation(body(x) + shortcut(x))."""

    def __init__(
        self, body: nn.Module, shortcut: nn.Module | None = None, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) + (x if self.shortcut is None else self.shortcut(x))
        return y if self.activation is None else self.activation(y)


class SqueezeExcite(nn.Module):
    """Channels weighed by a gate computed from their means."""

    def __init__(self, channels: int, hidden: int, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class SelfAttention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            self.qkv(x)
            .reshape(batch, length, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class WindowAttention(nn.Module):
    """Attention written out, with a bias on the scores, within windows of so many tokens."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(1, heads, window, window))

    def forward(self, x: Tensor) -> Tensor:
        whole, width = x.shape, x.shape[2]
        q, k, v = (
            self.qkv(x.reshape(-1, self.window, width))
            .reshape(-1, self.window, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        scale = (width // self.heads) ** -0.25
        scores = (q * scale) @ (k.transpose(2, 3) * scale) + self.bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, self.window, width)
        return self.out(mixed).reshape(whole)


class Scaled(nn.Module):
    """x times a weight for each channel of maps (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Moved(nn.Module):
    """Square maps rolled along both sides, transposed and laid beside themselves."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[2] // 2
        return torch.cat((x, x.roll((half, half), (2, 3)).transpose(2, 3).contiguous()), 1)


class Transposed(nn.Module):
    """Apply a module with two dimensions exchanged (of 3), or with channels last (of 4)."""

    def __init__(self, body: nn.Module, dimensions: int = 4) -> None:
        super().__init__()
        self.body, self.dimensions = body, dimensions

    def forward(self, x: Tensor) -> Tensor:
        if self.dimensions == 3:
            return self.body(x.transpose(1, 2)).transpose(1, 2)
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Concatenated(nn.Module):
    """x beside body(x), along the channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), 1)


class Tokens(nn.Module):
    """Maps (B, C, H, W) to tokens (B, H·W, C), with a place added."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, length, width))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2) + self.place


class MeanOfTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def convolution(
    a: int, b: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(b)
    ]  # fmt: skip
    return nn.Sequential(*layers, *([activation] if activation is not None else []))
