"""Which layer gets how many bits: the least distortion under a budget of bytes.

The sum of distortions D_l(b_l) under Σ R_l(b_l) ≤ budget is least, for its own rate, wherever every layer minimises
D + λ R for the same λ (Shoham and Gersho, 1988, "Efficient bit allocation for an arbitrary set of quantizers"; Everett,
1963). Those allocations lie on the convex hulls of the layers' curves: going along all hulls at once, always by the
steepest step left, visits each of them, and what the budget leaves over after the last is spent by single steps that
fit. Beside it `along_the_front` keeps all sums of choices that no other beats, which for a few layers is exhaustive
search without its repetitions. The better of the two is taken.

D is ½ Σ F_i (ŵ_i − w_i)²: the loss to second order, with the diagonal of the Fisher information for the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from tenfold.compress.quantize.capture import attribute
from tenfold.compress.quantize.grid import BITS
from tenfold.compress.quantize.layers import Layer
from tenfold.compress.quantize.observe import run_with_gradient
from tenfold.cost import Inputs, batch_size, map_inputs


@dataclass(frozen=True)
class Average:
    """Bits by layer, chosen among `choices` so that a weight has at most `bits` on average."""

    bits: float = 4.0
    choices: tuple[int, ...] = (2, 3, 4, 5, 6, 8)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices or any(type(b) is not int or b not in BITS for b in self.choices):
            raise ValueError(
                f"choices must be whole numbers from {BITS[0]} to {BITS[-1]}, not {self.choices!r}"
            )
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"choices must not repeat themselves: {self.choices!r}")
        number = isinstance(self.bits, (int, float)) and not isinstance(self.bits, bool)
        if not number or not min(self.choices) <= self.bits <= BITS[-1]:
            raise ValueError(
                f"bits must be a number between {min(self.choices)} and {BITS[-1]}, not {self.bits!r}"
            )


Point = tuple[float, float]  # (rate, distortion)
LONGEST_FRONT = 20_000  # sums of choices that are kept


def allocate(curves: Sequence[Sequence[Point]], budget: float) -> list[int]:
    """For each layer the index of its choice, the total rate within `budget`.

    `curves[l][i]` is the rate and the distortion of choice i of layer l. `ValueError` where even the cheapest choices
    together exceed the budget.
    """
    found = [along_the_hulls(curves, budget), along_the_front(curves, budget)]
    return min(found, key=lambda chosen: sum(c[i][1] for c, i in zip(curves, chosen, strict=True)))


def along_the_front(curves: Sequence[Sequence[Point]], budget: float) -> list[int]:
    """The least distortion within the budget, layer after layer over all sums that no other beats.

    Exact as long as no more than `LONGEST_FRONT` are left; of more, evenly many are kept over all rates.
    """
    least = [min(rate for rate, _ in curve) for curve in curves]
    rates, distortions = np.zeros(1), np.zeros(1)
    trail: list[tuple[np.ndarray, np.ndarray]] = []  # for each layer: which sum before it, and which choice
    for layer, curve in enumerate(curves):
        rest = (budget - sum(least[layer + 1 :])) * (1 + 1e-12)
        rate = (rates[:, None] + [r for r, _ in curve]).ravel()
        distortion = (distortions[:, None] + [d for _, d in curve]).ravel()
        order = np.lexsort((distortion, rate))
        order = order[rate[order] <= rest]
        if not len(order):
            raise ValueError(f"the cheapest choices take {sum(least):g}, more than the budget of {budget:g}")
        best = np.minimum.accumulate(distortion[order])
        order = order[np.append(True, distortion[order][1:] < best[:-1])]
        if len(order) > LONGEST_FRONT:
            order = order[np.linspace(0, len(order) - 1, LONGEST_FRONT).astype(np.int64)]
        trail.append(np.divmod(order, len(curve)))
        rates, distortions = rate[order], distortion[order]
    place, chosen = len(rates) - 1, []  # the largest rate has the least distortion
    for before, choice in reversed(trail):
        chosen.append(int(choice[place]))
        place = int(before[place])
    return chosen[::-1]


def along_the_hulls(curves: Sequence[Sequence[Point]], budget: float) -> list[int]:
    """The Lagrangian optimum of the largest rate within the budget, and single steps beyond it that fit."""
    hulls = [lower_hull(curve) for curve in curves]
    chosen = [0] * len(curves)  # places on the hulls
    rate = sum(curve[hull[0]][0] for curve, hull in zip(curves, hulls, strict=True))
    if rate > budget:
        raise ValueError(f"the cheapest choices take {rate:g}, more than the budget of {budget:g}")
    steps = []
    for layer, (curve, hull) in enumerate(zip(curves, hulls, strict=True)):
        for place in range(1, len(hull)):
            (r0, d0), (r1, d1) = curve[hull[place - 1]], curve[hull[place]]
            steps.append(((d0 - d1) / (r1 - r0), layer, place, r1 - r0))
    # Along a hull the steps grow flatter, so a layer's come in their order.
    blocked: set[int] = set()
    for _, layer, place, extra in sorted(steps, key=lambda step: -step[0]):
        if layer in blocked or rate + extra > budget:
            blocked.add(layer)
            continue
        chosen[layer], rate = place, rate + extra
    return [hull[place] for hull, place in zip(hulls, chosen, strict=True)]


def lower_hull(curve: Sequence[Point]) -> list[int]:
    """The choices on the lower convex hull of a curve, from the cheapest to the best."""
    hull: list[int] = []
    for index in sorted(range(len(curve)), key=lambda i: curve[i]):
        if hull and curve[index][1] >= curve[hull[-1]][1]:
            continue
        while len(hull) > 1 and _slope(curve, hull[-2], index) <= _slope(curve, hull[-2], hull[-1]):
            hull.pop()
        if hull and curve[hull[-1]][0] == curve[index][0]:
            hull.pop()
        hull.append(index)
    return hull


def _slope(curve: Sequence[Point], a: int, b: int) -> float:
    return (curve[b][1] - curve[a][1]) / max(curve[b][0] - curve[a][0], 1e-30)


def fisher_diagonals(
    module: fx.GraphModule,
    layers: dict[str, Layer],
    examples: Inputs,
    seed: int,
    before: Callable[[float], None],
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of each layer's weight, as the weight's shape: the mean over examples.

    Classes (a second dimension and no more) are drawn from the network's own answer, as the definition asks (Kunstner
    et al., 2019, arXiv:1905.12558); other outputs count as the means of normal distributions of variance one.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: attribute(module, str(layer.weight.target)) for name, layer in layers.items()}
    wanted = {name: weight.requires_grad for name, weight in weights.items()}
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    number = batch_size(examples)
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        for index in range(number):
            before(index / number)
            one = map_inputs(lambda tensor, at=index: tensor[at : at + 1], examples)  # type: ignore[misc]
            output = first_tensor(run_with_gradient(module, one))
            gradients = torch.autograd.grad(
                _score(output, generator), list(weights.values()), allow_unused=True
            )
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    totals[name] += gradient.detach().square() / number
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(wanted[name])
    return totals


def _score(output: Tensor, generator: torch.Generator) -> Tensor:
    """A number whose gradient's second moment is the Fisher information of `output` (1, …)."""
    if output.dim() == 2 and output.shape[1] > 1:
        log_p = output.float().log_softmax(1)
        drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
        return log_p.gather(1, drawn).sum()
    return (output.float() * torch.randn(output.shape, generator=generator)).sum()


def first_tensor(output: object) -> Tensor:
    """The first tensor of what a network returns."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    if isinstance(output, dict):
        output = next(iter(output.values()))
    assert isinstance(output, Tensor)
    return output
