"""Bit allocation against exhaustive search, and the Fisher information against its definition."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_networks import Residual, images, seeded, task_of
from torch import nn

from tenfold.compress import Recipe, Run, parse_recipe
from tenfold.compress.quantize import (
    Average,
    Nearest,
    PerChannel,
    QuantizeWeights,
    allocation,
    packed_weights,
)
from tenfold.compress.quantize.allocation import allocate, along_the_front, along_the_hulls, fisher_diagonals
from tenfold.compress.quantize.simplify import capture_folded
from tenfold.compress.quantize.weight_only import quantizable
from tenfold.cost import call

CHOICES = (2, 3, 4, 6)


def curves_of(seed: int, layers: int = 6) -> list[list[tuple[float, float]]]:
    """Six layers of unequal size and sensitivity; distortion falls by about 4 for each bit."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(10, 200, (layers,), generator=generator).tolist()
    worth = torch.rand(layers, generator=generator).mul(8).exp2().tolist()
    noise = (0.7 + 0.6 * torch.rand(layers, len(CHOICES), generator=generator)).tolist()
    return [
        [(float(s * b), w * s * n * 4.0**-b) for b, n in zip(CHOICES, row, strict=True)]
        for s, w, row in zip(sizes, worth, noise, strict=True)
    ]


def total(
    curves: list[list[tuple[float, float]]], chosen: list[int] | tuple[int, ...]
) -> tuple[float, float]:
    picked = [curve[index] for curve, index in zip(curves, chosen, strict=True)]
    return sum(p[0] for p in picked), sum(p[1] for p in picked)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), average=st.floats(2.05, 5.5))
def test_an_allocation_is_what_exhaustive_search_finds(seed: int, average: float) -> None:
    curves = curves_of(seed)
    budget = average * sum(curve[0][0] / CHOICES[0] for curve in curves)
    every = [total(curves, chosen) for chosen in product(range(len(CHOICES)), repeat=6)]
    rate, distortion = total(curves, allocate(curves, budget))
    assert rate <= budget
    best = min(d for r, d in every if r <= budget)
    assert distortion == pytest.approx(best, rel=1e-12)
    # The Lagrangian bound: no allocation within the budget has less than max over λ of min(D + λ R) − λ budget.
    steps = [
        (c[i][1] - c[j][1]) / (c[j][0] - c[i][0]) for c in curves for i in range(4) for j in range(i + 1, 4)
    ]
    bound = max(
        sum(min(d + slope * r for r, d in curve) for curve in curves) - slope * budget
        for slope in (s for s in steps if s > 0)
    )
    assert bound <= best * (1 + 1e-9)


def test_an_allocation_is_optimal_for_the_rate_that_it_takes_without_filling_up() -> None:
    for seed in range(10):
        curves = curves_of(seed)
        every = [total(curves, chosen) for chosen in product(range(len(CHOICES)), repeat=6)]
        for slope in (0.001, 0.01, 0.1):
            at = [min(range(4), key=lambda i, c=curve: c[i][1] + slope * c[i][0]) for curve in curves]
            rate, distortion = total(curves, at)
            assert distortion == pytest.approx(min(d for r, d in every if r <= rate), rel=1e-12)
            assert total(curves, allocate(curves, rate))[1] == pytest.approx(distortion, rel=1e-12)


def test_of_many_layers_the_front_is_thinned_and_never_worse_than_the_hulls(monkeypatch) -> None:
    monkeypatch.setattr(allocation, "LONGEST_FRONT", 200)
    for seed in range(5):
        curves = curves_of(seed, layers=40)
        budget = 3.3 * sum(curve[0][0] / CHOICES[0] for curve in curves)
        thinned, hulls = along_the_front(curves, budget), along_the_hulls(curves, budget)
        assert total(curves, thinned)[0] <= budget
        distortion = total(curves, allocate(curves, budget))[1]
        assert distortion <= min(total(curves, thinned)[1], total(curves, hulls)[1])
        assert distortion <= 1.02 * total(curves, hulls)[1]


def test_too_small_a_budget_and_choices_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="cheapest choices"):
        allocate([[(4.0, 1.0), (8.0, 0.5)]], 3.0)
    for wrong in (
        lambda: Average(1.5),
        lambda: Average(9.0),
        lambda: Average(4.0, ()),
        lambda: Average(4.0, (4, 4)),
        lambda: Average(4.0, (1, 4)),
    ):
        with pytest.raises(ValueError, match=r"bits|choices"):
            wrong()


def test_the_fisher_information_is_that_of_logistic_regression() -> None:
    layer = seeded(lambda: nn.Linear(3, 2, bias=False))
    x = torch.randn(1200, 3, generator=torch.Generator().manual_seed(0))
    module = capture_folded(layer, x[:2])
    found = fisher_diagonals(module, quantizable(module), x, 0, lambda share: None)
    p = layer(x).softmax(1).detach()
    expected = (p[:, 0] * p[:, 1])[:, None] * x.square()  # the same for both classes
    assert torch.allclose(found["linear"], expected.mean(0).expand(2, 3), rtol=0.2)
    assert not any(weight.requires_grad for name, weight in module.named_buffers())


def test_layers_get_bits_by_their_worth_and_no_more_than_asked() -> None:
    model = seeded(lambda: Residual(16))
    with torch.no_grad():
        model.conv1.weight.mul_(1e-4)  # hardly anything goes through it
    model.norm1.running_var.fill_(1.0)
    task = task_of(model, images(16))
    technique = QuantizeWeights(Average(4.0), PerChannel(), rounding=Nearest())
    applied = technique.apply(model, task, Run())
    layers = applied.resolved["layers"]
    spent = sum(layer["bits"] * layer["rows"] * layer["width"] for layer in layers.values())
    assert spent <= 4 * sum(layer["rows"] * layer["width"] for layer in layers.values())
    assert layers["conv1.conv2d"]["bits"] == 2
    told = applied.resolved["allocation"]
    assert told["uniform_bits"] == 4
    assert told["expected_loss"] < told["uniform_expected_loss"]
    assert told["bits"] == pytest.approx(
        spent / sum(each["rows"] * each["width"] for each in layers.values())
    )
    assert len(packed_weights(applied.model)) == 4
    uniform = QuantizeWeights(4, PerChannel(), rounding=Nearest()).apply(model, task, Run()).model
    with torch.no_grad():
        p, mixed, same = (call(each, images(16)).log_softmax(1) for each in (model, applied.model, uniform))
    errors = [float((p.exp() * (p - q)).sum()) for q in (mixed, same)]
    assert errors[0] < errors[1]
    assert parse_recipe(Recipe((technique,)).to_yaml()) == Recipe((technique,))
