"""Scores through the exported artefact, with 95% intervals; drops paired on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tenfold.cost import Inputs, paired_bootstrap, paired_difference_interval, wilson_interval
from tenfold.cost.statistics import bootstrap_interval
from tenfold.data import Metric, Split, accuracy, checked_score

Runner = Callable[[Inputs], Tensor]
BATCH = 64


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def outputs_on(
    runner: Runner, split: Split, progress: Callable[[float], None] = lambda done: None
) -> tuple[Tensor, Tensor]:
    """Outputs (N, …) of the artefact and targets (N, …), over a whole split."""
    outputs, targets, done = [], [], 0
    for _, inputs, batch_targets in split.batches(BATCH):
        outputs.append(runner(inputs).float())
        targets.append(batch_targets)
        done += len(batch_targets)
        progress(done / len(split))
    return torch.cat(outputs), torch.cat(targets)


def scored(metric: Metric, outputs: Tensor, targets: Tensor, seed: int = 0) -> Estimate:
    """The metric: Wilson's interval for accuracy, else a bootstrap over the examples."""
    value = checked_score(metric, outputs, targets)
    if metric is accuracy:
        right = int((outputs.argmax(dim=1) == targets).sum())
        low, high = wilson_interval(right, len(targets))
    else:
        low, high = bootstrap_interval(resampled(metric, targets), outputs, seed=seed)
    return Estimate(value, low, high)


def dropped(
    metric: Metric, original: Tensor, outputs: Tensor, targets: Tensor, seed: int = 0
) -> Estimate:
    """Original minus this, on the same examples: Bonett and Price's interval for accuracy, else a bootstrap."""
    value = checked_score(metric, original, targets) - checked_score(metric, outputs, targets)
    if metric is accuracy:
        before = (original.argmax(dim=1) == targets).numpy()
        after = (outputs.argmax(dim=1) == targets).numpy()
        low, high = paired_difference_interval(before, after)
    else:
        low, high = paired_bootstrap(metric, original, outputs, targets, seed=seed)
    return Estimate(value, low, high)


def resampled(metric: Metric, targets: Tensor) -> Callable[[Tensor, np.ndarray], float]:
    """The metric of the examples at some indices."""
    return lambda outputs, index: checked_score(metric, outputs[index], targets[index])
