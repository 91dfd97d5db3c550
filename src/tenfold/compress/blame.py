"""Blame: which layer costs how much under which change of its weights, before anyone spends hours on it.

Each layer is changed alone, then all but one are, then all one after the other from the least harmful. Weights are
changed as the technique would change them without data or healing (round to nearest, least magnitude, truncated
SVD), so the figures rank layers; what a technique reaches with its data and healing only a run of it tells.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.compress.answers import distance
from tenfold.compress.changes import CHANGES, Change
from tenfold.compress.layers import holders, weighted_layers
from tenfold.compress.technique import Json, Run
from tenfold.cost import Inputs, call
from tenfold.data import Task, checked_score
from tenfold.errors import DataError, NetworkError, RecipeError
from tenfold.naming import nearest

BATCH = 64
HIGHEST_DB = 300.0  # what a change that changes nothing is given: no float has more


@dataclass(frozen=True)
class Harm:
    """`distance` of the answers (`answers.distance`), and by how much the metric fell."""

    distance: float
    drop: float


@dataclass(frozen=True)
class LayerBlame:
    """What one layer does under one change; None where the time was over.

    `snr_db`: signal to noise of the layer's own output on its usual input. `alone`: only this layer changed.
    `spared`: all changed but this one. `reached`: this one and all less harmful ones changed.
    """

    snr_db: float | None = None
    alone: Harm | None = None
    spared: Harm | None = None
    reached: Harm | None = None


@dataclass
class Column:
    """One change over all layers; `whole` is the harm of all layers changed at once."""

    change: str
    text: str
    whole: Harm | None = None
    layers: dict[str, LayerBlame] = field(default_factory=dict)

    def order(self) -> list[str]:
        """The layers from the least to the most harmful alone; those not measured are left out."""
        harm = {name: row.alone.distance for name, row in self.layers.items() if row.alone is not None}
        return sorted(harm, key=harm.__getitem__)


@dataclass
class Blame:
    """The table: `score` of the network as it is on `examples` validation examples, and a column for each change.

    `finished` is False where the deadline left out something.
    """

    score: float
    examples: int
    classes: bool
    columns: list[Column]
    finished: bool = True

    def to_json(self) -> Json:
        """All figures as plain JSON."""
        return asdict(self)


def blame(
    task: Task, changes: Iterable[str] = tuple(CHANGES), *, examples: int = 128, run: Run | None = None
) -> Blame:
    """Change each layer of `task.model` by each of `changes` and measure on `examples` of the validation set.

    The most telling figures come first: every layer alone under every change, then cumulatively, then each spared;
    `run.deadline` ends it with what is known. The network is not changed. Raises `RecipeError` for an unknown
    change, `NetworkError` where there is nothing to change or its answers are not finite.
    """
    run, names = run or Run(), list(dict.fromkeys(changes))
    for name in names:
        if name not in CHANGES:
            raise RecipeError(f"no change {name!r}{nearest(name, CHANGES)}")
    if not names:
        raise RecipeError(f"no change to blame layers under; give one or more of {', '.join(CHANGES)}")
    if examples < 1:
        raise DataError(f"blame needs at least one example, not {examples}")
    bench = Bench(task, examples)
    table = Blame(
        bench.score, len(bench.targets), bench.classes, [Column(name, CHANGES[name].text) for name in names]
    )
    steps = _steps(bench, table)
    total = len(names) * (1 + 3 * len(bench.layers))  # at most: a change may leave layers out
    for done, text in enumerate(steps, start=1):
        run.progress(min(done / total, 1.0), text)
        if run.seconds_left() <= 0:
            table.finished = False
            break
    run.progress(1.0, "blame: done")
    return table


def _steps(bench: Bench, table: Blame) -> Iterator[str]:
    """Measure everything, one figure at a time, in the order of how much it tells."""
    for column in table.columns:
        weights = bench.changed(CHANGES[column.change])
        if not weights:
            raise NetworkError(f"no layer that {column.text} could change")
        for name in weights:
            harm, snr = bench.alone(name, weights[name])
            column.layers[name] = LayerBlame(snr, harm)
            yield f"{column.change}: {name} alone"
        column.whole = bench.harm(weights)
        yield f"{column.change}: all layers"
    for column in table.columns:
        weights = bench.changed(CHANGES[column.change])
        reached: dict[str, Tensor] = {}
        for name in column.order():
            reached[name] = weights[name]
            column.layers[name] = _with(column.layers[name], reached=bench.harm(reached))
            yield f"{column.change}: up to {name}"
    for column in table.columns:
        weights = bench.changed(CHANGES[column.change])
        for name in reversed(column.order()):
            spared = bench.harm({other: w for other, w in weights.items() if other != name})
            column.layers[name] = _with(column.layers[name], spared=spared)
            yield f"{column.change}: all but {name}"


class Bench:
    """A copy of the network whose layers take other weights for a while, and the answers it is compared with."""

    def __init__(self, task: Task, examples: int) -> None:
        split = task.validation.take(examples)
        self.network = copy.deepcopy(task.model).eval()
        self.layers = weighted_layers(self.network)
        self.batches: list[Inputs] = []
        targets = []
        for _, inputs, batch_targets in split.batches(BATCH):
            self.batches.append(inputs)
            targets.append(batch_targets)
        self.targets = torch.cat(targets)
        self.classes = not self.targets.is_floating_point()
        assert callable(task.metric)  # `Task` looks names up
        self.metric = task.metric
        self.wanted = self._answers()
        if not bool(self.wanted.isfinite().all()):
            raise NetworkError(
                "the network's answers are not finite: its weights or the data hold NaN or inf"
            )
        self.score = checked_score(self.metric, self.wanted, self.targets)
        self._kept: dict[str, dict[str, Tensor]] = {}

    def changed(self, change: Change) -> dict[str, Tensor]:
        """The weight of each layer that the change has anything to say about."""
        if change.name not in self._kept:
            found = {name: change.apply(layer.weight.detach()) for name, layer in self.layers.items()}
            self._kept[change.name] = {name: weight for name, weight in found.items() if weight is not None}
        return self._kept[change.name]

    def harm(self, weights: Mapping[str, Tensor]) -> Harm:
        """What the answers lose while these layers have these weights."""
        with self._holding(weights):
            answers = self._answers()
        moved = distance(answers, self.wanted, self.classes)
        if not math.isfinite(moved):
            raise NetworkError(f"the answers are not finite with {', '.join(list(weights)[:3])} changed")
        return Harm(moved, self.score - checked_score(self.metric, answers, self.targets))

    def alone(self, name: str, weight: Tensor) -> tuple[Harm, float]:
        """The harm of one layer, and the signal-to-noise ratio of its own output in dB, and of those tied to it."""
        layer, energies = self.layers[name], [0.0, 0.0]
        original = layer.weight.data

        def compare(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            changed = layer.weight.data
            layer.weight.data = original
            try:
                wanted = module.forward(*args, **kwargs)
            finally:
                layer.weight.data = changed
            energies[0] += float(wanted.double().square().sum())
            energies[1] += float((output - wanted).double().square().sum())

        handles = [
            module.register_forward_hook(compare, with_kwargs=True)
            for module, _ in holders(self.network, layer)
        ]
        try:
            harm = self.harm({name: weight})
        finally:
            for handle in handles:
                handle.remove()
        signal, noise = energies
        if noise == 0.0:
            return harm, HIGHEST_DB
        return harm, max(-HIGHEST_DB, 10 * math.log10(max(signal, 1e-300) / noise))

    @contextmanager
    def _holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        before = {name: self.layers[name].weight.data for name in weights}
        try:
            for name, weight in weights.items():
                self.layers[name].weight.data = weight
            yield
        finally:
            for name, weight in before.items():
                self.layers[name].weight.data = weight

    @torch.no_grad()
    def _answers(self) -> Tensor:
        return torch.cat([call(self.network, inputs).float() for inputs in self.batches])


def _with(row: LayerBlame, **figures: Harm) -> LayerBlame:
    return LayerBlame(**{**vars(row), **figures})
