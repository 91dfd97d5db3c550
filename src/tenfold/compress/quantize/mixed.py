"""Which layers of an INT8 network stay float, so that a measured latency is met at the least expected loss.

A layer in INT8 costs D_l: how far the network's answer moves, as a Kullback-Leibler divergence, when only this layer's
weight and input are rounded. Left float it costs time, at first estimated as its share, by multiply-adds, of the
difference measured between the float network and the one in INT8 throughout. The layers to leave float under a budget
of such estimates are a knapsack, for which `allocate` goes along the layers by distortion for each millisecond
(Shoham and Gersho, 1988). What the estimates leave out, conversions on both sides of a float layer above all, is
measured: the budget is searched for by bisection, every trial being the network really made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.affine import Affine, round_weight, weight_scales
from tenfold.compress.quantize.allocation import Point, allocate, first_tensor
from tenfold.compress.quantize.capture import shape_of
from tenfold.compress.quantize.grid import ZeroPoint
from tenfold.compress.quantize.insert import IntegerForm
from tenfold.compress.quantize.layers import Layer
from tenfold.compress.quantize.observe import run_captured
from tenfold.compress.quantize.ops import along, dequantize, quantize, quantized_at_run_time
from tenfold.compress.technique import Json
from tenfold.cost import Inputs, batch_size
from tenfold.errors import NetworkError

TRIALS = 8  # networks that are made and measured, each by an export or two
STEPS = 24  # of the search for the budget, most of which meet networks that have been measured
FINEST = 1e-3  # share of the budget at which the search ends


def choose(
    distortions: Mapping[str, float],
    macs: Mapping[str, int],
    latency: Callable[[frozenset[str]], float],
    original_ms: float,
    target: float,
    report: Callable[[float, str], None] = lambda share, text: None,
) -> tuple[frozenset[str], Json]:
    """The layers to leave float, by name, and what was expected and measured.

    `distortions` and `macs` are those of each layer that may be in INT8; `latency(floats)` measures, in milliseconds,
    the network in which these stay float. It is to take at most `target` times `original_ms`, which the float network
    takes. Raises `NetworkError` where it takes longer even with every layer in INT8.
    """
    limit, tried = target * original_ms, dict[frozenset[str], float]()

    def measured(floats: frozenset[str]) -> float:
        ms = latency(floats)
        # A busy machine only ever adds: what is hardly so is measured again. Of several that come near the limit some
        # meet it by luck, but hardly twice.
        if ms > (original_ms if floats else limit):
            ms = min(ms, latency(floats))
        elif floats and ms <= limit:
            ms = max(ms, latency(floats))
        report(min((len(tried) + 1) / (TRIALS + 1), 1.0), _told(ms, floats, len(distortions)))
        return ms

    def loss(floats: frozenset[str]) -> float:
        return sum(distortion for name, distortion in distortions.items() if name not in floats)

    none: frozenset[str] = frozenset()
    fastest = tried[none] = measured(none)
    if fastest > limit:
        raise NetworkError(
            f"cannot reach {target:.0%} of {original_ms:.3g} ms: with every layer in INT8 it still takes "
            f"{fastest:.3g} ms ({fastest / original_ms:.0%}); give a higher target_latency, fewer floats, or prune first"
        )
    total = sum(macs.values())
    saved = {name: (original_ms - fastest) * macs[name] / total for name in distortions}
    curves: list[list[Point]] = [[(0.0, distortions[name]), (saved[name], 0.0)] for name in distortions]
    # Budgets, and what the networks made for them took: one that meets the limit and one that does not.
    low, high = (0.0, fastest), (original_ms - fastest, original_ms)
    for step in range(STEPS):
        share = 0.5 if step % 2 else (limit - low[1]) / (high[1] - low[1])
        budget = low[0] + (high[0] - low[0]) * share
        chosen = zip(distortions, allocate(curves, budget), strict=True)
        floats = frozenset(name for name, is_float in chosen if is_float)
        if floats not in tried:
            if len(tried) == TRIALS:
                break
            tried[floats] = measured(floats)
        if tried[floats] <= limit:
            low = (budget, tried[floats])
        else:
            high = (budget, tried[floats])
        if high[0] - low[0] < FINEST * (original_ms - fastest):
            break
    floats = min((floats for floats, ms in tried.items() if ms <= limit), key=loss)
    return floats, {
        "target_ms": limit,
        "float": {"ms": original_ms, "expected_loss": 0.0},
        "int8": {"ms": fastest, "expected_loss": loss(none)},
        "mixed": _entry(floats, tried[floats], loss(floats)),
        "layers": {name: {"ms": saved[name], "expected_loss": distortions[name]} for name in distortions},
        "trials": [_entry(floats, ms, loss(floats)) for floats, ms in tried.items()],
    }


def distortions(
    module: fx.GraphModule,
    layers: Mapping[str, Layer],
    affines: Mapping[str, Affine],
    form: IntegerForm,
    examples: Inputs,
    before: Callable[[float], None],
) -> dict[str, float]:
    """How far the answer moves when one layer alone is in INT8, for each of them by name.

    `affines` are the quantisers of the layers' inputs by the layer's name; a layer without one rounds its input by
    the input's own range. Of classes (a second dimension and no more) the mean of KL(p ‖ p̂); other outputs count as
    the means of normal distributions of variance one, half the squared distance.
    """
    wanted = first_tensor(run_captured(fx.Interpreter(module), examples))
    found = {}
    for index, (name, layer) in enumerate(layers.items()):
        before(index / len(layers))
        answer = run_captured(_OneRounded(module, layer, affines.get(name), form), examples)
        found[name] = divergence(wanted, first_tensor(answer), batch_size(examples))
    return found


def divergence(wanted: Tensor, answer: Tensor, number: int) -> float:
    """The mean divergence over `number` examples, at least 0, as `distortions` defines it."""
    wanted, answer = wanted.double(), answer.double()
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        log_p, log_q = wanted.log_softmax(1), answer.log_softmax(1)
        p = log_p.exp()
        total = torch.where(p > 0, p * (log_p - log_q), 0.0).sum()  # a class that is masked out costs nothing
    else:
        total = 0.5 * (answer - wanted).square().sum()
    return max(float(total) / number, 0.0)


def layer_macs(layer: Layer) -> int:
    """The multiply-adds of a layer for one example, of a graph that was captured with two."""
    weight, sizes = shape_of(layer.weight), shape_of(layer.node)
    places = math.prod(_known(size) for size in sizes)
    if any(not isinstance(size, int) for size in sizes):  # the batch, alone or times what was merged with it
        places //= 2
    return places * (math.prod(weight) // weight[layer.axis])


def _known(size: int) -> int:
    """A size as it was captured, where the batch makes it a symbol."""
    return size if isinstance(size, int) else int(size.node.hint)


class _OneRounded(fx.Interpreter):
    """A float network in which one layer's input and weight are rounded as in INT8."""

    def __init__(
        self, module: fx.GraphModule, layer: Layer, affine: Affine | None, form: IntegerForm
    ) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.layer, self.affine, self.form = layer, affine, form

    def run_node(self, n: fx.Node) -> Any:
        if n is not self.layer.node:
            return super().run_node(n)
        rounded = {
            self.layer.input: self._input(self.env[self.layer.input]),
            self.layer.weight: self._weight(self.env[self.layer.weight]),
        }

        def given(node: fx.Node) -> Any:
            return rounded[node] if node in rounded else self.env[node]

        return n.target(*fx.node.map_arg(n.args, given), **fx.node.map_arg(n.kwargs, given))  # type: ignore[operator]

    def _input(self, x: Tensor) -> Tensor:
        if self.affine is None:
            return quantized_at_run_time(x, self.form.activations is ZeroPoint.SYMMETRIC)
        scale, zero = torch.tensor(self.affine.scale), torch.tensor(self.affine.zero_point)
        return dequantize(quantize(x, scale, zero), scale, zero)  # type: ignore[no-any-return]

    def _weight(self, weight: Tensor) -> Tensor:
        axis = self.layer.axis
        scale = weight_scales(weight, axis, self.form.bits, granularity=self.form.granularity)
        return round_weight(weight, scale, axis, self.form.bits) * along(scale, axis, weight.dim())


def _entry(floats: frozenset[str], ms: float, loss: float) -> Json:
    return {"ms": ms, "expected_loss": loss, "floats": sorted(floats)}


def _told(ms: float, floats: frozenset[str], number: int) -> str:
    return f"quantize: {ms:.3g} ms with {len(floats)} of {number} layers in float"
