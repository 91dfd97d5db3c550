"""How much of a running attention its causal mask hides, also where no operator says so.

Attention without a fused kernel (unequal head sizes, on the CPU) is taken apart into two products and a mask made of
ones, and the operators know nothing of causality any more. The call that the network makes still does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

Shape = tuple[int, ...]


def hidden(work: int, q: Shape, k: Shape) -> int:
    """The part of dense attention `work` on scores that a causal mask hides: query i sees keys 0 to i.

    q (…, Lq, D) and k (…, Lk, D); the mask is aligned at the first query and the first key, as torch aligns it.
    """
    queries, keys = q[-2], k[-2]
    inside = min(queries, keys)
    seen = inside * (inside + 1) // 2 + (queries - inside) * keys
    return work - work * seen // (queries * keys)


class Causality:
    """Notes which calls of `scaled_dot_product_attention` are causal: `running` holds the shapes of q and k.

    A context manager that puts itself in the place of that function. A `TorchFunctionMode` would see it too, but
    while one is active PyTorch leaves the fast path of its attention layers, which is to be counted as it runs.
    """

    def __init__(self) -> None:
        self.running: tuple[Shape, Shape] | None = None

    def __enter__(self) -> None:
        self._attend = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = self._noting  # type: ignore[assignment]

    def __exit__(self, *error: object) -> None:
        F.scaled_dot_product_attention = self._attend

    def _noting(self, *args: Any, **kwargs: Any) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        named = dict(zip(names, args, strict=False)) | kwargs
        if named.get("is_causal"):
            self.running = tuple(named["query"].shape), tuple(named["key"].shape)
        try:
            return self._attend(*args, **kwargs)
        finally:
            self.running = None
