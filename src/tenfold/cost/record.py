"""What a count hands back: a network's totals, its layers, and the operators in the order they ran."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tenfold.cost.table import profile_table

if TYPE_CHECKING:
    from tenfold.cost.predict import Prediction

DENSE = "dense"  # a convolution (grouped ones too) or a matrix product
DEPTHWISE = "depthwise"  # a convolution with one input channel for each group
ATTENTION = "attention"
NORM = "norm"
POINTWISE = "pointwise"
REDUCTION = "reduction"  # softmax, pooling, sums, sorting, transforms
MOVEMENT = "movement"  # copies, gathers, padding
UNKNOWN = "unknown"


@dataclass(frozen=True)
class OperatorCost:
    """One call of one operator. Views, which touch no data, are left out."""

    layer: str  # the module's qualified name; "" is the network itself
    op: str
    kind: str
    macs: int
    other_flops: int
    weight_bytes: int  # read, of parameters and buffers
    bytes_read: int  # of weights and activations together
    bytes_written: int
    output_shape: tuple[int, ...]
    params: tuple[int, ...] = ()  # numbers of the parameters that it reads
    reads: tuple[int, ...] = ()  # which earlier operators made its inputs; -1 is an input of the network
    live_bytes: int = 0  # activations alive once its output exists
    input_shapes: tuple[tuple[int, ...], ...] = ()  # of its tensors, in the order of its arguments


@dataclass(frozen=True)
class LayerCost:
    """All calls of one operator in one layer. Bytes are those of eager execution, caches apart."""

    name: str
    op: str
    kind: str
    macs: int
    other_flops: int
    params: int
    bytes_read: int
    bytes_written: int
    output_shape: tuple[int, ...]  # of its first call
    calls: int = 1
    predicted_ms: float | None = None  # of all calls, where a device was given
    bound: str | None = None  # "compute", "memory", "overhead", or "fused" into another layer's kernel

    @property
    def flops(self) -> int:
        """2·macs; the rest is in `other_flops`."""
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: floating-point operations of every kind for each byte read or written."""
        moved = self.bytes_read + self.bytes_written
        return (self.flops + self.other_flops) / moved if moved else 0.0

    def to_json(self) -> dict[str, Any]:
        """Its fields and derived figures as plain JSON."""
        return {
            "name": self.name,
            "op": self.op,
            "kind": self.kind,
            "calls": self.calls,
            "macs": self.macs,
            "other_flops": self.other_flops,
            "params": self.params,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "intensity": self.intensity,
            "output_shape": list(self.output_shape),
            "predicted_ms": self.predicted_ms,
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Profile:
    """What one forward pass of a network costs, counted and not measured.

    `macs` are the multiply-adds of convolutions, matrix products and attention alone; `flops` is twice that;
    all other arithmetic is `other_flops`. `weight_bytes` holds parameters and buffers, each storage once.
    `activation_bytes` is the size of everything that operators write. `peak_activation_bytes` is the largest
    sum of tensors alive at a time as eager execution allocates them, the network's inputs included, its weights
    and the workspaces of libraries not. `unknown` names the operators that no formula covers: their bytes are
    counted, their arithmetic is not.
    """

    network: str
    input_shapes: tuple[tuple[int, ...], ...]
    params: int
    trainable_params: int
    macs: int
    other_flops: int
    weight_bytes: int
    activation_bytes: int
    peak_activation_bytes: int
    layers: tuple[LayerCost, ...]
    operators: tuple[OperatorCost, ...] = field(repr=False)
    unknown: tuple[str, ...] = ()
    prediction: Prediction | None = None  # of one call, where a device was given

    @property
    def predicted_ms(self) -> float | None:
        """The predicted milliseconds of one call, where a device was given."""
        return self.prediction.ms if self.prediction is not None else None

    @property
    def flops(self) -> int:
        """2·macs."""
        return 2 * self.macs

    @property
    def bytes_read(self) -> int:
        """Bytes of weights and activations that operators read."""
        return sum(layer.bytes_read for layer in self.layers)

    @property
    def bytes_written(self) -> int:
        """Bytes that operators write (the same as `activation_bytes`)."""
        return sum(layer.bytes_written for layer in self.layers)

    @property
    def intensity(self) -> float:
        """Arithmetic intensity of the whole: operations of every kind for each byte moved."""
        moved = self.bytes_read + self.bytes_written
        return (self.flops + self.other_flops) / moved if moved else 0.0

    @property
    def peak_layer(self) -> str:
        """The layer in which the peak of memory is reached."""
        return max(self.operators, key=lambda op: op.live_bytes).layer if self.operators else ""

    def to_json(self) -> dict[str, Any]:
        """Totals and layers as plain JSON; the single operator calls are left out."""
        return {
            "network": self.network,
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "params": self.params,
            "trainable_params": self.trainable_params,
            "macs": self.macs,
            "flops": self.flops,
            "other_flops": self.other_flops,
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "intensity": self.intensity,
            "unknown": list(self.unknown),
            "prediction": self.prediction.to_json() if self.prediction is not None else None,
            "layers": [layer.to_json() for layer in self.layers],
        }

    def table(self, *, rows: int = 20, width: int = 80) -> str:
        """A table of at most `rows` groups of layers and as many single layers, `width` columns wide."""
        return profile_table(self, rows=rows, width=width)

    def __str__(self) -> str:
        return self.table()


def layers_of(operators: Iterable[OperatorCost], param_sizes: dict[int, int]) -> tuple[LayerCost, ...]:
    """Sum operator calls by (layer, operator) in order of first call; a parameter belongs to its first reader."""
    groups: dict[tuple[str, str], list[OperatorCost]] = {}
    for operator in operators:
        groups.setdefault((operator.layer, operator.op), []).append(operator)
    owned: dict[int, tuple[str, str]] = {}
    for key, calls in groups.items():
        for number in (number for call in calls for number in call.params):
            owned.setdefault(number, key)
    sizes: dict[tuple[str, str], int] = {}
    for number, key in owned.items():
        sizes[key] = sizes.get(key, 0) + param_sizes[number]
    return tuple(
        LayerCost(
            name=key[0],
            op=key[1],
            kind=calls[0].kind,
            macs=sum(call.macs for call in calls),
            other_flops=sum(call.other_flops for call in calls),
            params=sizes.get(key, 0),
            bytes_read=sum(call.bytes_read for call in calls),
            bytes_written=sum(call.bytes_written for call in calls),
            output_shape=calls[0].output_shape,
            calls=len(calls),
        )
        for key, calls in groups.items()
    )
