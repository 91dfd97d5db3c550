"""Multi-head self-attention and the block of vision transformers.

Shapes: N batch, T tokens, C features, H heads, D features a head; C = H·D until heads are pruned.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.nn.mlp import Mlp
from tenfold.nn.stochastic_depth import StochasticDepth


class SelfAttention(nn.Module):
    """softmax(Q·Kᵀ / √D)·V in each head (Vaswani et al., 2017, eq. 1): (N, T, C) -> (N, T, C).

    Multiply-accumulates an example: 4·T·C² for the projections and 2·T²·C for the two products.
    """

    def __init__(self, features: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or features % num_heads:
            raise ValueError(f"{features} features cannot be divided among {num_heads} heads")
        self.num_heads = num_heads
        self.head_dim = features // num_heads
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.join(F.scaled_dot_product_attention(q, k, v))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: three times (N, T, C) -> (N, H, T, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return q, k, v

    def join(self, heads: Tensor) -> Tensor:
        """The heads' answers projected: (N, H, T, D) -> (N, T, C)."""
        return self.proj(heads.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): (N, T, C) -> (N, T, C), the block of ViT and DeiT.

    (Dosovitskiy et al., 2021, eq. 2 and 3.) Multiply-accumulates an example, with m = mlp_ratio:
    (4 + 2·m)·T·C² + 2·T²·C.
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps)
        self.attn = SelfAttention(features, num_heads)
        self.norm2 = nn.LayerNorm(features, eps)
        self.mlp = Mlp(features, int(mlp_ratio * features))
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
