"""Scores through the exported artefact, with 95% intervals; drops paired on the same examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tenfold.cost import Inputs, Interval, paired_bootstrap, paired_difference_interval, wilson_interval
from tenfold.data import Metric, Split, accuracy, checked_score

Runner = Callable[[Inputs], Tensor]
BATCH = 64
RESAMPLES, FEWEST_RESAMPLES = 500, 100
BOOTSTRAP_SECONDS = 5.0  # that an interval may take, if the fewest resamples fit into it

CHANGED = 0.02  # of the answers turn right or wrong in a healed network whose score is nearly the original's


def half_width(examples: int) -> float:
    """Half of the 95% interval to expect of a healed network's drop, paired on so many examples."""
    return 1.96 * math.sqrt(CHANGED / examples)


def examples_for(width: float) -> int:
    """How many examples bring that half down to `width`."""
    return math.ceil(CHANGED * (1.96 / width) ** 2)


@dataclass(frozen=True)
class Answers:
    """Outputs (N, …) of an artefact and targets (N, …) over a whole split, and what an example took in seconds."""

    outputs: Tensor
    targets: Tensor
    seconds_per_example: float


def answers_on(
    runner: Runner,
    split: Split,
    progress: Callable[[float], None] = lambda done: None,
    seconds: float = math.inf,
) -> Answers | None:
    """Run the whole split, or None if, by the pace of its first batches, that would take more than `seconds`."""
    outputs, targets, done, began = [], [], 0, time.monotonic()
    for _, inputs, batch_targets in split.batches(BATCH):
        outputs.append(runner(inputs).float())
        targets.append(batch_targets)
        done += len(batch_targets)
        progress(done / len(split))
        if (time.monotonic() - began) * len(split) / done > seconds and len(outputs) > 1:
            return None
    pace = (time.monotonic() - began) / done
    return Answers(torch.cat(outputs).contiguous(), torch.cat(targets).contiguous(), pace)


def scored(metric: Metric, outputs: Tensor, targets: Tensor) -> Interval:
    """The metric: Wilson's interval for accuracy, else a bootstrap over the examples."""
    began = time.monotonic()
    value = checked_score(metric, outputs, targets)
    resamples = resamples_for(time.monotonic() - began)
    if metric is accuracy:
        right = int((outputs.argmax(dim=1) == targets).sum())
        return wilson_interval(right, len(targets))
    generator = np.random.default_rng(0)
    draws = [
        float(metric(outputs[index], targets[index]))
        for index in (
            torch.from_numpy(generator.integers(0, len(targets), len(targets))) for _ in range(resamples)
        )
    ]
    # A resample may miss a class that the metric needs; such draws say nothing about the spread.
    finite = [draw for draw in draws if np.isfinite(draw)] or [value]
    low, high = np.percentile(finite, [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def dropped(metric: Metric, original: Tensor, outputs: Tensor, targets: Tensor) -> Interval:
    """Original minus this, on the same examples: Bonett and Price's interval for accuracy, else a bootstrap."""
    if metric is accuracy:
        before, after = (o.argmax(dim=1) == targets for o in (original, outputs))
        return paired_difference_interval(before.numpy(), after.numpy())
    began = time.monotonic()
    checked_score(metric, outputs, targets)
    resamples = resamples_for(2 * (time.monotonic() - began))  # it is asked about both networks
    return paired_bootstrap(metric, original, outputs, targets, resamples=resamples)


def resamples_for(seconds: float) -> int:
    """How many resamples an interval rests on, where one takes so long."""
    return max(FEWEST_RESAMPLES, min(RESAMPLES, int(BOOTSTRAP_SECONDS / max(seconds, 1e-9))))
