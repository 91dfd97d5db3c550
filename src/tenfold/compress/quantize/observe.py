"""Calibration: the range of every tensor that is to be quantised, from real examples."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.grid import ZeroPoint
from tenfold.compress.quantize.ops import LEVELS, MIDDLE
from tenfold.cost import Inputs, as_args
from tenfold.errors import NetworkError

K = TypeVar("K", bound=Hashable)

BINS = 2048
TAIL = 1e-4  # PERCENTILE leaves out this share of the values at each end
SMALLEST = 1e-6  # ENTROPY takes a bin that Q leaves empty for this probable
SHRINKS = torch.linspace(1.0, 0.3, 71)  # MSE tries these shares of each end of the range


class Observer(enum.Enum):
    """How a range is chosen from the values seen: all of them, all but the tails, or the least error.

    MSE takes the least squared error of rounding, ENTROPY the least Kullback-Leibler divergence of the rounded
    values' distribution from that of the values (Migacz, 2017, "8-bit inference with TensorRT").
    """

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


class Watch(fx.Interpreter):
    """Runs a graph and hands the value of each of `nodes` to `see(node, value)`."""

    def __init__(
        self, module: fx.GraphModule, nodes: Iterable[fx.Node], see: Callable[[fx.Node, Tensor], None]
    ):
        super().__init__(module)
        self.nodes, self.see = frozenset(nodes), see
        self.extra_traceback = False  # which would be added to the text of what `see` raises

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
    with torch.no_grad():
        return _run(interpreter, inputs)


def run_with_gradient(module: fx.GraphModule, inputs: Inputs) -> Any:
    """What a captured graph returns, connected to the weights that ask for a gradient."""
    return _run(fx.Interpreter(module), inputs)


def placeholders(graph: fx.Graph, inputs: Inputs) -> dict[fx.Node, Tensor]:
    """The inputs of a captured graph, which come by position and by keyword in the order of its placeholders."""
    args, kwargs = as_args(inputs)
    nodes = [node for node in graph.nodes if node.op == "placeholder"]
    given = dict(zip(nodes, args, strict=False))
    given |= {node: kwargs[str(node.target)] for node in nodes[len(args) :] if str(node.target) in kwargs}
    return given


def _run(interpreter: fx.Interpreter, inputs: Inputs) -> Any:
    return interpreter.run(*placeholders(interpreter.graph, inputs).values(), enable_io_processing=False)


def require_finite(name: str, values: Tensor) -> None:
    """Raise a `NetworkError` where what this layer computes on the calibration examples is not finite."""
    if not bool(torch.isfinite(values).all()):
        raise NetworkError(
            f"{name}: it computes NaN or infinity on the calibration examples, so these examples or the "
            "weights before it hold such values"
        )


def check_values(
    module: fx.GraphModule, names: Mapping[fx.Node, str], batches: Callable[[], Iterable[Inputs]]
) -> None:
    """Raise a `NetworkError` that names the first of these nodes whose values are not finite on the examples."""

    watch = Watch(module, names, lambda node, value: require_finite(names[node], value))
    for inputs in batches():
        watch.watch(inputs)


def observe(
    module: fx.GraphModule,
    names: dict[fx.Node, str],
    batches: Callable[[], Iterable[Inputs]],
    observer: Observer,
    zero_point: ZeroPoint = ZeroPoint.INTEGER,
) -> dict[fx.Node, tuple[float, float]]:
    """The range (low, high) of each node of `names`; `batches()` may be called twice and must repeat itself.

    Symmetric ranges are chosen for quantisers whose zero lies in the middle.
    """

    def show(see: Callable[[fx.Node, Tensor], None]) -> None:
        watch = Watch(module, names, see)
        for inputs in batches():
            watch.watch(inputs)

    return observed(show, names.__getitem__, observer, zero_point)


def observed(
    show: Callable[[Callable[[K, Tensor], None]], None],
    name: Callable[[K], str],
    observer: Observer,
    zero_point: ZeroPoint = ZeroPoint.INTEGER,
) -> dict[K, tuple[float, float]]:
    """The range (low, high) of each key whose values `show(see)` hands to `see(key, values)`, any number of times.

    `show` may be called twice and must repeat itself. Raises a `NetworkError` that names the key of values that are
    not finite.
    """
    ranges: dict[K, tuple[float, float]] = {}

    def widen(key: K, value: Tensor) -> None:
        ends = torch.stack(torch.aminmax(value))
        require_finite(name(key), ends)
        low, high = ends.tolist()
        old = ranges.get(key, (low, high))
        ranges[key] = (min(old[0], low), max(old[1], high))

    show(widen)
    symmetric = zero_point is ZeroPoint.SYMMETRIC
    if symmetric:
        ranges = {key: (-max(-low, high), max(-low, high)) for key, (low, high) in ranges.items()}
    if observer is Observer.MINMAX:
        return ranges

    counts: dict[K, Tensor] = {}

    def count(key: K, value: Tensor) -> None:
        low, high = ranges[key]
        if high > low:
            seen = torch.histc(value.float(), BINS, low, high).double()
            counts[key] = counts[key] + seen if key in counts else seen

    show(count)
    choose = {
        Observer.PERCENTILE: percentile_range,
        Observer.MSE: least_error_magnitude if symmetric else least_error_range,
        Observer.ENTROPY: least_divergence_range,
    }[observer]
    return {key: choose(counts[key], *r) if key in counts else r for key, r in ranges.items()}


def percentile_range(counts: Tensor, low: float, high: float) -> tuple[float, float]:
    """The range that leaves out a share `TAIL` of the values at each end. counts (BINS,) over [low, high]."""
    width = (high - low) / len(counts)
    below = counts.cumsum(0) / counts.sum()
    first = int((below <= TAIL).sum())
    last = len(counts) - int((below.flip(0) >= 1 - TAIL).sum()) + 1
    return low + first * width, low + last * width


def least_error_range(counts: Tensor, low: float, high: float) -> tuple[float, float]:
    """The range whose uint8 rounding has the least squared error: first its high end is tried, then its low end."""
    centres = _centres(counts, low, high)

    def error(lows: Tensor, highs: Tensor) -> Tensor:
        scale = ((highs.clamp(min=0) - lows.clamp(max=0)) / LEVELS).unsqueeze(1)
        return _squared_error(counts, centres, scale, (-lows.clamp(max=0).unsqueeze(1) / scale).round())

    shrinks = SHRINKS.double()
    if high > 0:
        highs = high * shrinks
        high = float(highs[error(torch.full_like(highs, low), highs).argmin()])
    if low < 0:
        lows = low * shrinks
        low = float(lows[error(lows, torch.full_like(lows, high)).argmin()])
    return low, high


def least_error_magnitude(counts: Tensor, low: float, high: float) -> tuple[float, float]:
    """As `least_error_range` for a quantiser of ±high about the middle of the codes. counts (BINS,) over ±high."""
    highs = high * SHRINKS.double()
    scale = (highs / (MIDDLE - 1)).unsqueeze(1)
    errors = _squared_error(counts, _centres(counts, low, high), scale, torch.full_like(scale, MIDDLE))
    best = float(highs[errors.argmin()])
    return -best, best


def _centres(counts: Tensor, low: float, high: float) -> Tensor:
    """The middles of the bins: float64 (BINS,)."""
    width = (high - low) / len(counts)
    return low + width * (torch.arange(len(counts), dtype=torch.float64) + 0.5)


def _squared_error(counts: Tensor, centres: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The squared error of rounding a histogram by each of these quantisers, scale and zero (N, 1): (N,)."""
    q = (centres / scale).round().add(zero).clamp(0, LEVELS)
    # Within a bin the values are spread, so that rounding costs at least s² / 12 there.
    inside = (q > 0) & (q < LEVELS)
    squared = (scale * (q - zero) - centres).square()
    return (counts * torch.where(inside, scale.square() / 12, squared)).sum(dim=1)


def least_divergence_range(counts: Tensor, low: float, high: float) -> tuple[float, float]:
    """The share of [low, high], about zero, whose uint8 rounding keeps the distribution best. counts (BINS,)."""
    ends = torch.tensor([low, high], dtype=torch.float64)
    share = float(
        least_divergence_shares(counts[None], ends[:1], ends[1:], LEVELS + 1, [float(s) for s in SHRINKS])
    )
    return low * share, high * share


def least_divergence_shares(
    counts: Tensor, low: Tensor, high: Tensor, levels: int, shares: Sequence[float]
) -> Tensor:
    """For each histogram, the share of its range that diverges least when it is rounded to `levels` values: (U,).

    counts (U, B) over [low, high], each (U,). P is the histogram with what lies outside the share moved into the
    bins at its ends; Q is the histogram without that, gathered into `levels` cells and spread evenly over the bins
    that each cell fills. The share with the least KL(P ‖ Q) is taken, so what is cut off is paid for at the ends.
    """
    bins = counts.shape[1]
    low, high = low.double()[:, None], high.double()[:, None]
    centres = low + (high - low) * ((torch.arange(bins, device=counts.device) + 0.5) / bins)
    best = torch.full_like(low[:, 0], torch.inf)
    chosen = torch.ones_like(best)
    for share in shares:
        below, above = centres < low * share, centres > high * share
        inside = counts.masked_fill(below | above, 0)
        p = inside.clone()
        first, last = below.sum(1, keepdim=True), bins - 1 - above.sum(1, keepdim=True)
        p.scatter_add_(1, first.clamp(max=bins - 1), (counts * below).sum(1, keepdim=True))
        p.scatter_add_(1, last.clamp(min=0), (counts * above).sum(1, keepdim=True))
        span = ((high - low) * share).clamp(min=1e-30)
        cell = ((centres - low * share) / span * levels).long().clamp_(0, levels - 1)
        empty = torch.zeros(len(counts), levels, dtype=torch.float64, device=counts.device)
        mass, filled = empty.scatter_add(1, cell, inside), empty.scatter_add(1, cell, (inside > 0).double())
        q = torch.where(inside > 0, (mass / filled.clamp(min=1)).gather(1, cell), 0.0)
        p = p / p.sum(1, keepdim=True).clamp(min=1e-30)
        q = q / q.sum(1, keepdim=True).clamp(min=1e-30)
        kl = torch.where(p > 0, p * (p / q.clamp(min=SMALLEST)).log(), 0.0).sum(1)
        chosen = torch.where(kl < best, share, chosen)
        best = torch.minimum(kl, best)
    return chosen
