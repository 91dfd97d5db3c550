"""The kernels that a runtime launches for a counted network, with what decides how long each takes.

Eager execution launches every operator of the profile. A fusing runtime launches fewer, and some that the network
does not have: see `fused_kernels`. A kernel belongs to a *family*, within which times follow the same law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from tenfold.cost import record
from tenfold.cost.record import OperatorCost

PRODUCTS = (
    "convolution", "pointwise convolution", "depthwise convolution", "grouped convolution", "stem", "linear",
    "product", "attention",
)  # fmt: skip
MOVERS = (
    "light", "heavy", "gelu", "silu", "hardswish", "broadcast", "batch norm", "norm", "softmax", "pool", "reduction",
    "copy", "concat", "gather",
    "resize", "reorder", "other",
)  # fmt: skip
FAMILIES = PRODUCTS + MOVERS

STEM_CHANNELS = 8  # a convolution of fewer input channels fills no vector with them

# Functions that runtimes implement each in its own way.
OWN_LAW = frozenset({"gelu", "silu", "hardswish"})
_HEAVY = frozenset(
    {
        "sigmoid", "tanh", "exp", "erf", "mish", "softplus", "pow", "elu", "selu", "log", "log_sigmoid_forward", "sin",
        "cos", "rsqrt", "sqrt",
    }
)  # fmt: skip
_RESIZE = ("upsample", "pad", "grid_sampler", "pixel_shuffle", "pixel_unshuffle", "roll", "im2col", "col2im")
_GATHER = ("embedding", "index", "gather", "take", "scatter", "masked_select")


@dataclass(frozen=True)
class Kernel:
    """One launch. A product multiplies, in each of `groups`, rows × depth by depth × columns.

    Of a convolution, rows are output positions of the whole batch, columns output channels and depth the input
    channels times the window. `operators` are the numbers of the profile's operators that run in it.
    """

    family: str
    layer: str
    op: str
    operators: tuple[int, ...]
    macs: int
    other_flops: int
    elements: int  # written
    weight_bytes: int
    read_bytes: int  # of activations
    written_bytes: int
    itemsize: int = 4
    rows: int = 1
    columns: int = 1
    depth: int = 1
    groups: int = 1
    batch: int = 1
    window: int = 1  # elements of the convolution's window
    stride: int = 1
    channels: int = 1  # of the output; of tokens their width

    @property
    def activation_bytes(self) -> int:
        """Read and written."""
        return self.read_bytes + self.written_bytes


def eager_kernels(operators: Sequence[OperatorCost]) -> tuple[Kernel, ...]:
    """One kernel for each operator."""
    return tuple(kernel_of(number, operator) for number, operator in enumerate(operators))


def kernel_of(number: int, operator: OperatorCost) -> Kernel:
    """The kernel of one operator that runs alone."""
    elements = prod(operator.output_shape)
    base = Kernel(
        family=family_of(operator),
        layer=operator.layer,
        op=operator.op,
        operators=(number,),
        macs=operator.macs,
        other_flops=operator.other_flops,
        elements=elements,
        weight_bytes=operator.weight_bytes,
        read_bytes=operator.bytes_read - operator.weight_bytes,
        written_bytes=operator.bytes_written,
        itemsize=max(1, min(8, operator.bytes_written // max(1, elements))),
        batch=operator.output_shape[0] if operator.output_shape else 1,
        channels=_channels(operator.output_shape),
    )
    dimensions = _dimensions(base.family, operator, elements)
    return Kernel(**{**vars(base), **dimensions}) if dimensions else base


def _channels(shape: tuple[int, ...]) -> int:
    """Of maps the second dimension, else the last."""
    return shape[1] if len(shape) == 4 else shape[-1] if shape else 1


def family_of(operator: OperatorCost) -> str:
    """The family of an operator, by its name and the shapes of its inputs."""
    name = operator.op.strip("_")
    shapes = operator.input_shapes
    if operator.kind == record.ATTENTION:
        return "attention"
    if operator.macs:
        if "conv" not in name or len(shapes) < 2 or len(shapes[1]) < 3:
            return "linear" if operator.weight_bytes else "product"
        return _convolution_family(shapes[0], shapes[1])
    if name == "reorder":
        return "reorder"
    if "batch_norm" in name:
        return "batch norm"
    if operator.kind == record.NORM:
        return "norm"
    if "softmax" in name:
        return "softmax"
    if "pool" in name and "adaptive_avg" not in name:
        return "pool"
    if any(part in name for part in _RESIZE):
        return "resize"
    if name in ("cat", "stack"):
        return "concat"
    if any(name.startswith(part) for part in _GATHER):
        return "gather"
    if operator.kind == record.REDUCTION:
        return "reduction"
    if operator.kind == record.MOVEMENT:
        return "copy"
    if operator.kind == record.UNKNOWN:
        return "other"
    if name in OWN_LAW:
        return name
    if name in _HEAVY:
        return "heavy"
    sizes = [prod(shape) for shape in shapes if prod(shape) > 1]
    return "broadcast" if len(sizes) > 1 and min(sizes) < prod(operator.output_shape) else "light"


def _convolution_family(x: tuple[int, ...], weight: tuple[int, ...]) -> str:
    if weight[1] == 1 and x[1] > 1:
        return "depthwise convolution"
    if weight[1] < x[1]:
        return "grouped convolution"
    if x[1] < STEM_CHANNELS:
        return "stem"
    return "pointwise convolution" if prod(weight[2:]) == 1 else "convolution"


def _dimensions(family: str, operator: OperatorCost, elements: int) -> dict[str, int]:
    """The fields of `Kernel` that describe a product; of a mover, the length of its rows."""
    shapes, out = operator.input_shapes, operator.output_shape
    if "convolution" in family or family == "stem":
        x, weight = shapes[0], shapes[1]
        groups = max(1, x[1] // max(1, weight[1]))
        positions = out[0] * prod(out[2:])
        side = max(1, round((prod(x[2:]) / max(1, prod(out[2:]))) ** (1 / max(1, len(out) - 2))))
        return {
            "rows": positions,
            "columns": max(1, out[1] // groups),
            "depth": operator.macs // max(1, elements),
            "groups": groups,
            "window": prod(weight[2:]),
            "stride": side,
        }
    if family in ("linear", "product"):
        columns = out[-1] if out else 1
        depth = max(1, operator.macs // max(1, elements))
        matrices = prod(out[:-2]) if family == "product" else 1
        return {
            "rows": max(1, elements // max(1, columns * matrices)),
            "columns": columns,
            "depth": depth,
            "groups": matrices,
        }
    if family == "attention" and len(shapes) >= 3:
        q, k = shapes[0], shapes[1]
        return {"rows": q[-2], "columns": k[-2], "depth": q[-1], "groups": prod(q[:-2])}
    return {"depth": out[-1]} if out else {}
