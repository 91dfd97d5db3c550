"""What must be kept: a metric over the outputs and targets of a whole split."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from tenfold.errors import MetricError
from tenfold.naming import described, find, is_import_path, nearest

Metric = Callable[[Tensor, Tensor], float]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of examples whose largest output is the target: outputs (N, C), targets (N,) -> [0, 1]."""
    return float((outputs.argmax(dim=1) == targets).double().mean())


METRICS: dict[str, Metric] = {"accuracy": accuracy}


def load_metric(spec: str | Metric) -> Metric:
    """A metric by name (`accuracy`) or by import path (`package.module:function`); a function is handed back."""
    if callable(spec):
        return spec
    if not isinstance(spec, str):
        raise MetricError(f"a metric is a name or a function, not {type(spec).__name__}")
    if spec in METRICS:
        return METRICS[spec]
    if not is_import_path(spec):
        offered = nearest(spec, METRICS)
        raise MetricError(f"unknown metric {spec!r}{offered}; a function is given as package.module:name")
    function = find(spec, MetricError)
    if not callable(function):
        raise MetricError(f"the metric {spec} is a {type(function).__name__}, not a function")
    return function


def checked_score(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    """The metric's value, or a `MetricError` if it raises or is not one finite number."""
    name = getattr(metric, "__name__", "metric")
    try:
        value = metric(outputs, targets)
    except Exception as error:
        shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
        raise MetricError(f"the metric {name} raised {described(error)}, given {shapes}") from error
    if isinstance(value, Tensor):
        raise MetricError(
            f"the metric {name} returned a tensor of shape {tuple(value.shape)}; return a Python float (.item())"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MetricError(f"the metric {name} returned {type(value).__name__}; return a Python float")
    if not math.isfinite(value):
        raise MetricError(f"the metric {name} returned {value}; it must be finite")
    return float(value)
