"""Training a network from labels by a recipe: on a processor or a GPU, with checkpoints that a run can go on from."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.cost import Interval, wilson_interval
from tenfold.data import Split, Splits, Task, check_task
from tenfold.errors import NetworkError, OutputError
from tenfold.files import write_json, write_text
from tenfold.training.average import WeightAverage
from tenfold.training.checkpoint import (
    CHECKPOINT,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    part,
    prefixed,
    read_checkpoint,
    require_fit,
    write_checkpoint,
    write_weights,
)
from tenfold.training.depth import stochastic_depth
from tenfold.training.fastest import fastest_precision
from tenfold.training.fitted import FittedClock
from tenfold.training.interruption import interruption
from tenfold.training.loop import Progress
from tenfold.training.outputs import fingerprint
from tenfold.training.precision import Precision, plain_layout
from tenfold.training.recipes import Arithmetic, Compiling, TrainingRecipe
from tenfold.training.resident import ResidentImages
from tenfold.training.result import CurvePoint, TrainingResult, device_name
from tenfold.training.schedules import warmup_cosine
from tenfold.training.scoring import right_answers
from tenfold.training.stepper import Stepper
from tenfold.training.teacher import frozen_teacher

WEIGHTS, RESULT, RECIPE = "weights.safetensors", "result.json", "recipe.yaml"
RATE_EVERY = 20  # steps that a pace is taken over
READ_EVERY = {"cpu": 1}  # steps between looks at the loss; else RATE_EVERY, since each look waits for a GPU
FEWEST_RISING = 100  # steps to the peak of the rate in however little time, where the recipe has as many
AVERAGE_EVERY = 4  # steps between updates of the average
EVALUATIONS = 30  # points of the curve, and never more than one an epoch
CHECKPOINT_SECONDS = 20.0  # at least so long between checkpoints
COMPILE_SECONDS = 600.0  # a run that has longer to go than this earns back the minute or two of compiling


def train(
    network: nn.Module,
    data: Splits | Task,
    recipe: TrainingRecipe,
    *,
    name: str = "network",
    seconds: float | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    folder: Path | str | None = None,
    resume: bool = False,
    teacher: nn.Module | None = None,
    graph: bool = True,
    progress: Progress = lambda fraction, text: None,
) -> TrainingResult:
    """Train `network` in place on `data.train`, leave it in eval mode, and score it.

    Ends with the recipe's epochs, or after `seconds` (the schedule of the learning rate is then fitted to the steps that
    the pace leaves time for, so that it has run down at the end). With `folder`, a checkpoint is kept there, and at the end the
    weights, `result.json` and the recipe; `resume` goes on from that checkpoint, and the outcome is that of a run
    that was never stopped. A `teacher`, any network with the same outputs, is learnt from as the recipe's `teaching`
    says; it is left as it was. `graph` lets a GPU replay steps from a CUDA graph. On Ctrl-C the step is finished, the
    checkpoint written, and `KeyboardInterrupt` raised.

    Raises `DataError` and `NetworkError` before any work where data and network do not fit, `NetworkError` where
    the loss is not finite, `OutputError` where the folder holds another run.
    """
    task = Task(network, data.train, data.validation, data.test, classes=data.classes)
    folder = None if folder is None else Path(folder)
    found = _found(folder, resume)
    check_task(task)
    device = torch.device(device)
    with _deterministic_choices(device, seed):
        # A processor's precision is timed, and a run that goes on must not change it.
        precision = None if found is None else Precision(**found[1]["precision"])
        run = _Run(task, recipe, name, seconds, device, seed, folder, graph, precision, teacher)
        if found is not None:
            run.restore(*found)
        with stochastic_depth(run.model, recipe.stochastic_depth), interruption() as interrupted:
            run.go(interrupted, progress)
        return run.finish()


class _Run:
    """A run as it stands: the network, the optimiser, the place in the data, and the curve so far."""

    def __init__(
        self,
        task: Task,
        recipe: TrainingRecipe,
        name: str,
        seconds: float | None,
        device: torch.device,
        seed: int,
        folder: Path | None,
        graph: bool,
        precision: Precision | None,
        teacher: nn.Module | None,
    ) -> None:
        self.recipe, self.name, self.seed, self.folder, self.device = recipe, name, seed, folder, device
        self.model = task.model.to(device).train()
        self.batch_size = min(recipe.batch_size, len(task.train))
        self.per_epoch = max(1, len(task.train) // self.batch_size)
        self.task = task
        self.identity = {
            # Compiled or not, a run learns the same up to rounding: where compiling fails, one without goes on.
            "recipe": {key: value for key, value in recipe.to_dict().items() if key != "compile"},
            "seed": seed,
            "train": fingerprint(nn.Identity(), task.train),
            "validation": fingerprint(nn.Identity(), task.validation),
        }
        if teacher is not None:
            teacher = frozen_teacher(teacher, self.model, task.train, device)
            self.identity["teacher"] = fingerprint(teacher, task.train)
        self.taught = teacher is not None
        self.train_data = ResidentImages.of(task.train, device, "train", recipe.augmentation.padding)
        self.validation_data = ResidentImages.of(task.validation, device, "validation")
        self.precision = precision or _precision(recipe, self.model, task.train, device)
        self.precision.model(self.model)
        if teacher is not None:
            self.precision.model(teacher)
        self.average = None if recipe.average is None else WeightAverage(self.model, recipe.average)
        self.stepper = Stepper(
            self.model, self.train_data, recipe, self.batch_size, self.precision, teacher=teacher, graph=graph
        )
        self.compiled = recipe.compile is Compiling.ON
        if self.compiled:
            self.stepper.compile()
        self.setting_up = 0.0  # seconds until steps had settled
        steps = math.ceil(recipe.epochs * self.per_epoch - 1e-6)
        self.every = max(self.per_epoch, math.ceil(steps / EVALUATIONS))  # steps between points of the curve
        batches = len(task.validation) / self.batch_size
        self.clock = FittedClock(seconds, steps, every=self.every, batches=batches)
        self.rising = max(1.0, min(FEWEST_RISING, recipe.warmup * steps))
        self.curve: list[CurvePoint] = []
        self.rates: list[float] = []  # images a second
        self.mark: tuple[int, float] | None = None  # step and time at which the rate was last read
        self.loss_sum, self.loss_steps, self.averaged = 0.0, 0, 0
        self.saved = time.monotonic()

    def go(self, interrupted: threading.Event, progress: Progress) -> None:
        """Step until the work is done; leave early, with a checkpoint, when interrupted."""
        order, order_epoch = torch.empty(0), -1
        self.clock.mark()
        while self.clock.may_step():
            epoch, place = divmod(self.clock.step, self.per_epoch)
            if epoch != order_epoch:
                order, order_epoch = self._order(epoch), epoch
            start = place * self.batch_size
            rate = self._learning_rate()
            self.stepper(order[start : start + self.batch_size], rate)
            self.clock.step += 1
            self.loss_steps += 1
            if not self.setting_up and self.stepper.settled:
                self._begin()
            if self.average is not None and self.clock.step % AVERAGE_EVERY == 0:
                self._follow()
            if self.clock.step % READ_EVERY.get(self.device.type, RATE_EVERY) == 0:
                self._read(progress)
            if self.clock.step % self.every == 0 or not self.clock.may_step():
                self._evaluate(rate)
                if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                    self.save()
                if self.stepper.settled:  # while a GPU compiles, nothing is a step's time
                    self.clock.mark()
            if interrupted.is_set():
                self._check()
                self.save()
                raise KeyboardInterrupt
        self._check()
        self.save()

    def finish(self) -> TrainingResult:
        """Put the weights to be kept into the network, score it, and write what the run leaves behind."""
        model = self.task.model
        self._follow()
        if self.average is not None:
            load_weights(model, self.average.model.state_dict(), "the average")
        if self.recipe.half:
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.half().float()
        model.eval()
        for parameter in model.parameters():
            parameter.grad = None
        if not self.curve:
            self._evaluate(0.0)
        validation = self._interval(self.validation_data)
        test = None
        if self.task.test is not None:
            test = self._interval(ResidentImages.of(self.task.test, self.device, "test"))
        elapsed = self._elapsed()
        plain_layout(model)
        result = TrainingResult(
            network=self.name,
            parameters=sum(p.numel() for p in model.parameters()),
            recipe=self.recipe,
            seed=self.seed,
            examples=len(self.train_data),
            batch_size=self.batch_size,
            steps=self.clock.step,
            epochs=self.clock.step / self.per_epoch,
            complete=self.clock.step == self.clock.steps,
            seconds=elapsed,
            images_per_second=statistics.median(self.rates) if self.rates else None,
            device=device_name(self.device),
            precision=str(self.precision),
            compiled=self.compiled,
            captured=self.stepper.captured,
            taught=self.taught,
            curve=tuple(self.curve),
            validation=validation,
            test=test,
        )
        if self.folder is not None:
            write_weights(model, self.folder / WEIGHTS, half=self.recipe.half)
            write_text(self.folder / RECIPE, self.recipe.to_yaml())
            write_json(self.folder / RESULT, result.to_json())
        return result

    def save(self) -> None:
        """Write the checkpoint, if there is a folder for it."""
        self.saved = time.monotonic()
        if self.folder is None:
            return
        self._drain()
        tensors = prefixed("model", self.model.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(self.stepper.rule, self.model))
        if self.average is not None:
            tensors |= prefixed("average", self.average.model.state_dict())
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        facts = {
            "identity": self.identity,
            "precision": asdict(self.precision),
            "step": self.clock.step,
            "averaged": self.averaged,
            "seconds": self._elapsed(),
            "loss": [self.loss_sum, self.loss_steps],
            "curve": [asdict(point) for point in self.curve],
        }
        write_checkpoint(self.folder / CHECKPOINT, tensors, facts)

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over a checkpoint; `NetworkError` or `OutputError` where it is not of this run, and nothing changed."""
        assert self.folder is not None
        source = str(self.folder / CHECKPOINT)
        require_fit(self.model, part(tensors, "model"), source)
        keys = self.identity.keys() | facts["identity"].keys()
        changed = sorted(key for key in keys if facts["identity"].get(key) != self.identity.get(key))
        if changed:
            raise OutputError(
                f"{source} is of another run (different {', '.join(changed)}): name another folder, or ask for the same"
            )
        load_weights(self.model, part(tensors, "model"), source)
        load_optimizer(self.stepper.rule, self.model, part(tensors, "optimizer"), source)
        if self.average is not None:
            load_weights(self.average.model, part(tensors, "average"), source)
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.clock.go_on(facts["step"], facts["seconds"])
        self.averaged = facts["averaged"]
        self.loss_sum, self.loss_steps = facts["loss"]
        self.curve = [CurvePoint(**point) for point in facts["curve"]]

    def _begin(self) -> None:
        """Start the clock afresh with the time that is left: compiling is no part of the schedule."""
        self._drain()
        self.setting_up = self.clock.begin(guess=self.device.type == "cpu")

    def _elapsed(self) -> float:
        """Seconds of the run in all its sessions."""
        return self.setting_up + self.clock.elapsed()

    def _learning_rate(self) -> float:
        """The rate of the next step, which must then be taken.

        It warms up no faster than in `FEWEST_RISING` steps: a ResNet-20 on CIFAR-10 trained for 60 seconds of two cores
        (130 steps, 7 of them 5%) reached 33% with its peak in the seventh, and 54% so.
        """
        recipe = self.recipe
        rising = (self.clock.step + 1) / self.rising
        share = self.clock.next_share()
        return recipe.optimizer.learning_rate * min(rising, warmup_cosine(share, recipe.warmup, recipe.floor))

    def _order(self, epoch: int) -> Tensor:
        """The examples of an epoch in their order, which the seed and the epoch alone decide."""
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        return torch.randperm(len(self.train_data), generator=generator).to(self.device)

    def _follow(self) -> None:
        steps = self.clock.step - self.averaged
        if self.average is not None and steps:
            self.average.update(self.clock.step, steps)
            self.averaged = self.clock.step

    def _drain(self) -> None:
        """Add what the device has summed up of the loss since the last look; this waits for it."""
        self.loss_sum += self.stepper.loss.item()
        self.stepper.loss.zero_()

    def _check(self) -> None:
        """Raise `NetworkError` where a loss was not finite."""
        self._drain()
        if not math.isfinite(self.loss_sum):
            kept = ""
            if self.folder is not None and (self.folder / CHECKPOINT).exists():
                kept = f"; {self.folder / CHECKPOINT} holds the last good state"
            raise NetworkError(
                f"training diverged: the loss is {self.loss_sum} by step {self.clock.step} "
                f"(epoch {self.clock.step / self.per_epoch:.1f}) with learning rate "
                f"{self.recipe.optimizer.learning_rate:g}; give a lower learning rate{kept}"
            )

    def _read(self, progress: Progress) -> None:
        """Look at the loss and the clock, tell the progress, and have the network compiled if that will pay."""
        self._check()
        if self.setting_up and self.stepper.settled:
            self.clock.look()
        if self.clock.step % RATE_EVERY == 0:
            self._keep_pace()
        done = max(self.clock.done(), 1e-9)
        left = self.clock.elapsed() * (1 - done) / done
        accuracy = f", validation {100 * self.curve[-1].accuracy:.2f}%" if self.curve else ""
        progress(
            done,
            f"epoch {self.clock.step / self.per_epoch:.1f} of {self.recipe.epochs:g}, "
            f"loss {self.loss_sum / max(1, self.loss_steps):.4f}{accuracy}, {_duration(left)} left",
        )
        automatic = self.recipe.compile is Compiling.AUTO and self.device.type == "cuda"
        if automatic and not self.compiled and self.rates and left > COMPILE_SECONDS:
            self.compiled, self.mark, self.rates = True, None, []
            self.stepper.compile()
            self.clock.looked = None

    def _keep_pace(self) -> None:
        now = time.monotonic()
        if self.mark is not None and self.stepper.settled:
            step, then = self.mark
            self.rates.append((self.clock.step - step) * self.batch_size / (now - then))
        self.mark = (self.clock.step, now) if self.stepper.settled else None

    def _evaluate(self, learning_rate: float) -> None:
        """Add a point to the curve."""
        self._check()
        began = time.monotonic()
        self._follow()
        model = self.model if self.average is None else self.average.model
        right = right_answers(model, self.validation_data, self.precision)
        self.curve.append(
            CurvePoint(
                epoch=self.clock.step / self.per_epoch,
                loss=self.loss_sum / max(1, self.loss_steps),
                accuracy=right / len(self.validation_data),
                learning_rate=learning_rate,
                seconds=self._elapsed(),
            )
        )
        self.loss_sum, self.loss_steps, self.mark = 0.0, 0, None
        self.clock.scoring = time.monotonic() - began

    def _interval(self, data: ResidentImages) -> Interval:
        """Accuracy of the network as it is stored, in fp32."""
        layout = Precision(channels_last=self.precision.channels_last)
        return wilson_interval(right_answers(self.task.model, data, layout), len(data))


def _found(folder: Path | None, resume: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint to go on from, read before any work; a folder in use is refused."""
    if folder is None:
        if resume:
            raise OutputError("there is nothing to resume from without a folder")
        return None
    path = folder / CHECKPOINT
    if resume and path.exists():
        try:
            return read_checkpoint(path)
        except OutputError as error:
            raise OutputError(
                f"{error}; to train from the start, which loses what was done, remove it and leave out --resume"
            ) from error
    if resume:
        raise OutputError(f"{path} does not exist: there is no run to go on with; leave out --resume")
    if path.exists():
        raise OutputError(
            f"{folder} holds a run: go on with it by --resume, or name another folder with --out"
        )
    return None


def _precision(recipe: TrainingRecipe, model: nn.Module, split: Split, device: torch.device) -> Precision:
    """What the recipe asks for; its `auto` is bf16 on a GPU, and timed on a processor."""
    inputs, _ = split.select(range(min(64, len(split))))
    images = isinstance(inputs, Tensor) and inputs.ndim == 4
    if recipe.arithmetic is Arithmetic.AUTO and device.type == "cpu":
        return fastest_precision(model, inputs)
    return Precision(channels_last=images, bf16=recipe.arithmetic is not Arithmetic.FP32)


@contextmanager
def _deterministic_choices(device: torch.device, seed: int) -> Iterator[None]:
    """Random draws from `seed`, and the caller's generators and settings as they were afterwards."""
    before = torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.backends.cudnn.benchmark = True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before


def _duration(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
