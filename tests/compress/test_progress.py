"""What a technique says of its progress never runs back, and comes near to the end."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from quantize_networks import Residual, images, seeded, task_of
from torch import nn

from tenfold.compress import Recipe, Run, Technique, apply_recipe
from tenfold.compress.distill import Distill
from tenfold.compress.factorize import Factorize
from tenfold.compress.factorize import Share as Part
from tenfold.compress.prune import Free, Prune, Saliency, Scope, Sparsify, TwoOfFour
from tenfold.compress.quantize import Average, Gptq, Learned, Nearest, Quantize, QuantizeWeights, Unit
from tenfold.compress.quantize.rounding import Rounding
from tenfold.compress.share import Scalar, Share

EVERY: dict[str, tuple[Technique, ...]] = {
    "sparsify in stages by Fisher": (Sparsify(Free(0.5), Saliency.FISHER, stages=3, epochs=1, examples=8),),
    "sparsify by movement": (Sparsify(Free(0.5, Scope.UNIFORM), Saliency.MOVEMENT, epochs=1),),
    "OBS": (Sparsify(Free(0.5, Scope.UNIFORM), Saliency.OBS, examples=8),),
    "2:4 permuted": (Sparsify(TwoOfFour(), epochs=1),),
    "share, fine-tuned": (Share(Scalar(3), epochs=1),),
    "quantize, trained": (Quantize(epochs=1),),
    "quantize-weights, trained": (QuantizeWeights(Average(4.0), epochs=1),),
    "quantize-weights, learned by block": (QuantizeWeights(4, rounding=Learned(steps=4)),),
    "factorize by activations": (Factorize(Part(0.7), multiple=1, activations=8),),
    "three steps": (Prune(0.25), Distill(epochs=1), Quantize()),
}


@pytest.mark.parametrize("steps", EVERY.values(), ids=EVERY)
def test_progress_goes_forward_alone(steps: tuple[Technique, ...]) -> None:
    task = task_of(seeded(lambda: Residual(16)), images(32))
    told: list[tuple[float, str]] = []
    apply_recipe(Recipe(steps), task, Run(progress=lambda fraction, text: told.append((fraction, text))))
    backwards = [(a, b) for a, b in pairwise(told) if b[0] < a[0] - 1e-9]
    assert not backwards
    assert 0 <= told[0][0] <= 0.5
    assert 0.6 < told[-1][0] <= 1 + 1e-9


def rounded_at(model: nn.Sequential, rounding: Rounding) -> list[tuple[str, float]]:
    """What is told while the weights are rounded: the layer, and how far that is, of 1."""
    x, told = torch.randn(32, model[0].in_features, generator=torch.Generator().manual_seed(0)), []
    run = Run(progress=lambda share, text: told.append((text.removeprefix("quantize-weights: "), share)))
    QuantizeWeights(4, rounding=rounding).apply(model.eval(), task_of(model, x), run)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] <= 1
    return [(name.removesuffix(".linear"), (share - 0.1) / 0.9) for name, share in told if ".linear" in name]


def test_rounding_is_as_far_as_what_it_solves() -> None:
    """The first layer has four fifths of the multiply-adds, the second nearly all of the factoring."""
    model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 4))
    assert dict(rounded_at(model, Nearest()))["2"] > 0.7
    assert dict(rounded_at(model, Gptq()))["2"] < 0.05


def test_a_layer_that_reads_the_codes_of_another_is_soon_done() -> None:
    at = []
    for shared in (False, True):
        torch.manual_seed(0)
        first, second, last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        if shared:
            second.weight = first.weight
        at.append(dict(rounded_at(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last), Gptq()))["4"])
    apart, tied = at
    assert apart == pytest.approx(2 / 3)
    assert 0.5 < tied < 0.6


def test_what_learning_begins_with_is_done_when_it_begins() -> None:
    model = nn.Sequential(nn.Linear(256, 4), nn.ReLU(), nn.Linear(4, 4))
    told = rounded_at(model, Learned(Unit.LAYER, steps=2, batch_size=2))
    first, *learning = [share for name, share in told if name == "0"]
    assert first == pytest.approx(0)
    assert min(learning) > 0.95
