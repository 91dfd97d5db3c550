"""Attention within windows, shifted from block to block (Liu et al., 2021, "Swin Transformer").

Shapes: N batch, R × R the feature map (padded to a multiple of the window), W the window's side, T = W² tokens a
window, M = (R/W)² windows, C features, H heads, D features a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.errors import NetworkError
from tenfold.nn.mlp import Mlp
from tenfold.nn.stochastic_depth import StochasticDepth

APART = -100.0  # added to the score of two tokens that were not neighbours before the shift


def relative_positions(window: int) -> Tensor:
    """For each pair of a window's tokens the row of the bias table: (T, T) with values below (2·W − 1)²."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row_offset = rows.flatten()[:, None] - rows.flatten()[None, :] + window - 1
    column_offset = columns.flatten()[:, None] - columns.flatten()[None, :] + window - 1
    return row_offset * (2 * window - 1) + column_offset


def strangers(side: int, window: int, shift: int) -> Tensor:
    """Which tokens of each window of the rolled map come from different regions: (M, T, T), bool."""
    place = torch.arange(side)
    band = (place >= side - window).int() + (place >= side - shift).int()  # 0, 1 or 2 along each axis
    regions = 3 * band[:, None] + band[None, :]
    tokens = partition(regions[None, :, :, None], window)[0, :, :, 0]
    return tokens[:, :, None] != tokens[:, None, :]


def partition(x: Tensor, window: int) -> Tensor:
    """Cut a map into windows: (N, R, R, C) -> (N, M, T, C). `NetworkError` where they do not tile it."""
    if x.shape[1] % window or x.shape[2] % window:
        raise NetworkError(
            f"a map of {x.shape[1]}×{x.shape[2]} cannot be cut into windows of {window}×{window}: its sides must be "
            f"multiples of {window}"
        )
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3)


def assemble(x: Tensor, side: int) -> Tensor:
    """Put windows back into their map, the inverse of `partition`: (N, M, T, C) -> (N, R, R, C)."""
    windows = round(x.shape[1] ** 0.5)
    x = x.unflatten(2, (side // windows, -1)).unflatten(1, (windows, -1))
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


class WindowAttention(nn.Module):
    """Self-attention within W×W windows with a learned bias by relative position: (N, S, S, C) -> (N, S, S, C).

    softmax(Q·Kᵀ / √D + B)·V (eq. 4), B from a table of (2·W − 1)² entries a head. With a `shift` the map is rolled
    by it first and back afterwards, and the places that only the roll made neighbours are kept apart by −100
    (section 3.2). No shift where one window covers the map; zeros pad a map that is no multiple of the window.

    Multiply-accumulates an example: (4·C² + 2·W²·C)·R², R being S after padding.
    """

    positions: Tensor
    apart: Tensor | None

    def __init__(self, features: int, num_heads: int, side: int, *, window: int = 7, shift: int = 0) -> None:
        super().__init__()
        if num_heads < 1 or features % num_heads:
            raise ValueError(f"{features} features cannot be divided among {num_heads} heads")
        if window < 1 or not 0 <= shift < window:
            raise ValueError(f"a window of {window} cannot be shifted by {shift}")
        self.num_heads = num_heads
        self.head_dim = features // num_heads
        self.window = window
        self.padding = -side % window
        self.side = side + self.padding
        self.shift = shift if self.side > window else 0
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.register_buffer("positions", relative_positions(window).flatten(), persistent=False)
        apart = strangers(self.side, window, self.shift) if self.shift else None
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        side = self.side - self.padding
        if x.dim() != 4 or x.shape[1] != side or x.shape[2] != side:
            found = "×".join(map(str, x.shape[1:3])) if x.dim() == 4 else f"the shape {tuple(x.shape)}"
            raise NetworkError(
                f"{type(self).__name__} with windows of {self.window}×{self.window} was built for maps of {side}×{side}, "
                f"not {found}: give maps (N, {side}, {side}, C), or build it with the side that they have (any side "
                f"does, multiples of {self.window} without padding)"
            )
        if self.padding:
            x = F.pad(x, (0, 0, 0, self.padding, 0, self.padding))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = assemble(self.attend(partition(x, self.window)), self.side)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        if self.padding:
            x = x[:, :side, :side]
        return x

    def attend(self, x: Tensor) -> Tensor:
        """Attention in each window: (N, M, T, C) -> (N, M, T, C)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(3, 0, 1, 4, 2, 5)
        # The windows stand beside the heads, so that the bias is the same for every example: (N, M·H, T, D).
        q, k, v = qkv.flatten(2, 3).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(x.shape[1]))
        return self.proj(y.unflatten(1, (-1, self.num_heads)).transpose(2, 3).flatten(3))

    def bias(self, windows: int) -> Tensor:
        """What is added to the scores: (1, M·H, T, T)."""
        tokens = self.window * self.window
        bias = self.bias_table[self.positions].unflatten(0, (tokens, tokens)).permute(2, 0, 1)[None]
        if self.apart is None:
            bias = bias.expand(windows, -1, -1, -1)
        else:
            bias = bias + APART * self.apart[:, None]
        return bias.flatten(0, 1)[None]


class WindowBlock(nn.Module):
    """x + window attention(norm(x)), then x + mlp(norm(x)): (N, S, S, C) -> (N, S, S, C) (eq. 3).

    Multiply-accumulates an example where the window divides the side: ((4 + 2·mlp_ratio)·C² + 2·W²·C)·S².
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        side: int,
        *,
        window: int = 7,
        shift: int = 0,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.attn = WindowAttention(features, num_heads, side, window=window, shift=shift)
        self.norm2 = nn.LayerNorm(features)
        self.mlp = Mlp(features, int(mlp_ratio * features))
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
