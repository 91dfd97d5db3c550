"""Scores through the exported artefact, with 95% intervals; drops paired on the same examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.cost import (
    Inputs,
    Interval,
    bootstrap_metric,
    paired_bootstrap,
    paired_difference_interval,
    wilson_interval,
)
from tenfold.data import Metric, Split, accuracy, checked_score
from tenfold.errors import MetricError

Runner = Callable[[Inputs], Tensor]
BATCH = 64
RESAMPLES, FEWEST_RESAMPLES = 500, 20
FEWEST_DRAWN = 50  # examples in a resample
TRIAL_DRAWS = 3
BOOTSTRAP_SECONDS = 5.0  # that an interval may take, if the fewest resamples fit

CHANGED = 0.02  # of the answers turn right or wrong in a healed network whose score is nearly the original's


def half_width(examples: int) -> float:
    """Half of the 95% interval to expect of a healed network's drop, paired on so many examples."""
    return 1.96 * math.sqrt(CHANGED / examples)


def examples_for(width: float) -> int:
    """How many examples bring that half down to `width`."""
    return math.ceil(CHANGED * (1.96 / width) ** 2)


@dataclass(frozen=True)
class Effort:
    """What an interval of a metric other than accuracy rests on: resamples, and the examples in each (None: all).

    `seconds` is what a resample of two networks takes.
    """

    resamples: int = RESAMPLES
    examples: int | None = None
    seconds: float = 0.0


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


def scored(metric: Metric, outputs: Tensor, targets: Tensor, effort: Effort = Effort()) -> Interval:
    """The metric: Wilson's interval for accuracy, else a bootstrap over the examples."""
    value = checked_score(metric, outputs, targets)
    if metric is accuracy:
        right = int((outputs.argmax(dim=1) == targets).sum())
        return wilson_interval(right, len(targets))
    with metric_named():
        found = bootstrap_metric(metric, outputs, targets, resamples=effort.resamples, draw=effort.examples)
    return Interval(value, min(value, found.low), max(value, found.high))


def dropped(
    metric: Metric, original: Tensor, outputs: Tensor, targets: Tensor, effort: Effort = Effort()
) -> Interval:
    """Original minus this, on the same examples: Bonett and Price's interval for accuracy, else a bootstrap."""
    if metric is accuracy:
        before, after = (o.argmax(dim=1) == targets for o in (original, outputs))
        return paired_difference_interval(before.numpy(), after.numpy())
    checked_score(metric, outputs, targets)
    with metric_named():
        found = paired_bootstrap(
            metric, original, outputs, targets, resamples=effort.resamples, draw=effort.examples
        )
    return Interval(found.value, min(found.value, found.low), max(found.value, found.high))


@contextmanager
def metric_named() -> Iterator[None]:
    """A metric that most draws of examples leave undefined is the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise MetricError(
            f"{error}: an interval needs a metric that is defined on most draws of the examples, "
            "also where a class is missing"
        ) from error


def effort_for(
    metric: Metric, outputs: Tensor, targets: Tensor, allowed: float = BOOTSTRAP_SECONDS
) -> Effort:
    """What fits into `allowed` seconds: fewer resamples, then of fewer examples, but enough to be defined.

    Raises `MetricError` where the metric is not one finite number on all of them.
    """
    number = len(targets)
    if metric is accuracy:
        return Effort()

    def seconds(size: int) -> float:
        """What a resample of so many takes; infinite where a few of them are not all defined."""
        generator, began = torch.Generator().manual_seed(0), time.monotonic()
        for _ in range(TRIAL_DRAWS):
            index = torch.randint(number, (size,), generator=generator)
            if not math.isfinite(tried(metric, outputs[index], targets[index])):
                return math.inf
        return (time.monotonic() - began) / TRIAL_DRAWS

    checked_score(metric, outputs, targets)  # the first call is slower than others
    began = time.monotonic()
    tried(metric, outputs, targets)
    size, taken = number, time.monotonic() - began
    for smaller in (number // 2, number // 4, number // 8, number // 16):
        # A drop asks about both networks.
        if 2 * taken * FEWEST_RESAMPLES <= allowed or smaller < FEWEST_DRAWN:
            break
        found = seconds(smaller)
        if found > 0.9 * taken:  # undefined, or no faster
            break
        size, taken = smaller, found
    resamples = max(FEWEST_RESAMPLES, min(RESAMPLES, int(allowed / max(2 * taken, 1e-9))))
    return Effort(resamples, None if size == number else size, 2 * taken)


def tried(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    """The metric, or NaN where it refuses these examples."""
    try:
        return float(metric(outputs, targets))
    except ValueError:
        return math.nan
