"""Token merging for vision transformers (Bolya et al., 2022, "Token Merging: Your ViT But Faster").

Shapes: N batch, T tokens, C features, D features of what tokens are compared by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.nn.attention import TransformerBlock


@dataclass(frozen=True)
class Matching:
    """Which of the even tokens (set A) stay, which merge, and with which odd token (set B); indices, (N, ·, 1)."""

    stay: Tensor
    merge: Tensor
    into: Tensor

    def sums(self, x: Tensor) -> Tensor:
        """The tokens that stay, then set B with what merges added: (N, T, C) -> (N, T − r, C)."""
        a, b = x[:, ::2], x[:, 1::2]
        features = x.shape[-1]
        stay = a.gather(1, self.stay.expand(-1, -1, features))
        merge = a.gather(1, self.merge.expand(-1, -1, features))
        return torch.cat([stay, b.scatter_add(1, self.into.expand(-1, -1, features), merge)], 1)


def most_merged(tokens: int, class_token: bool = True) -> int:
    """The most tokens that one merging can remove: half of those that may go."""
    return (tokens - int(class_token)) // 2


def match_tokens(metric: Tensor, r: int, *, class_token: bool = True) -> Matching:
    """Bipartite soft matching (section 3.2): the r most similar pairs among the even and the odd tokens.

    `metric` (N, T, D) is what tokens are compared by, by cosine; 1 ≤ r ≤ `most_merged(T)`. Every even token
    proposes to the odd token most like it; the r strongest proposals are accepted. With a `class_token`, token 0
    never merges away. (T/2)²·D multiply-accumulates an example.
    """
    if not 1 <= r <= most_merged(metric.shape[1], class_token):
        raise ValueError(f"of {metric.shape[1]} tokens, {r} cannot be merged at once")
    metric = F.normalize(metric, dim=-1)
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    best, partner = scores.max(-1)
    if class_token:
        best = torch.cat([torch.full_like(best[:, :1], -torch.inf), best[:, 1:]], 1)
    order = best.argsort(dim=-1, descending=True)
    merge = order[:, :r]
    stay = order[:, r:].sort(dim=-1).values  # in their old order, so that the class token stays first
    return Matching(stay[..., None], merge[..., None], partner.gather(1, merge)[..., None])


class MergingBlock(TransformerBlock):
    """A `TransformerBlock` that merges `r` tokens between attention and MLP: (N, T, C) -> (N, T − r, C).

    Tokens are compared by their keys, averaged over the heads. `sizes` (N, T, 1) says how many patches each token
    stands for: a merged token is their weighted mean, and attention is proportional (eq. 1),
    softmax(Q·Kᵀ / √D + log s)·V. Parameters are those of `TransformerBlock`. Fewer than r tokens merge where
    fewer can.

    Multiply-accumulates an example: (4·T + 2·m·(T − r))·C² + 2·T²·C + (T/2)²·D, with m = mlp_ratio.
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        r: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(features, num_heads, mlp_ratio=mlp_ratio, drop_path=drop_path, eps=eps)
        if r < 1:
            raise ValueError(f"a block cannot merge {r} tokens: give at least 1")
        self.r = r

    def forward(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        q, k, v = self.attn.split(self.norm1(x))
        proportions = sizes.log().transpose(1, 2)[:, None]  # (N, 1, 1, T)
        x = x + self.drop_path(self.attn.join(F.scaled_dot_product_attention(q, k, v, proportions)))
        r = min(self.r, most_merged(x.shape[1]))
        if r:
            matching = match_tokens(k.mean(1), r)
            merged = matching.sums(sizes)
            x, sizes = matching.sums(x * sizes) / merged, merged
        return x + self.drop_path(self.mlp(self.norm2(x))), sizes
