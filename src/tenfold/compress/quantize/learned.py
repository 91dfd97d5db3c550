"""Learned rounding: each weight up or down as the output of a layer or a whole block asks for.

AdaRound (Nagel et al., 2020, arXiv:2004.10568): a weight w = s (q − z) is s (⌊w/s + z⌋ + h(v) − z), with the rectified
sigmoid h(v) = clip(σ(v)(ζ − γ) + γ, 0, 1) (eq. 23), and v minimises the output's error with λ Σ 1 − |2 h(v) − 1|^β
(eq. 24), whose β falls from 20 to 2, so that h is free at first and 0 or 1 at last. A whole block's output is
reconstructed at once in BRECQ (Li et al., 2021, arXiv:2102.05426, section 3.2): what its layers' errors do to each other is
seen then. A span's inputs are those of the rounded network, the output wanted is the float network's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.grid import Grid
from tenfold.compress.quantize.rounding import (
    FitGrid,
    Gptq,
    Learned,
    Nearest,
    round_by_gptq,
    round_to_nearest,
)
from tenfold.compress.quantize.spans import Span, Values, compute, take
from tenfold.compress.quantize.walk import Effort, Target, Walk

STRETCH, LOW = 1.2, -0.1  # ζ − γ and γ
FIRST_BETA, LAST_BETA, FREE = 20.0, 2.0, 0.2  # of the steps are free of the term that drives h to 0 and 1
WEIGHT = 1.0  # of that term's mean, beside an error measured in errors of the rounding it begins with
REACH, SLOWEST = 6.0, 1e-3  # how far Adam can move v in all the steps, and its least learning rate
HELD_OUT = 8  # one in so many examples judges what was learnt
TIME_SHARE = 0.8  # of what is left, as far as a span's share of the work goes


class Rounded:
    """One layer's weight between two neighbouring points of its grid, by v (R, K)."""

    def __init__(self, target: Target, grid: Grid) -> None:
        self.target, self.grid = target, grid
        self.scale, self.zero = grid.columns(target.matrix.shape[1])
        place = target.matrix / self.scale + self.zero
        self.floor = place.floor().clamp(0, grid.top)
        share = (place - self.floor).clamp(0.01, 0.99)  # so that h(v) is the weight itself to begin with
        self.v = torch.logit((share - LOW) / STRETCH).requires_grad_(True)

    def h(self) -> Tensor:
        """How far up each weight is: (R, K)."""
        return (torch.sigmoid(self.v) * STRETCH + LOW).clamp(0, 1)

    def weight(self, h: Tensor) -> Tensor:
        """The layer's weight, with a gradient."""
        return self.target.weight_of(self.scale * ((self.floor + h).clamp(max=self.grid.top) - self.zero))

    def codes(self) -> Tensor:
        """Every weight at the point that it has come nearer to: uint8 (R, K)."""
        up = (self.h() >= 0.5).float()
        return (self.floor + up).clamp(max=self.grid.top).detach().to(torch.uint8)


def round_by_learning(
    walk: Walk, span: Span, targets: list[Target], exact: Values, fit: FitGrid, rounding: Learned
) -> None:
    """Store the codes of every layer of the span: those learnt, or those it begins with where they are better."""
    grids: dict[str, Grid] = {}

    def fit_once(target: Target, importance: Tensor | None) -> Grid:
        grids[target.name] = fit(target, importance)
        return grids[target.name]

    if isinstance(rounding.start, Gptq):
        round_by_gptq(walk, span, targets, exact, fit_once, rounding.start)
    else:
        round_to_nearest(walk, span, targets, exact, fit_once)
    walk.correct_biases(span, targets)
    number = len(walk.examples)
    held = walk.examples[HELD_OUT - 1 :: HELD_OUT] if number >= HELD_OUT else walk.examples[:0]
    train = walk.examples[~torch.isin(walk.examples, held)]
    judges = held if len(held) else train
    before = error(walk, span, exact, judges)
    if not before > 0 or not math.isfinite(before):
        return  # nothing was lost, or there is nothing to learn from
    start = [walk.codes[target.name] for target in targets]
    layers = [Rounded(target, grids[target.name]) for target in targets]
    with torch.enable_grad():
        _learn(walk, span, exact, layers, train, before, rounding)
    for layer in layers:
        walk.store(layer.target, layer.grid, layer.codes())
    walk.correct_biases(span, targets)
    if not error(walk, span, exact, judges) < before:
        for layer, codes in zip(layers, start, strict=True):
            walk.store(layer.target, layer.grid, codes)


def error(walk: Walk, span: Span, exact: Values, examples: Tensor) -> float:
    """The mean over examples of the squared error of what the span gives in the rounded network."""
    parts = list(walk.parts(span, examples))
    return sum(float(_loss(walk, span, exact, {}, part)) * len(part) for part in parts) / len(examples)


def _loss(walk: Walk, span: Span, exact: Values, given: Mapping[fx.Node, Tensor], part: Tensor) -> Tensor:
    values = take(walk.rounded, span.inputs, part)
    outputs = compute(walk.module, span, values, {**walk.rounded_given, **given})
    wanted = take(exact, span.outputs, part)
    losses = [
        (outputs[node] - wanted[node]).square().sum() / len(part)
        for node in span.outputs
        if isinstance(outputs[node], Tensor) and outputs[node].is_floating_point()
    ]
    return torch.stack(losses).sum()


def _learn(
    walk: Walk,
    span: Span,
    exact: Values,
    layers: list[Rounded],
    train: Tensor,
    scale: float,
    rounding: Learned,
) -> None:
    # Biases move along, so that no weight has to make up for means; they are corrected afterwards anyhow.
    biases = walk.biases([layer.target for layer in layers])
    shifts = {node: torch.zeros_like(bias, requires_grad=True) for node, bias in biases.items()}
    rate = max(REACH / rounding.steps, SLOWEST)
    optimizer = torch.optim.Adam(
        [{"params": [layer.v for layer in layers], "lr": rate}, {"params": list(shifts.values()), "lr": 1e-3}]
    )
    generator = torch.Generator().manual_seed(walk.seed)
    # Of the span's work the codes that it began with are done, and ask for no more of the time left.
    work = sum(layer.target.rounding_work(0, Effort(shown=rounding.effort.shown)) for layer in layers)
    walk.done += walk.work_of([layer.target for layer in layers]) - work
    began, seconds = time.monotonic(), walk.seconds_for(work) * TIME_SHARE
    order: list[int] = []
    for step in range(rounding.steps):
        done = max(step / rounding.steps, (time.monotonic() - began) / seconds if seconds > 0 else 1.0)
        if done >= 1:
            return
        if len(order) < min(rounding.batch_size, len(train)):
            order = torch.randperm(len(train), generator=generator).tolist()
        batch, order = order[: rounding.batch_size], order[rounding.batch_size :]
        ups = [layer.h() for layer in layers]
        given = {layer.target.unpacking: layer.weight(up) for layer, up in zip(layers, ups, strict=True)} | {
            node: bias + shifts[node] for node, bias in biases.items()
        }
        loss = _loss(walk, span, exact, given, train[torch.tensor(batch)].sort().values) / scale
        if done > FREE:
            beta = LAST_BETA + (FIRST_BETA - LAST_BETA) * 0.5 * (
                1 + math.cos(math.pi * (done - FREE) / (1 - FREE))
            )
            open_ = sum((1 - (2 * up - 1).abs().pow(beta)).sum() for up in ups)
            loss = loss + WEIGHT * open_ / sum(up.numel() for up in ups)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        walk.tell(layers[0].target.name, done, work)


ROUND: dict[type, Callable[..., None]] = {
    Nearest: round_to_nearest,
    Gptq: round_by_gptq,
    Learned: round_by_learning,
}
