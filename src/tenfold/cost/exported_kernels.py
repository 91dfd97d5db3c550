"""What the exporter to ONNX writes as several operators, and ONNX Runtime runs as several kernels on a CPU.

Seen in the profiles of exported networks: attention becomes copies, two products and a softmax; a linear layer on
tokens a product and the addition of its bias, unless a GELU takes that in; group norm a norm without weights and two
broadcasts; a roll two copies and two concatenations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from tenfold.cost.record import ATTENTION, OperatorCost
from tenfold.cost.workload import Kernel

ROLLED = 2  # dimensions of a roll: windows move along both sides


def exported(kernel: Kernel, operator: OperatorCost, batch: int, takes_bias: bool) -> tuple[Kernel, ...]:
    """The kernels that run for `kernel`, in order; most run as they are.

    `batch` is the network's, which tells tokens from plain features; `takes_bias` that the only reader takes in
    the bias.
    """
    name = operator.op.strip("_")
    if operator.kind == ATTENTION and len(operator.input_shapes) >= 3:
        return _attention(kernel, operator)
    if name == "addmm" and kernel.rows > batch:
        return (kernel,) if takes_bias else (kernel, _mover(kernel, "broadcast", kernel.written_bytes))
    if name == "native_group_norm":
        bare = replace(kernel, weight_bytes=0)
        return (bare, *(_mover(kernel, "broadcast", kernel.written_bytes) for _ in range(2)))
    if name == "roll":
        moved = [_mover(kernel, family, kernel.written_bytes) for family in ("copy", "concat")] * ROLLED
        return (replace(moved[0], operators=kernel.operators), *moved[1:])
    if name == "hardswish":
        size = kernel.written_bytes
        gate = replace(_mover(kernel, "light", size), read_bytes=2 * size, operators=())
        return (replace(kernel, family="light"), gate)
    return (kernel,)


def as_convolution(kernel: Kernel, operator: OperatorCost) -> Kernel:
    """A norm over maps in blocks: a depthwise convolution of one element."""
    channels = operator.output_shape[1]
    return replace(
        kernel, family="depthwise convolution", macs=kernel.elements, rows=kernel.elements // max(1, channels),
        columns=1, depth=1, groups=channels,
    )  # fmt: skip


def _attention(kernel: Kernel, operator: OperatorCost) -> tuple[Kernel, ...]:
    q, k, v = operator.input_shapes[:3]
    item = kernel.itemsize
    batches, length, keys = prod(q[:-2]), q[-2], k[-2]
    scores = batches * length * keys * item
    sizes = [prod(shape) * item for shape in (q, k, v)]
    one_source = len(set(operator.reads)) == 1
    copies = [_mover(kernel, "copy", sum(sizes))] if one_source else []
    # Heads go before positions; the keys are transposed besides.
    copies += [_mover(kernel, "copy", size) for size in (*sizes, sizes[1])]
    products = [
        replace(
            kernel, family="product", operators=(), macs=batches * length * keys * depth, other_flops=0,
            elements=written // item, read_bytes=read, written_bytes=written, rows=length, columns=columns, depth=inner,
            groups=batches,
        )
        for depth, inner, columns, read, written in (
            (q[-1], q[-1], keys, sizes[0] + sizes[1], scores),
            (v[-1], keys, v[-1], scores + sizes[2], batches * length * v[-1] * item),
        )
    ]  # fmt: skip
    masked = [_mover(kernel, "broadcast", scores)] if len(operator.input_shapes) > 3 else []
    softmax = replace(_mover(kernel, "softmax", scores), depth=keys)
    out = _mover(kernel, "copy", products[1].written_bytes)
    first, second = products
    return (*copies, first, *masked, replace(softmax, operators=kernel.operators), second, out)


def _mover(kernel: Kernel, family: str, size: int) -> Kernel:
    """A kernel that reads and writes `size` bytes, in the layer of `kernel`."""
    return Kernel(
        family, kernel.layer, kernel.op, (), 0, 0, size // kernel.itemsize, 0, size, size,
        kernel.itemsize, batch=kernel.batch, depth=kernel.columns if kernel.columns > 1 else kernel.depth,
    )  # fmt: skip


def network_batch(operators: Sequence[OperatorCost]) -> int:
    """The examples of one call: the first dimension of what the first operator that reads an input makes."""
    for operator in operators:
        if -1 in operator.reads and operator.output_shape:
            return operator.output_shape[0]
    return 1
