"""How much of a running attention its causal mask hides, also where no operator says so.

Attention without a fused kernel (unequal head sizes, on the CPU) is taken apart into two products and a mask made of
ones, and the operators know nothing of causality any more. The call that the network makes still does.
"""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Shape = tuple[int, ...]


def hidden(work: int, q: Shape, k: Shape) -> int:
    """The part of dense attention `work` on scores that a causal mask hides: query i sees keys 0 to i.

    q (…, Lq, D) and k (…, Lk, D); the mask is aligned at the first query and the first key, as torch aligns it.
    """
    queries, keys = q[-2], k[-2]
    inside = min(queries, keys)
    seen = inside * (inside + 1) // 2 + (queries - inside) * keys
    return work - work * seen // (queries * keys)


class Causality(TorchFunctionMode):
    """Notes which calls of `scaled_dot_product_attention` are causal: `running` holds the shapes of q and k."""

    def __init__(self) -> None:
        super().__init__()
        self.running: tuple[Shape, Shape] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        named = dict(
            zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)
        )
        named |= kwargs
        if named.get("is_causal"):
            self.running = tuple(named["query"].shape), tuple(named["key"].shape)
        try:
            return func(*args, **kwargs)
        finally:
            self.running = None
