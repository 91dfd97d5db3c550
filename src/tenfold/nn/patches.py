"""Images as tokens: patch embedding, and the merging of neighbouring patches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.errors import NetworkError


class PatchEmbedding(nn.Module):
    """Cut an image into P×P patches and project each: (N, Cin, S, S) -> (N, (S / P)², C), rows first.

    (Dosovitskiy et al., 2021, "An Image is Worth 16×16 Words", eq. 1, without the positions.)
    P²·Cin·C multiply-accumulates a patch, which is Cin·C·S² in all.
    """

    def __init__(self, resolution: int, patch_size: int, in_channels: int, features: int) -> None:
        super().__init__()
        if patch_size < 1 or resolution < patch_size or resolution % patch_size:
            raise ValueError(
                f"resolution {resolution} must be a multiple of patch_size {patch_size}: change one of them"
            )
        self.resolution = resolution
        self.side = resolution // patch_size  # patches in a row, and rows
        self.proj = nn.Conv2d(in_channels, features, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] != self.resolution or x.shape[-1] != self.resolution:
            raise NetworkError(
                f"the network was built for images of {self.resolution}×{self.resolution}, not "
                f"{x.shape[-2]}×{x.shape[-1]}: resize them, or build it with that resolution"
            )
        return self.proj(x).flatten(2).transpose(1, 2)


class PatchMerging(nn.Module):
    """Join each 2×2 neighbourhood and halve its features: (N, H, W, C) -> (N, ⌈H/2⌉, ⌈W/2⌉, 2·C).

    (Liu et al., 2021, "Swin Transformer", section 3.1.) The four neighbours lie side by side, column after column,
    zeros where a side is odd; then layer norm and a projection of 4·C to 2·C: 8·C² multiply-accumulates a place.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * features)
        self.reduction = nn.Linear(4 * features, 2 * features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1], x.shape[2]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        # (N, H/2, row, W/2, column, C) -> (N, H/2, W/2, column, row, C)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))
