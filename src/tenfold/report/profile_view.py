"""One network's profile as the page, the picture and the terminal show it: plain figures, no torch.

Times come from a device, if there is one: predicted where it was calibrated; else the limit that its roofs set, and
called that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tenfold.cost import LayerCost, Profile
from tenfold.cost.device_prediction import FUSED
from tenfold.report.roofs import Times

NETWORK = "(network)"  # what runs in no layer but in the network's own forward
STEPS = 2000  # operators on the memory timeline, at most


@dataclass(frozen=True)
class LayerView:
    """One operator of one layer, over all its calls. `flops` counts arithmetic of every kind."""

    number: int  # in order of the first call
    name: str
    op: str
    kind: str
    shape: str  # of its output
    calls: int
    params: int
    macs: int
    flops: int
    moved: int  # bytes read and written
    ms: float | None = None
    bound: str | None = None

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flops / self.moved if self.moved else 0.0

    @property
    def fused(self) -> bool:
        """Whether it runs within another layer's kernel, and its time is counted there."""
        return self.bound == FUSED

    @property
    def rate(self) -> float | None:
        """FLOP/s that its time comes to; None where there is no time of its own or no arithmetic."""
        return 1e3 * self.flops / self.ms if self.ms and self.flops else None


@dataclass(frozen=True)
class Held:
    """A tensor alive at the peak of memory."""

    layer: str
    op: str  # that made it; "input" where nothing did
    shape: str
    size: int  # bytes
    count: int = 1  # tensors that are alike but for the numbers in their layers' names; `size` is of all


@dataclass(frozen=True)
class Step:
    """A moment on the memory timeline: `live` bytes of activations once this operator's output exists."""

    number: int
    layer: str
    op: str
    live: int


@dataclass(frozen=True)
class Memory:
    """Live bytes over the operators, the moment of the peak, and the tensors alive then, the largest first."""

    steps: tuple[Step, ...]
    operators: int  # in all; `steps` may be fewer
    peak: Step
    held: tuple[Held, ...]


@dataclass(frozen=True)
class View:
    """One network on one device, or on none: then `how`, which tells how the times came about, is None."""

    name: str
    input: str
    params: int
    trainable_params: int
    macs: int
    other_flops: int
    weight_bytes: int
    activation_bytes: int
    peak_bytes: int
    fused_peak_bytes: int  # as a runtime that fuses needs
    active_params: int  # without the experts that do not act on a token
    causal_macs: int  # without the scores that causal masks hide
    moved: int
    intensity: float
    layers: tuple[LayerView, ...]
    memory: Memory | None
    unknown: tuple[str, ...]
    how: str | None = None
    ms: float | None = None
    interval: tuple[float, float] | None = None  # of `ms`, in milliseconds

    @property
    def flops(self) -> int:
        """2·macs."""
        return 2 * self.macs

    def share(self, bound: str) -> float:
        """The share of the layers' time that this binds, 0 where there is no time."""
        whole = sum(layer.ms or 0.0 for layer in self.layers)
        return sum(layer.ms or 0.0 for layer in self.layers if layer.bound == bound) / whole if whole else 0.0


def view(profile: Profile, name: str, times: Times | None = None) -> View:
    """`profile` as it is shown, under `name`, with its times on a device."""
    ms = times.ms if times else (None,) * len(profile.layers)
    bounds = times.bounds if times else (None,) * len(profile.layers)
    layers = tuple(
        _layer(number, *figures)
        for number, figures in enumerate(zip(profile.layers, ms, bounds, strict=True), start=1)
    )
    interval = (times.low, times.high) if times and times.low is not None and times.high is not None else None
    return View(
        name=name,
        input=", ".join(map(_shape, profile.input_shapes)),
        params=profile.params,
        trainable_params=profile.trainable_params,
        macs=profile.macs,
        other_flops=profile.other_flops,
        weight_bytes=profile.weight_bytes,
        activation_bytes=profile.activation_bytes,
        peak_bytes=profile.peak_activation_bytes,
        fused_peak_bytes=profile.fused_peak_activation_bytes,
        active_params=profile.active_params,
        causal_macs=profile.causal_macs,
        moved=profile.bytes_read + profile.bytes_written,
        intensity=profile.intensity,
        layers=layers,
        memory=_memory(profile),
        unknown=profile.unknown,
        how=times.how if times else None,
        ms=times.total if times else None,
        interval=interval,
    )


def _layer(number: int, layer: LayerCost, ms: float | None, bound: str | None) -> LayerView:
    return LayerView(
        number=number,
        name=layer.name or NETWORK,
        op=operator(layer.op),
        kind=layer.kind,
        shape=_shape(layer.output_shape),
        calls=layer.calls,
        params=layer.params,
        macs=layer.macs,
        flops=layer.flops + layer.other_flops,
        moved=layer.bytes_read + layer.bytes_written,
        ms=ms,
        bound=bound,
    )


def operator(op: str) -> str:
    """An operator's name without the marks of backends and of working in place."""
    return "attention" if "attention" in op else op.strip("_")


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _memory(profile: Profile) -> Memory | None:
    if not profile.operators:
        return None
    steps = [
        Step(number, call.layer or NETWORK, operator(call.op), call.live_bytes)
        for number, call in enumerate(profile.operators, start=1)
    ]
    held = tuple(
        Held(
            tensor.layer or NETWORK,
            operator(tensor.op),
            "" if tensor.shape is None else _shape(tensor.shape),
            tensor.bytes,
        )
        for tensor in profile.peak_tensors
    )
    return Memory(thinned(steps), len(steps), max(steps, key=lambda step: step.live), _together(held))


def _together(held: Sequence[Held]) -> tuple[Held, ...]:
    """Tensors that are alike but for the numbers in their layers' names as one, the largest sum first."""
    groups: dict[tuple[object, ...], list[Held]] = {}
    for tensor in held:
        key = (re.sub(r"\d+", "*", tensor.layer), tensor.op, tensor.shape, tensor.size)
        groups.setdefault(key, []).append(tensor)
    merged = [
        Held(
            common_name([t.layer for t in group]),
            group[0].op,
            group[0].shape,
            sum(t.size for t in group),
            len(group),
        )
        for group in groups.values()
    ]
    return tuple(sorted(merged, key=lambda tensor: tensor.size, reverse=True))


def thinned(steps: Sequence[Step], most: int = STEPS) -> tuple[Step, ...]:
    """At most `most` steps: of each stretch of equal length its highest, so that the peak stays."""
    stretch = -(-len(steps) // most)
    return tuple(
        max(steps[start : start + stretch], key=lambda step: step.live)
        for start in range(0, len(steps), stretch)
    )


@dataclass(frozen=True)
class Alike:
    """Layers that differ only in the numbers of their names: one point in a picture."""

    name: str  # with * for the numbers that differ
    layers: tuple[LayerView, ...]

    @property
    def short(self) -> str:
        """The end of the name, enough to know it by in a picture."""
        parts = self.name.split(".")
        last = next((at for at in reversed(range(len(parts))) if not re.fullmatch(r"[\d*]+", parts[at])), 0)
        start = (
            last - 1
            if last and len(parts[last]) < 4 and not re.fullmatch(r"[\d*]+", parts[last - 1])
            else last
        )
        return ".".join(parts[start:])


def alike(layers: Sequence[LayerView]) -> list[Alike]:
    """Layers of one operator, shape and cost whose names match but for numbers, in order of the first."""
    groups: dict[tuple[object, ...], list[LayerView]] = {}
    for layer in layers:
        ms = None if layer.ms is None else f"{layer.ms:.6g}"
        pattern = re.sub(r"\d+", "*", layer.name)
        groups.setdefault((pattern, layer.op, layer.shape, layer.flops, layer.moved, ms), []).append(layer)
    return [Alike(common_name([layer.name for layer in group]), tuple(group)) for group in groups.values()]


def common_name(names: Sequence[str]) -> str:
    """'blocks.0.fc' and 'blocks.1.fc' -> 'blocks.*.fc'; the names match but for their numbers."""
    parts = zip(*(re.split(r"(\d+)", name) for name in names), strict=True)
    return "".join(part[0] if len(set(part)) == 1 else "*" for part in parts)
