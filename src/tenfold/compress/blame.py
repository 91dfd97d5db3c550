"""Blame: which layer costs how much under which change of it, before anyone spends hours on it.

Each layer is changed alone, then all but one are, then all one after the other from the least harmful. Weights are
changed as the technique would change them without data or healing (round to nearest, least magnitude, truncated
SVD), and what a layer reads as INT8 rounds it (ranges from training examples), so the figures rank layers; what a
technique reaches with its data and healing only a run of it tells.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.compress.answers import distance
from tenfold.compress.changes import CHANGES, Change
from tenfold.compress.inputs import calibration_examples, input_affines, rounded_inputs
from tenfold.compress.layers import Weighted, holders, weighted_layers
from tenfold.compress.quantize.affine import Affine
from tenfold.compress.technique import Json, Run
from tenfold.cost import Inputs, call
from tenfold.data import Task, checked_score
from tenfold.data.checks import check_weights
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

    `snr_db`: signal to noise of the layer's own output, where what it reads is changed by nothing but its own change.
    `alone`: only this layer changed. `spared`: all changed but this one. `reached`: this one and all less harmful ones changed.
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

    def worst_first(self) -> list[Json]:
        """What each layer alone loses of the metric under each change, {"layer": …, "lost": {change: …}}.

        The layer that loses most under any change comes first; where the metric, which moves in steps of an example,
        is the same, the one that moves the answers more. A change by which the layer was not measured is left out.
        """
        harms: dict[str, dict[str, Harm]] = {}
        for column in self.columns:
            for name, row in column.layers.items():
                if row.alone is not None:
                    harms.setdefault(name, {})[column.change] = row.alone
        most = {
            name: (max(harm.drop for harm in found.values()), max(harm.distance for harm in found.values()))
            for name, found in harms.items()
        }
        return [
            {"layer": name, "lost": {change: harm.drop for change, harm in harms[name].items()}}
            for name in sorted(harms, key=most.__getitem__, reverse=True)
        ]

    def to_json(self) -> Json:
        """All figures as plain JSON, and under "worst" the layers `worst_first`."""
        return {**asdict(self), "worst": self.worst_first()}


def blame(
    task: Task, changes: Iterable[str] = tuple(CHANGES), *, examples: int = 128, run: Run | None = None
) -> Blame:
    """Change each layer of `task.model` by each of `changes` and measure on `examples` of the validation set.

    The most telling figures come first: every layer alone under every change, then cumulatively, then each spared;
    `run.deadline` ends it with what is known. The network is not changed. A change that suits no layer has none in its
    column. Raises `RecipeError` for an unknown change, `NetworkError` where no change suits any layer, a weight, which
    is named, or an answer of the network is not finite.
    """
    run, names = run or Run(), list(dict.fromkeys(changes))
    for name in names:
        if name not in CHANGES:
            raise RecipeError(f"no change {name!r}{nearest(name, CHANGES)}")
    if not names:
        raise RecipeError(f"no change to blame layers under; give one or more of {', '.join(CHANGES)}")
    if examples < 1:
        raise DataError(f"blame needs at least one example, not {examples}")
    bench = Bench(task, examples, run.seed)
    table = Blame(
        bench.score, len(bench.targets), bench.classes, [Column(name, CHANGES[name].text) for name in names]
    )
    steps = _steps(bench, table)
    total = len(names) * (1 + 3 * len(bench.layers))  # at most: a change may leave layers out
    began, limit = time.monotonic(), max(run.seconds_left(), 1e-9)
    for done, text in enumerate(steps, start=1):
        spent = (time.monotonic() - began) / limit  # nothing where there is no deadline
        run.progress(min(max(done / total, spent), 1.0), text)
        if run.seconds_left() <= 0:
            table.finished = False
            break
    run.progress(1.0, "blame: done")
    return table


def _steps(bench: Bench, table: Blame) -> Iterator[str]:
    """Measure everything, one figure at a time, in the order of how much it tells."""
    for column in table.columns:
        changed = bench.changed(CHANGES[column.change])
        if not changed:
            continue
        for name in changed:
            harm, snr = bench.alone(name, changed[name])
            column.layers[name] = LayerBlame(snr, harm)
            yield f"{column.change}: {name} alone"
        column.whole = bench.harm(changed)
        yield f"{column.change}: all layers"
    if not any(column.layers for column in table.columns):
        texts = ", ".join(column.text for column in table.columns)
        raise NetworkError(
            f"the network has no layer for this: {texts}. Layers that were quantised already are none: give the network "
            "as it was before"
        )
    for column in table.columns:
        changed = bench.changed(CHANGES[column.change])
        reached: dict[str, Altered] = {}
        for name in column.order():
            reached[name] = changed[name]
            column.layers[name] = _with(column.layers[name], reached=bench.harm(reached))
            yield f"{column.change}: up to {name}"
    for column in table.columns:
        changed = bench.changed(CHANGES[column.change])
        for name in reversed(column.order()):
            spared = bench.harm({other: how for other, how in changed.items() if other != name})
            column.layers[name] = _with(column.layers[name], spared=spared)
            yield f"{column.change}: all but {name}"


@dataclass(frozen=True)
class Altered:
    """What a change makes of one layer: another weight, or None; and how what each module with it reads is rounded."""

    weight: Tensor | None
    inputs: Mapping[nn.Module, Affine] = field(default_factory=dict)


class Bench:
    """A copy of the network whose layers are altered for a while, and the answers it is compared with.

    Inputs are rounded by their ranges on the training examples that `Quantize` takes by default under `seed`.
    """

    def __init__(self, task: Task, examples: int, seed: int = 0) -> None:
        check_weights(task.model)
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
                "the network's answers are not finite, though its weights are: validation holds NaN or infinity, or a "
                "layer's values grow too large"
            )
        self.score = checked_score(self.metric, self.wanted, self.targets)
        self._calibration = calibration_examples(task.train, seed)
        self._kept: dict[str, dict[str, Altered]] = {}

    def changed(self, change: Change) -> dict[str, Altered]:
        """Each layer that the change has anything to say about, as it makes it."""
        if change.name not in self._kept:
            found = {}
            for name, layer in self.layers.items():
                if change.inputs and not self.inputs[name]:
                    continue  # half of a change would pass for all of it
                altered = Altered(
                    change.apply(layer.weight.detach()), self.inputs[name] if change.inputs else {}
                )
                if altered.weight is not None or altered.inputs:
                    found[name] = altered
            self._kept[change.name] = found
        return self._kept[change.name]

    @cached_property
    def inputs(self) -> dict[str, dict[nn.Module, Affine]]:
        """How to round what each layer reads, and those tied to it; nothing for one that is never called."""
        modules = {
            name: [module for module, _ in holders(self.network, layer) if isinstance(module, Weighted)]
            for name, layer in self.layers.items()
        }
        names: dict[nn.Module, str] = {module: name for name, tied in modules.items() for module in tied}
        affines = input_affines(self.network, names, self._calibration, BATCH)
        return {
            name: {module: affines[module] for module in tied if module in affines}
            for name, tied in modules.items()
        }

    def harm(self, layers: Mapping[str, Altered]) -> Harm:
        """What the answers lose while these layers are so."""
        with self._holding(layers):
            answers = self._answers()
        moved = distance(answers, self.wanted, self.classes)
        if not math.isfinite(moved):
            raise NetworkError(f"the answers are not finite with {', '.join(list(layers)[:3])} changed")
        return Harm(moved, self.score - checked_score(self.metric, answers, self.targets))

    def alone(self, name: str, altered: Altered) -> tuple[Harm, float]:
        """The harm of one layer, and the signal-to-noise ratio of its own output in dB, and of those tied to it."""
        layer, energies = self.layers[name], [0.0, 0.0]
        original = layer.weight.data
        given: dict[nn.Module, tuple[Any, Any]] = {}

        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
            given[module] = args, kwargs

        def compare(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            args, kwargs = given.pop(module)  # before they were rounded
            changed = layer.weight.data
            layer.weight.data = original
            try:
                wanted = module.forward(*args, **kwargs)
            finally:
                layer.weight.data = changed
            energies[0] += float(wanted.double().square().sum())
            energies[1] += float((output - wanted).double().square().sum())

        with ExitStack() as hooks:
            for module, _ in holders(self.network, layer):
                hooks.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(compare, with_kwargs=True).remove)
            harm = self.harm({name: altered})
        signal, noise = energies
        if noise == 0.0:
            return harm, HIGHEST_DB
        return harm, max(-HIGHEST_DB, 10 * math.log10(max(signal, 1e-300) / noise))

    @contextmanager
    def _holding(self, layers: Mapping[str, Altered]) -> Iterator[None]:
        before = {name: self.layers[name].weight.data for name in layers}
        affines = {module: affine for how in layers.values() for module, affine in how.inputs.items()}
        try:
            for name, how in layers.items():
                if how.weight is not None:
                    self.layers[name].weight.data = how.weight
            with rounded_inputs(affines):
                yield
        finally:
            for name, weight in before.items():
                self.layers[name].weight.data = weight

    @torch.no_grad()
    def _answers(self) -> Tensor:
        return torch.cat([call(self.network, inputs).float() for inputs in self.batches])


def _with(row: LayerBlame, **figures: Harm) -> LayerBlame:
    return LayerBlame(**{**vars(row), **figures})
