"""Operators that need a hand: compound ones spelled out as the calls that they make, and shape rules that torch lacks.

PyTorch runs `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` in eval mode as one operator each (their "fast
path"), which hides its products and its scores from every counter. On the CPU these make the calls below, on the same
storages (`aten/src/ATen/native/transformers/attention.cpp`): the scores are stored, unlike those of fused attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


def native_multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_head: int,
    qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor, proj_bias: Tensor,
    mask: Tensor | None = None, need_weights: bool = True, average_attn_weights: bool = True, mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """query, key, value (B, T, D), which PyTorch hands over only as one tensor (self-attention)."""
    batch, length, width = query.shape
    head = width // num_head
    qkv = torch.mm(query.reshape(-1, width), qkv_weight.t()).view(batch, length, 3 * width)
    q, k, v = (
        part.view(batch * num_head, length, head)
        for part in aten._transform_bias_rescale_qkv(qkv, qkv_bias, num_head)
    )
    del qkv
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, num_head, length, length)
    if mask is None:
        weights = aten._softmax.out(scores, -1, False, out=scores)
    else:
        weights = aten._masked_softmax(scores, mask.to(torch.bool), 3, mask_type)
    del scores, mask
    torch.bmm(weights.view(batch * num_head, length, length), v, out=q)
    averaged = None
    if need_weights:
        averaged = weights.sum(1).div_(num_head) if average_attn_weights else weights
    del weights
    joined = q.view(batch, num_head, length, head).transpose(1, 2).contiguous().view(-1, width)
    answer = torch.addmm(proj_bias, joined, proj_weight.t())
    return answer.view(batch, length, width), averaged


def transformer_encoder_layer(
    src: Tensor, embed_dim: int, num_heads: int,
    qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor, proj_bias: Tensor,
    use_gelu: bool, norm_first: bool, eps: float,
    norm_weight_1: Tensor, norm_bias_1: Tensor, norm_weight_2: Tensor, norm_bias_2: Tensor,
    ffn_weight_1: Tensor, ffn_bias_1: Tensor, ffn_weight_2: Tensor, ffn_bias_2: Tensor,
    mask: Tensor | None = None, mask_type: int | None = None,
) -> Tensor:  # fmt: skip
    """src (B, T, D)."""
    width = src.shape[-1]
    x = F.layer_norm(src, (width,), norm_weight_1, norm_bias_1, eps) if norm_first else src
    x = aten._native_multi_head_attention(
        x, x, x, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, False, True, mask_type
    )[0]  # fmt: skip
    x.add_(src)
    if not norm_first:
        x = F.layer_norm(x, (width,), norm_weight_1, norm_bias_1, eps)
    before = x
    if norm_first:
        x = F.layer_norm(x, (width,), norm_weight_2, norm_bias_2, eps)
    x = aten._addmm_activation(ffn_bias_1, x.reshape(-1, width), ffn_weight_1.t(), use_gelu=use_gelu)
    x = torch.addmm(ffn_bias_2, x, ffn_weight_2.t()).view(src.shape)
    x.add_(before)
    if not norm_first:
        x = F.layer_norm(x, (width,), norm_weight_2, norm_bias_2, eps)
    return x


def _transformed_qkv(qkv: Tensor, bias: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(B, T, 3·D) to three of (B, H, T, D/H) on one storage."""
    batch, length, width = qkv.shape
    return qkv.new_empty(3, batch, heads, length, width // 3 // heads).unbind(0)


def _grouped_product(a: Tensor, b: Tensor, offs: Tensor | None = None, *rest: Any, **kwargs: Any) -> Tensor:
    """As `torch._grouped_mm`, whose own rule refuses the types that its CPU kernel takes.

    Rows (n, k) in groups with (g, k, m), (g, n, k) with columns (k, m) in groups, (g, n, k) with (g, k, m), or
    both over a k in groups.
    """
    if a.dim() == b.dim() == 2 and offs is not None:
        return a.new_empty(offs.shape[0], a.shape[0], b.shape[1])
    return a.new_empty(*a.shape[:-1], b.shape[-1])


# Compound operators that would arrive whole, on the CPU: name -> the calls that they make.
OPERATORS: dict[str, Callable[..., Any]] = {
    "aten::_native_multi_head_attention": native_multi_head_attention,
    "aten::_transformer_encoder_layer_fwd": transformer_encoder_layer,
}

# Shape rules: name -> what the operator returns for tensors without data.
SHAPES: dict[str, Callable[..., Any]] = {
    "aten::_grouped_mm": _grouped_product,
    "aten::_transform_bias_rescale_qkv": _transformed_qkv,
    "aten::_masked_softmax": lambda scores, *rest: torch.empty_like(scores),
    # Whether padding could be cut off to a nested tensor depends on the mask's values: counted with its padding.
    "aten::_nested_tensor_from_mask_left_aligned": lambda *rest: False,
}
