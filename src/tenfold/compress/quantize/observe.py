"""Calibration: the range of every tensor that is to be quantised, from real examples."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.ops import LEVELS
from tenfold.cost import Inputs, as_args
from tenfold.errors import NetworkError

BINS = 2048
TAIL = 1e-4  # PERCENTILE leaves out this share of the values at each end
SHRINKS = torch.linspace(1.0, 0.3, 71)  # MSE tries these shares of each end of the range


class Observer(enum.Enum):
    """How a range is chosen from the values seen: all of them, all but the tails, or the least squared error."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


class Watch(fx.Interpreter):
    """Runs a graph and hands the value of each of `nodes` to `see(node, value)`."""

    def __init__(
        self, module: fx.GraphModule, nodes: Iterable[fx.Node], see: Callable[[fx.Node, Tensor], None]
    ):
        super().__init__(module)
        self.nodes, self.see = frozenset(nodes), see

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.nodes:
            self.see(n, value)
        return value

    def watch(self, inputs: Inputs) -> None:
        """Run the network once on `inputs`."""
        run_captured(self, inputs)


def run_captured(interpreter: fx.Interpreter, inputs: Inputs) -> Any:
    """Run a captured graph, which takes positional and keyword inputs in the order of its placeholders."""
    args, kwargs = as_args(inputs)
    names = [str(n.target) for n in interpreter.graph.nodes if n.op == "placeholder"]
    values = [*args, *(kwargs[name] for name in names[len(args) :] if name in kwargs)]
    with torch.no_grad():
        return interpreter.run(*values, enable_io_processing=False)


def observe(
    module: fx.GraphModule,
    names: dict[fx.Node, str],
    batches: Callable[[], Iterable[Inputs]],
    observer: Observer,
) -> dict[fx.Node, tuple[float, float]]:
    """The range (low, high) of each node of `names`; `batches()` may be called twice and must repeat itself."""
    ranges: dict[fx.Node, tuple[float, float]] = {}

    def widen(node: fx.Node, value: Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(value))
        if not (low > -float("inf") and high < float("inf")):  # also false for NaN
            raise NetworkError(f"{names[node]}: it computes NaN or infinity on the calibration examples")
        old = ranges.get(node, (low, high))
        ranges[node] = (min(old[0], low), max(old[1], high))

    watch = Watch(module, names, widen)
    for inputs in batches():
        watch.watch(inputs)
    if observer is Observer.MINMAX:
        return ranges

    counts: dict[fx.Node, Tensor] = {}

    def count(node: fx.Node, value: Tensor) -> None:
        low, high = ranges[node]
        if high > low:
            seen = torch.histc(value.float(), BINS, low, high).double()
            counts[node] = counts[node] + seen if node in counts else seen

    watch = Watch(module, names, count)
    for inputs in batches():
        watch.watch(inputs)
    choose = percentile_range if observer is Observer.PERCENTILE else least_error_range
    return {node: choose(counts[node], *r) if node in counts else r for node, r in ranges.items()}


def percentile_range(counts: Tensor, low: float, high: float) -> tuple[float, float]:
    """The range that leaves out a share `TAIL` of the values at each end. counts (BINS,) over [low, high]."""
    width = (high - low) / len(counts)
    below = counts.cumsum(0) / counts.sum()
    first = int((below <= TAIL).sum())
    last = len(counts) - int((below.flip(0) >= 1 - TAIL).sum()) + 1
    return low + first * width, low + last * width


def least_error_range(counts: Tensor, low: float, high: float) -> tuple[float, float]:
    """The range whose uint8 rounding has the least squared error: first its high end is tried, then its low end."""
    width = (high - low) / len(counts)
    centres = low + width * (torch.arange(len(counts), dtype=torch.float64) + 0.5)

    def error(lows: Tensor, highs: Tensor) -> Tensor:
        scale = ((highs.clamp(min=0) - lows.clamp(max=0)) / LEVELS).unsqueeze(1)
        zero = (-lows.clamp(max=0).unsqueeze(1) / scale).round()
        q = (centres / scale).round().add(zero).clamp(0, LEVELS)
        # Within a bin the values are spread, so that rounding costs at least s² / 12 there.
        inside = (q > 0) & (q < LEVELS)
        squared = (scale * (q - zero) - centres).square()
        return (counts * torch.where(inside, scale.square() / 12, squared)).sum(dim=1)

    shrinks = SHRINKS.double()
    if high > 0:
        highs = high * shrinks
        high = float(highs[error(torch.full_like(highs, low), highs).argmin()])
    if low < 0:
        lows = low * shrinks
        low = float(lows[error(lows, torch.full_like(lows, high)).argmin()])
    return low, high
