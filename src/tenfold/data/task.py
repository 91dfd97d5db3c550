"""A task: a network, the data it must work on, and the metric that must be kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tenfold.cost import Inputs, map_inputs
from tenfold.data.metric import Metric, load_metric
from tenfold.data.split import Split
from tenfold.errors import DataError

VALIDATION_SHARE = 0.2


@dataclass
class Task:
    """`model` with `train` (may be learnt from), `validation` (the search decides by it) and `test` (scored once).

    Each split is a `Split`, a pair `(inputs, targets)` or a map-style dataset. Without `validation`, a fifth of
    `train`, drawn by a fixed seed and from every class alike, is set aside. `metric` is "accuracy",
    "package.module:function" or a function of all outputs (N, …) and all targets that returns a float, larger is
    better. `base` names the network (`zoo:…`, `timm:…`, `hf:…`) so that what is made of it can be loaded by name.
    """

    model: nn.Module
    train: Any
    validation: Any = None
    test: Any = None
    metric: str | Metric = "accuracy"
    base: str | None = None
    classes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise DataError(f"model must be a torch.nn.Module, not {type(self.model).__name__}")
        self.train = as_split(self.train, "train")
        if self.validation is None:
            self.train, self.validation = self.train.hold_out(VALIDATION_SHARE)
        self.validation = as_split(self.validation, "validation")
        self.test = None if self.test is None else as_split(self.test, "test")
        self.metric = load_metric(self.metric)

    def example(self, batch: int = 1) -> Inputs:
        """Real inputs of `batch` training examples."""
        return self.train.select(list(range(batch)) if len(self.train) >= batch else [0] * batch)[0]

    def zeros(self, batch: int = 1) -> Inputs:
        """Zeros shaped like `batch` examples, for tracing."""
        return map_inputs(torch.zeros_like, self.example(batch))


@dataclass
class Splits:
    """The splits of a data set before a network meets them, with the class names in label order, if known.

    Each split is anything that `Split` takes; without `validation`, `Task` sets a part of `train` aside. `metric`
    is what the data set is judged by, where it says so.
    """

    train: Any
    validation: Any = None
    test: Any = None
    classes: tuple[str, ...] = ()
    metric: Metric | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            source = getattr(self, name)
            if source is not None:
                setattr(self, name, as_split(source, name))
        if self.train is None:
            raise DataError("there is no train split")
        self.classes = tuple(str(name) for name in self.classes)


def task_from(
    network: nn.Module, splits: Splits, metric: str | Metric | None = None, *, base: str | None = None
) -> Task:
    """The task of keeping `metric` on this data: the metric given, else the data's own, else accuracy."""
    return Task(
        network,
        splits.train,
        splits.validation,
        splits.test,
        metric=metric or splits.metric or "accuracy",
        base=base,
        classes=splits.classes,
    )


def as_split(source: Any, name: str) -> Split:
    """`source` as a `Split`; a `DataError` that names the split where it is not one."""
    if isinstance(source, Split):
        return source
    try:
        return Split(source)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
