"""Distil: heal a changed network by teaching it to answer as the original does.

The loss is alpha·CE + (1 − alpha)·T²·KL(teacher ‖ student) at temperature T (Hinton et al., 2015), optionally
with a loss on hidden layers (Romero et al., 2015). The teacher's answers are computed once for a job and kept; teacher
and student always see the same view of an example (Beyer et al., 2022).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.compress.batches import asked_together, batch_for, held_out, training_bytes
from tenfold.compress.passes import MIXED_PACE, MOST_LABELS, how_shown, may_mix, pace
from tenfold.compress.technique import Applied, Json, Problem, Run, quantized, unrunnable
from tenfold.compress.versions import Versions
from tenfold.cost import Device, Inputs
from tenfold.data import Split, Task
from tenfold.errors import NetworkError
from tenfold.training import (
    AdamW,
    Distillation,
    Diverged,
    HiddenDistillation,
    Keeper,
    OptimizerSettings,
    Precision,
    TeacherOutputs,
    Transfer,
    View,
    answers_mixed,
    faithful_views,
    fastest_precision,
    fingerprint,
    fit,
    held_zeros,
    refresh_statistics,
    remembered,
    stage_pairs,
)
from tenfold.training.norms import batch_norms
from tenfold.training.precision import device_of
from tenfold.training.result import device_name
from tenfold.training.views import is_image

DEFAULT_EPOCHS = 20.0  # where neither seconds, epochs nor a deadline bounds the run
REFERENCE_BATCH = 128  # the batch that these learning rates of AdamW are for
NORMED_RATE = 1.5e-3  # networks with batch norm that must move far …
FAR = 8.0  # … which is by this loss on held-out examples, or more
UNNORMED_RATE = 1e-4  # others, as is usual in fine-tuning transformers
TRIALS_SHARE = 0.05  # of the time: past it no more ways to compute are tried
VIEWS_SHARE = 0.15  # at most so much of the time goes into choosing views
RESERVE = 1.5  # time kept back for judging at the end, as a multiple of what it took before


class Matching(Enum):
    """How hidden layers are matched where none are named."""

    NONE = "none"
    AUTO = "auto"  # the last layer that both have at each resolution


@dataclass(frozen=True)
class Distill:
    """Train the network to answer as the teacher does, on `task.train`, until a bound is reached.

    `seconds` and `epochs` bound the run, with the job's deadline; without any, it takes 20 epochs. `temperature` and
    `alpha` (the share of the data's own labels) are those of Hinton et al. `learning_rate` and `batch_size` (an upper
    bound) are chosen from the network and the number of examples if not given. `precision` and `teacher_precision`
    ("fp32", "bf16", either followed by ", channels last") are found by timing if not given, and `views` (how examples
    are shown: as they are, mirrored, shifted) by asking the teacher; a recipe that is to give the same network again
    states them, and `mixing`. `hidden` names pairs (student layer, teacher layer) to match with weight
    `hidden_weight`, or says how to find them; `transfer` says what of them is taught. `examples` bounds how many
    training examples are used. `steps` ends the run after so many, on the way to the `epochs` that the learning rate
    falls along. With `alpha` 0 no label is
    read, so the data need none; a teacher of several networks is `training.Ensemble`. `mixing` mixes the images of a
    step with each other, which the teacher then answers at every step and labels say nothing of, and counts statistics
    of norms by the batch; if not given, it is done where there is time for so many steps that images shown as they are
    would be learnt by heart, and the teacher's answers to mixed images tell of both. An example of `task.train` is to
    be the same whenever it is read: its answers are kept, and on a GPU the example too.
    """

    seconds: float | None = None
    epochs: float | None = None
    temperature: float = 4.0
    alpha: float = 0.1
    learning_rate: float | None = None
    batch_size: int = 128
    hidden: tuple[tuple[str, str], ...] | Matching = Matching.NONE
    hidden_weight: float = 1.0
    transfer: Transfer = Transfer.FEATURES
    examples: int | None = None
    precision: str | None = None
    teacher_precision: str | None = None
    views: tuple[View, ...] | None = None
    steps: int | None = None
    mixing: bool | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "epochs", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"Distill: {name} must be a finite number above 0, not {value!r}")
        for name in ("precision", "teacher_precision"):
            value = getattr(self, name)
            if value is not None:
                try:
                    Precision.named(value)
                except ValueError as error:
                    raise ValueError(f"Distill: {name}: {error}") from None
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"Distill: temperature must be above 0, not {self.temperature!r}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"Distill: alpha must be between 0 and 1, not {self.alpha!r}")
        if not (self.hidden_weight >= 0 and math.isfinite(self.hidden_weight)):
            raise ValueError(f"Distill: hidden_weight must be at least 0, not {self.hidden_weight!r}")
        for name in ("batch_size", "examples", "steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Distill: {name} must be a whole number of at least 1, not {value!r}")
        if self.mixing and (self.alpha > MOST_LABELS or self.batch_size < 2):
            raise ValueError(
                f"Distill: labels say nothing of mixed images, and one image mixes with none: mixing goes with an alpha "
                f"of at most {MOST_LABELS} and a batch_size of at least 2, not {self.alpha!r} and {self.batch_size}"
            )
        if self.views is not None and View.IDENTITY not in self.views:
            raise ValueError("Distill: views must hold the identity, in which the network is judged")
        if not isinstance(self.hidden, Matching):
            pairs = tuple(tuple(pair) for pair in self.hidden)
            if any(len(pair) != 2 or not all(isinstance(n, str) for n in pair) for pair in pairs):
                raise ValueError("Distill: hidden must be pairs (student layer, teacher layer) of names")
            object.__setattr__(self, "hidden", pairs)

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """Nothing to train, a network in integers already, or hidden layers that do not exist."""
        if already := quantized(model):
            return already
        problems = []
        integer = next((name for name, tensor in model.state_dict().items() if _is_integer(tensor)), None)
        if integer is not None:
            problems.append(
                Problem(
                    integer.rpartition(".")[0],
                    "is quantised to integers, which cannot be trained: put Distill before Quantize",
                )
            )
        elif not any(p.requires_grad and p.is_floating_point() for p in model.parameters()):
            problems.append(
                Problem(
                    "",
                    "no parameter can be trained: none has requires_grad set, so Distill has nothing to do",
                )
            )
        if not isinstance(self.hidden, Matching):
            for network, who, position in ((model, "student", 0), (task.model, "teacher", 1)):
                known = {name for name, _ in network.named_modules()}
                for pair in self.hidden:
                    if pair[position] not in known:
                        problems.append(
                            Problem(
                                pair[position],
                                f"the {who} has no layer of this name to match in Distill.hidden",
                            )
                        )
        problems = problems or unrunnable(model, task)
        if not problems and self.mixing and not is_image(task.example(1)):
            problems.append(
                Problem("", "mixing is for float images (N, C, H, W), and the data are something else")
            )
        return problems

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """Heal a copy of `model`; keep the trained weights only if they answer held-out examples better."""
        return self.taught(model, task, run)

    def taught(self, model: nn.Module, task: Task, run: Run, *originals: nn.Module) -> Applied:
        """`apply`, where layers that pruning emptied stay so: `originals` and the task's network still have them."""
        started = time.monotonic()
        deadline = min(run.deadline, math.inf if self.seconds is None else started + self.seconds)
        data = task.train if self.examples is None else task.train.take(self.examples)
        train, held = held_out(data)
        bytes_each = training_bytes(task.model, task.zeros(1))
        batch_size = batch_for(len(train), self.batch_size, bytes_each)
        home, place = device_of(model), run.place(model)
        train = self._at_hand(task.train, train, place, run)
        together = asked_together(place, batch_size, bytes_each)
        student = copy.deepcopy(model).eval().to(place)
        original = task.model if run.teacher is None else run.teacher
        keeper = self._keeper(student, train, run, batch_size)
        decided = {} if keeper is None else keeper.decided  # by the run that this one goes on with, if any
        asked = decided.get("teacher_precision", self.teacher_precision)
        trials_end = started + TRIALS_SHARE * (deadline - started)
        teacher = teacher_outputs(
            original, train, run, together, None if asked is None else Precision.named(asked), trials_end
        )
        judge = teacher_outputs(original, held, run, batch_size, teacher.precision)
        chosen = decided.get("precision", self.precision)
        precision = (
            fastest_precision(student, train.select(range(batch_size))[0], deadline=trials_end)
            if chosen is None
            else Precision.named(chosen)
        )
        versions = Versions(student, held, self._outputs_alone(judge), precision)
        versions.note("unchanged")
        if not versions.losses:
            raise NetworkError(
                "the network's outputs are not finite before any training: its weights hold NaN or inf"
            )
        deadline -= RESERVE * versions.seconds
        if refresh_statistics(student, train, precision=precision, deadline=deadline):
            versions.note("refreshed")
            versions.restore_best()

        now = time.monotonic()
        named = decided.get("views", self.views)
        views = (
            faithful_views(teacher, train, deadline=now + VIEWS_SHARE * max(0.0, deadline - now))
            if named is None
            else tuple(View(view) for view in named)
        )
        pairs = self._pairs(student, teacher, train, run.origins)
        objective = self._outputs_alone(teacher, views)
        if pairs:
            example = train.select([0, 1 % len(train)])[0]
            objective = HiddenDistillation(
                objective, student, example, pairs, self.hidden_weight, run.seed, self.transfer
            )
        optimizer = self.optimizer(student, batch_size, min(versions.losses.values()))
        epochs = DEFAULT_EPOCHS if self.epochs is None else self.epochs
        most = math.inf if self.epochs is None else self.epochs

        def better_mixed(passes: float) -> bool:
            enough = may_mix(train, self.alpha, batch_size, passes, steps=self.steps)
            return enough and answers_mixed(teacher, train)

        diverged: str | None = None
        precise: dict[str, Any] = {"optimizer": optimizer, "batch_size": batch_size, "precision": precision}
        mixing = decided.get("mixing", False) if decided else self.mixing
        if mixing is None and self.precision is not None and self.views is not None:
            mixing = (
                False  # a recipe that states all else that a search decides, from before images were mixed
            )
        try:
            if "epochs" in decided:
                epochs = decided["epochs"]
            elif math.isfinite(deadline):
                # The time becomes a number of passes before the first step, so that the same passes give the
                # same network again, on whatever machine.
                timed = partial(pace, deadline, student, train, objective, run.seed, precise)
                known = timed(bool(mixing))
                fitting = 0.0 if known is None else known.passes_by(deadline)
                if mixing is None and better_mixed(min(most, fitting / MIXED_PACE)):
                    mixed = timed(True)
                    if mixed is not None and better_mixed(min(most, mixed.passes_by(deadline))):
                        known, mixing = mixed, True
                mixing = bool(mixing)
                epochs = 0.0 if known is None else min(most, known.passes_by(deadline))
                precise["graph"] = True  # as it was timed
            if mixing is None:
                mixing = better_mixed(epochs)
            precise |= how_shown(mixing)
            if keeper is not None:
                keeper.also = teacher.save
                keeper.decided = {
                    "epochs": epochs,
                    "precision": str(precision),
                    "teacher_precision": str(teacher.precision),
                    "views": [view.value for view in views],
                    "mixing": mixing,
                }
            with held_zeros(
                student, task.model, *originals
            ):  # what pruning set to zero is no weight any more
                try:
                    result = fit(
                        student, train, objective, epochs=epochs, until=deadline, steps=self.steps, seed=run.seed,
                        keeper=keeper, progress=run.progress, **precise,
                    )  # fmt: skip
                except Diverged as error:
                    if not error.result.steps:
                        raise
                    result, diverged = error.result, str(error)  # what it had learned by then is not lost
        finally:
            teacher.save()
            teacher.release()
            judge.save()
        if result.steps:
            versions.note("trained")
        judge.release()
        kept = versions.restore_best()
        return Applied(
            student.to(home).eval(),
            {
                "kept": kept,
                "held_out_losses": versions.losses,
                "steps": result.steps,
                "epochs": result.epochs,
                "planned_epochs": epochs,
                "epochs_before": result.steps_before / max(1, len(train) // batch_size),
                "cut_short": result.epochs < epochs,
                "diverged": diverged,
                "seconds": round(time.monotonic() - started, 3),
                "training_seconds": round(result.seconds, 3),
                "step_seconds": round(result.pace, 6),
                "loss": result.losses[-1] if result.losses else None,
                "losses": list(result.losses),
                "examples": len(train),
                "batch_size": batch_size,
                "optimizer": {"name": type(optimizer).__name__, **asdict(optimizer)},
                "trained_on": device_name(place),
                "precision": str(precision),
                "teacher_precision": str(teacher.precision),
                "views": [view.value for view in views],
                "mixing": mixing,
                "hidden": [list(pair) for pair in pairs],
            },
        )

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """Training changes no structure: a copy as it is."""
        return copy.deepcopy(model).eval()

    def foresee(self, model: nn.Module, task: Task) -> nn.Module:
        """The network as it is."""
        return model

    def _at_hand(self, whole: Split, train: Split, place: torch.device, run: Run) -> Split:
        """The examples to train on where a GPU has them at hand, the same for everything in this job."""
        if place.type == "cpu":
            return train
        key = f"at hand {id(whole)} {self.examples} {place}"
        if key not in run.cache:
            run.cache[key] = whole, remembered(train, place)  # `whole` is kept, so that its id is its own
        found: Split = run.cache[key][1]
        return found

    def _keeper(self, student: nn.Module, train: Split, run: Run, batch_size: int) -> Keeper | None:
        """What keeps this very training: of this network on these data and this kind of device, with these settings
        but for the bounds."""
        if run.checkpoint is None:
            return None
        settings = asdict(replace(self, seconds=None, epochs=None, steps=None))
        facts = {"network": fingerprint(student, train), "seed": run.seed, "settings": repr(settings)}
        facts |= {"batch_size": batch_size, "device": device_of(student).type}
        return Keeper(run.checkpoint, facts)

    def _outputs_alone(
        self, teacher: TeacherOutputs, views: tuple[View, ...] = (View.IDENTITY,)
    ) -> Distillation:
        return Distillation(teacher, temperature=self.temperature, alpha=self.alpha, views=views)

    def optimizer(self, student: nn.Module, batch_size: int, loss: float) -> OptimizerSettings:
        """AdamW with the rate asked for, or one that suits the network, the batch and the `loss` it begins with.

        Steps of a rate that heals what lost much throw what lost little further off than a few passes bring it back:
        a ResNet-56 on CIFAR-10 that lost 2 points with two of its blocks gained nothing from 3 passes at a rate of
        8e-4, and 1.2 points at 2e-4.
        """
        rate = self.learning_rate
        if rate is None:
            far = math.sqrt(min(1.0, max(loss, 0.0) / FAR))
            rate = NORMED_RATE * far if batch_norms(student) else UNNORMED_RATE
            rate *= math.sqrt(min(1.0, batch_size / REFERENCE_BATCH))
        return AdamW(learning_rate=rate)

    def _pairs(
        self,
        student: nn.Module,
        teacher: TeacherOutputs,
        train: Split,
        origins: Mapping[str, str] | None,
    ) -> tuple[tuple[str, str], ...]:
        if self.hidden is Matching.AUTO:
            return stage_pairs(student, teacher.teacher, train.select([0, 1 % len(train)])[0], origins)
        return () if isinstance(self.hidden, Matching) else self.hidden


def teacher_outputs(
    teacher: nn.Module,
    split: Split,
    run: Run,
    batch_size: int,
    precision: Precision | None = None,
    deadline: float = math.inf,
    device: torch.device | None = None,
) -> TeacherOutputs:
    """The teacher's outputs on a split, shared by everything in this job that asks the same.

    By `deadline` (`time.monotonic()`) the precision is to be found, where none is given. It answers on `device`, by
    default where the run trains.
    """
    device = device or run.place(teacher)
    key = f"teacher outputs {fingerprint(teacher, split)} {batch_size} {precision} {run.seed} {device}"
    if key not in run.cache:
        run.cache[key] = TeacherOutputs(
            teacher, split, batch_size=batch_size, precision=precision, folder=run.folder, seed=run.seed,
            deadline=deadline, device=device,
        )  # fmt: skip
    outputs: TeacherOutputs = run.cache[key]
    return outputs


def _is_integer(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_quantized or value.dtype in (torch.int8, torch.uint8))
