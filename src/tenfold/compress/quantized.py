"""Networks that are quantised already, by Tenfold or by PyTorch's own tools: how they are told, and what is said of them."""

from __future__ import annotations

from torch import nn

from tenfold.cost.packed import packed_of

ROOT = "int8"  # every integer and scale of a network that Tenfold quantised is a buffer below this name
CURE = "give the float network that it was made of"
PACKED = ("quantized", "rnn")  # PyTorch's libraries of packed weights: of layers and of recurrent cells


def is_quantized(model: nn.Module) -> bool:
    """Was this module made by `Quantize` or `QuantizeWeights`?"""
    return any(name.startswith(f"{ROOT}.") for name, _ in model.named_buffers())


def already_quantized(model: nn.Module) -> str:
    """That the network is quantised, so that nothing of it is left to change, and what to do; "" for another.

    One of PyTorch's that has float parameters left may be changed in those.
    """
    if is_quantized(model):
        return f"the network is already quantised; {CURE}"
    return packed_by_torch(model) if next(model.parameters(), None) is None else ""


def packed_by_torch(model: nn.Module) -> str:
    """That `torch.ao.quantization` packed weights of the network, which cannot be traced, and what to do; else ""."""
    for name, module in model.named_modules():
        for packed in packed_of(module):
            if packed._type().qualified_name().split(".")[-2] in PACKED:
                layer = name.removesuffix("._packed_params") or type(model).__name__
                return f"the network is already quantised by torch.ao.quantization (layer {layer}); {CURE}"
    return ""
