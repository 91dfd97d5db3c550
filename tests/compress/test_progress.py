"""What a technique says of its progress never runs back, and comes near to the end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from quantize_networks import Residual, images, seeded, task_of

from tenfold.compress import Recipe, Run, Technique, apply_recipe
from tenfold.compress.distill import Distill
from tenfold.compress.factorize import Factorize
from tenfold.compress.factorize import Share as Part
from tenfold.compress.prune import Free, Prune, Saliency, Scope, Sparsify, TwoOfFour
from tenfold.compress.quantize import Average, Quantize, QuantizeWeights
from tenfold.compress.share import Scalar, Share

EVERY: dict[str, tuple[Technique, ...]] = {
    "sparsify in stages by Fisher": (Sparsify(Free(0.5), Saliency.FISHER, stages=3, epochs=1, examples=8),),
    "sparsify by movement": (Sparsify(Free(0.5, Scope.UNIFORM), Saliency.MOVEMENT, epochs=1),),
    "OBS": (Sparsify(Free(0.5, Scope.UNIFORM), Saliency.OBS, examples=8),),
    "2:4 permuted": (Sparsify(TwoOfFour(), epochs=1),),
    "share, fine-tuned": (Share(Scalar(3), epochs=1),),
    "quantize, trained": (Quantize(epochs=1),),
    "quantize-weights, trained": (QuantizeWeights(Average(4.0), epochs=1),),
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
