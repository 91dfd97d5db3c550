"""The size of a saved network predicted from its counts, before it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tenfold.cost import record
from tenfold.cost.record import Profile

# What a layer takes in an ONNX file beside its weights: names and attributes of a node, and in a quantised one
# also scales, zero points, the 32-bit bias and two more pairs of nodes. Measured on ResNet-56.
FLOAT_LAYER_BYTES = 220
QUANTIZED_LAYER_BYTES = 2300


def predicted_size(
    weights: Profile | Iterable[int], bits: float, per_layer_overhead_bytes: float | None = None
) -> int:
    """Bytes of a network whose layers hold `weights` parameters each, stored with `bits` bits a parameter.

    Of a `Profile`, the layers are those that do products or look up an embedding, biases with their weights;
    norms count at 32 bits, unless they follow a convolution as batch norm and fold into it. Without an overhead,
    that of an ONNX file is taken: 220 bytes a layer for 16 bits and more, 2,300 for a quantised one.
    """
    if not bits > 0:
        raise ValueError(f"bits must be above 0, not {bits}")
    rest = 0
    if isinstance(weights, Profile):
        counts = []
        for layer in weights.layers:
            if layer.macs or "embedding" in layer.op:
                counts.append(layer.params)
            elif layer.kind != record.NORM or "batch_norm" not in layer.op:
                rest += layer.params
    else:
        counts = list(weights)
    if per_layer_overhead_bytes is None:
        per_layer_overhead_bytes = FLOAT_LAYER_BYTES if bits >= 16 else QUANTIZED_LAYER_BYTES
    return math.ceil(sum(counts) * bits / 8 + rest * 4 + len(counts) * per_layer_overhead_bytes)
