"""What a count hands back: a network's totals, its layers, and the operators in the order they ran."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
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

INPUT = "input"  # what stands for the maker of a network's input


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
    masked_macs: int = 0  # of `macs`, those spent on scores that the operator's own causal mask hides
    input_shapes: tuple[tuple[int, ...], ...] = ()  # of its tensors, in the order of its arguments


@dataclass(frozen=True)
class LayerCost:
    """All calls of one operator in one layer. Bytes are those of eager execution, caches apart.

    `predicted_ms` and `bound` ("compute", "memory" or "overhead") are for a device to fill in; a count has none.
    """

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
    masked_macs: int = 0
    live_bytes: int = 0  # activations alive while it runs, at most
    predicted_ms: float | None = None  # of all calls, where a device was given
    bound: str | None = None  # "compute", "memory", "overhead", or "fused" into another layer's kernel

    @property
    def flops(self) -> int:
        """2·macs; the rest is in `other_flops`."""
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: floating-point operations of every kind for each byte read or written."""
        return _intensity(self)

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
            "masked_macs": self.masked_macs,
            "live_bytes": self.live_bytes,
            "predicted_ms": self.predicted_ms,
            "bound": self.bound,
        }


@dataclass(frozen=True)
class OperatorTotal:
    """All calls of one operator in the whole network."""

    op: str
    kind: str
    calls: int
    macs: int
    other_flops: int
    bytes_read: int
    bytes_written: int
    predicted_ms: float | None = None

    @property
    def flops(self) -> int:
        """2·macs; the rest is in `other_flops`."""
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        """Floating-point operations of every kind for each byte read or written."""
        return _intensity(self)

    def to_json(self) -> dict[str, Any]:
        """Its fields and derived figures as plain JSON."""
        return {**asdict(self), "intensity": self.intensity}


@dataclass(frozen=True)
class LiveTensor:
    """A tensor in memory, by the operator that made it; one that nothing made is an input of the network."""

    layer: str
    op: str  # "input" for an input of the network
    shape: tuple[int, ...] | None  # None for one that is not its operator's first output
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Its fields as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Profile:
    """What one forward pass of a network costs, counted and not measured.

    `macs` are the multiply-adds of convolutions, matrix products and attention alone; `flops` is twice that;
    all other arithmetic is `other_flops`. Attention counts densely, as masked work is done by kernels that do not
    skip it; `masked_macs` is the part of it that causal masks hide, and `causal_macs` what is left without.
    `active_params` leaves out the experts that do not act on a token. `weight_bytes` holds parameters and buffers,
    each storage once. `activation_bytes` is the size of everything that operators write. `peak_activation_bytes`
    is the largest sum of tensors alive at a time as eager execution allocates them, the network's inputs included,
    its weights and the workspaces of libraries not; `peak_tensors` are those, the largest first. `fused_peak_activation_bytes` is what a runtime needs that fuses
    (`fusion.fused_peak`). `unknown` names the operators that no formula covers: their bytes are counted, their
    arithmetic is not. `views` counts the calls that touch no data, `module_calls` the modules that run: eager execution
    pays for both.
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
    active_params: int = 0
    fused_peak_activation_bytes: int = 0
    peak_tensors: tuple[LiveTensor, ...] = ()
    prediction: Prediction | None = None  # of one call, where a device was given
    views: int = 0
    module_calls: int = 0

    @property
    def predicted_ms(self) -> float | None:
        """The predicted milliseconds of one call, where a device was given."""
        return self.prediction.ms if self.prediction is not None else None

    @property
    def flops(self) -> int:
        """2·macs."""
        return 2 * self.macs

    @property
    def masked_macs(self) -> int:
        """Of `macs`, those spent on attention scores that a causal mask hides."""
        return sum(operator.masked_macs for operator in self.operators)

    @property
    def causal_macs(self) -> int:
        """`macs` where causal attention computes only the scores that it uses, about half of them."""
        return self.macs - self.masked_macs

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
        return _intensity(self)

    @property
    def by_operator(self) -> tuple[OperatorTotal, ...]:
        """The layers summed by operator, the one with the most arithmetic first, then by bytes."""
        groups: dict[tuple[str, str], list[LayerCost]] = {}
        for layer in self.layers:
            groups.setdefault((layer.op, layer.kind), []).append(layer)
        totals = [_operator_total(*key, layers) for key, layers in groups.items()]
        return tuple(
            sorted(
                totals,
                key=lambda total: (total.flops + total.other_flops, total.bytes_read + total.bytes_written),
                reverse=True,
            )
        )

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
            "active_params": self.active_params,
            "trainable_params": self.trainable_params,
            "macs": self.macs,
            "flops": self.flops,
            "masked_macs": self.masked_macs,
            "other_flops": self.other_flops,
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "fused_peak_activation_bytes": self.fused_peak_activation_bytes,
            "peak_layer": self.peak_layer,
            "peak_tensors": [tensor.to_json() for tensor in self.peak_tensors],
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "intensity": self.intensity,
            "unknown": list(self.unknown),
            "by_operator": [total.to_json() for total in self.by_operator],
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
            masked_macs=sum(call.masked_macs for call in calls),
            live_bytes=max(call.live_bytes for call in calls),
        )
        for key, calls in groups.items()
    )


def live_tensors(
    storages: Iterable[int],
    sizes: Sequence[int],
    operators: Sequence[OperatorCost],
    storages_used: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
) -> tuple[LiveTensor, ...]:
    """What lies in these `storages` (numbers into `sizes`), by its first writer, the largest first."""
    makers: dict[int, OperatorCost] = {}
    for operator, (_, written) in zip(operators, storages_used, strict=True):
        for number in written:
            makers.setdefault(number, operator)
    tensors = []
    for number in storages:
        size, maker = sizes[number], makers.get(number)
        if size == 0:
            continue  # an output that was not asked for
        if maker is None:
            tensors.append(LiveTensor("", INPUT, None, size))
            continue
        # A storage of another size than any type gives the output's shape holds another of its outputs.
        elements = math.prod(maker.output_shape)
        shape = maker.output_shape if size in (elements * item for item in (1, 2, 4, 8, 16)) else None
        tensors.append(LiveTensor(maker.layer, maker.op, shape, size))
    return tuple(sorted(tensors, key=lambda tensor: tensor.bytes, reverse=True))


def _operator_total(op: str, kind: str, layers: Sequence[LayerCost]) -> OperatorTotal:
    times = [layer.predicted_ms for layer in layers]
    return OperatorTotal(
        op=op,
        kind=kind,
        calls=sum(layer.calls for layer in layers),
        macs=sum(layer.macs for layer in layers),
        other_flops=sum(layer.other_flops for layer in layers),
        bytes_read=sum(layer.bytes_read for layer in layers),
        bytes_written=sum(layer.bytes_written for layer in layers),
        # A layer without a time leaves the sum without one: a missing number is not zero.
        predicted_ms=None if None in times else sum(time for time in times if time is not None),
    )


def _intensity(cost: LayerCost | OperatorTotal | Profile) -> float:
    moved = cost.bytes_read + cost.bytes_written
    return (cost.flops + cost.other_flops) / moved if moved else 0.0
