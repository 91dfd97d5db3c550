"""The training loop: bounded by a clock, by passes over the data, or by both; the same for teaching and healing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from tenfold.cost import call
from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.training.fastest import fastest_precision
from tenfold.training.keeping import Keeper
from tenfold.training.mixing import Mixer
from tenfold.training.norms import hold_statistics
from tenfold.training.objectives import Objective
from tenfold.training.optimizers import OptimizerSettings, Sgd
from tenfold.training.precision import Precision, device_of, plain_layout
from tenfold.training.schedules import warmup_cosine
from tenfold.training.steps import steps_of
from tenfold.training.unread import Unread
from tenfold.training.views import Batch, View, show, view_of

GOOD_STATE_EVERY = 50  # steps between the copies that a diverged run goes back to
CURVE_POINTS = 50
WORTH_A_GRAPH = 32  # steps

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class FitResult:
    """What a run did: `steps` taken, `epochs` (passes over the data), `seconds` spent, and the loss curve.

    `losses` are means over up to 50 equal stretches of the run, first to last. `steps_before` of the steps were taken
    by a process that was stopped.
    """

    steps: int
    epochs: float
    seconds: float
    losses: tuple[float, ...]
    batch_size: int
    precision: Precision
    steps_before: int = 0
    preparing: float = 0.0  # of the seconds: before the first step
    pace: float = 0.0  # seconds of a step, by the later half of them: the first read data, and ask a teacher


class Diverged(NetworkError):
    """The loss, or a weight, is not finite. `result` tells of the run up to the weights that the student was given back."""

    def __init__(self, text: str, result: FitResult) -> None:
        super().__init__(text)
        self.result = result


@dataclass
class Clock:
    """How much of the work is done: the larger of the shares of the time and of the steps that are used up."""

    seconds: float | None
    steps: int | None
    until: float = math.inf  # a `time.monotonic()` value that cuts the run short; no part of the schedule
    started: float = field(default_factory=lambda: time.monotonic())
    step: int = 0
    last: int | None = None  # the step to stop after, whatever the schedule
    slowest: float = 0.0  # seconds of the last step, or of a slower one before it, halved at every step since

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def done(self) -> float:
        shares = [0.0]
        if self.seconds is not None:
            shares.append(self.elapsed() / self.seconds if self.seconds > 0 else 1.0)
        if self.steps is not None:
            shares.append(self.step / self.steps if self.steps > 0 else 1.0)
        return min(1.0, max(shares))

    def may_step(self, queued: int = 0) -> bool:
        """Whether another step, as slow as the last ones, still ends in time, behind so many that a GPU is to take."""
        coming = (queued + 1) * self.slowest
        if self.step >= min(bound for bound in (self.steps, self.last, math.inf) if bound is not None):
            return False
        if time.monotonic() + coming > self.until:
            return False
        return self.seconds is None or self.elapsed() + coming <= self.seconds


def fit(
    student: nn.Module,
    split: Split,
    objective: Objective,
    *,
    seconds: float | None = None,
    epochs: float | None = None,
    until: float = math.inf,
    steps: int | None = None,
    optimizer: OptimizerSettings | None = None,
    batch_size: int = 128,
    seed: int = 0,
    precision: Precision | None = None,
    hold_norms: bool = False,
    clip: float | None = None,
    keeper: Keeper | None = None,
    graph: bool | None = None,
    mixing: bool = False,
    window: int | None = None,
    progress: Progress = lambda fraction, text: None,
) -> FitResult:
    """Train `student` in place on `split` and leave it in eval mode.

    Ends after `seconds` or `epochs`, whichever comes first; at least one must be given. `until`, a
    `time.monotonic()` value, or `steps` cuts the run short where it stands, whatever the schedule. The learning rate warms up
    and then falls to zero along the share of the work done. `precision` is timed and chosen if not given.
    `hold_norms` keeps the statistics of batch norm as they are; `clip` bounds the norm of the gradient. Only
    parameters that require gradients move. With `keeper` the run goes on from where it was stopped, if it was, and
    can be stopped again. `mixing` mixes the images of every step with each other (`mixing.Mixer`; `ValueError` for other
    data). `graph` lets a GPU replay its steps from graphs (`steps`), as it does for itself where that pays; it must be
    False where the objective changes what the network computes as it goes, or depends on weights in other ways than
    through the outputs. `window` is how many losses may be unread at a time (`unread.Unread`): by default 1, and on a
    GPU a few, so that it does not wait for the processor. For one seed the result is the same up to what timing decides.

    Raises `Diverged` where the loss is not finite; the student then holds its last good weights, and nothing that came
    after that loss is kept. On Ctrl-C too it is left whole and in eval mode.
    """
    _check_bounds(seconds, epochs, batch_size)
    started = time.monotonic()
    optimizer = optimizer or Sgd()
    batch_size = min(batch_size, len(split))
    per_epoch = max(1, len(split) // batch_size)
    trained = [p for p in student.parameters() if p.requires_grad]
    if not trained:
        raise NetworkError("the network has no parameter that can be trained (requires_grad is False on all)")
    device = device_of(student)
    unread = Unread(device, window)
    if precision is None:
        precision = fastest_precision(student, split.select(range(batch_size))[0])
    clock = Clock(
        seconds, None if epochs is None else math.ceil(epochs * per_epoch - 1e-6), until, started, last=steps
    )
    losses: list[float] = []
    takes: list[float] = []  # seconds of each step here that was waited for
    before, preparing = 0, 0.0
    if graph is None:
        graph = min(bound for bound in (clock.steps, steps, math.inf) if bound is not None) >= WORTH_A_GRAPH
    good, good_step = _state(student), 0

    def result(steps: int) -> FitResult:
        here = clock.step - before
        seconds = clock.elapsed() * (steps - before) / here if here else clock.elapsed()
        curve = _curve(losses[:steps])
        late = takes[len(takes) // 2 :]
        pace = sum(late) / max(1, len(late))
        return FitResult(
            steps, steps / per_epoch, seconds, curve, batch_size, precision, before, preparing, pace
        )

    def diverged(what: str, step: int) -> Diverged:
        student.load_state_dict(good)
        rate = f"learning rate {optimizer.learning_rate:g}"
        text = f"training diverged: {what} at step {step} with {rate}; give a lower learning rate"
        return Diverged(text, result(good_step))

    def read(most: int = 0) -> bool:
        """Read losses until at most so many are unread; whether there were any."""
        nonlocal good, good_step
        known = len(losses)
        for value, state in unread.read(most):
            if not math.isfinite(value):
                raise diverged(f"the loss is {value}", len(losses) + 1)
            if state is not None:
                good, good_step = state, len(losses)  # the weights that gave this finite loss
            losses.append(value)
        return len(losses) > known

    def may_step() -> bool:
        """Whether there is time for another step; what ends a run is judged with no step in the queue."""
        if clock.may_step(len(unread)):
            return True
        if not len(unread):
            return False
        read()
        unread.window = 1  # the end is near: each step is now waited for
        return clock.may_step()

    precision.model(student)
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda), objective.watching(student) as extra:
            torch.manual_seed(seed)
            rate = torch.zeros((), device=device) if graph and cuda else None  # which a graph reads
            rule = optimizer.build([*trained, *extra], learning_rate=rate, fused=bool(cuda))
            learner = nn.ModuleDict({"student": student, "objective": nn.ParameterList(extra)})
            if keeper is not None:
                before, losses = keeper.restore(learner, rule)
                clock.step = good_step = before
                good = _state(student)
            student.train()
            if hold_norms:
                hold_statistics(student)
            stream = _batches(split, batch_size, seed, objective, clock.step)
            mixer = Mixer(device, seed) if mixing else None
            # Only a graph needs an example beforehand: on a processor none is read for it.
            example = precision.inputs(split.select(range(batch_size))[0], device) if graph and cuda else None
            network = steps_of(student, [*trained, *extra], rule, precision, clip=clip, example=example)
            preparing = clock.elapsed()
            while may_step():
                began = time.monotonic()
                share = max(clock.done(), 1 / (clock.steps or 1000))
                batch = next(stream)
                if mixer is not None:
                    batch = mixer(batch, clock.step)
                outputs = network.outputs(precision.inputs(batch.inputs, device))
                loss = objective(outputs.float(), batch)
                unread.add(loss, _state(student) if clock.step % GOOD_STATE_EVERY == 0 else None)
                waited = read(unread.fitting(clock.slowest))
                network.learn(loss, optimizer.learning_rate * warmup_cosine(share))
                clock.step += 1
                taken = time.monotonic() - began
                if waited:  # else it was but put into the queue, which tells no step's time
                    takes.append(taken)
                    clock.slowest = max(taken, clock.slowest / 2)
                if keeper is not None and keeper.due():
                    read()  # what is kept is from finite losses, and as many as steps
                    keeper.write(learner, rule, losses)
                progress(clock.done(), f"epoch {clock.step / per_epoch:.1f}, loss {losses[-1]:.4f}")
            if keeper is not None and losses:
                keeper.write(learner, rule, losses)
        if not all(bool(p.isfinite().all()) for p in trained):  # the last step has no loss after it to tell
            raise diverged("a weight is not finite", clock.step)
    finally:
        plain_layout(student)
        student.eval()
        for parameter in student.parameters():
            parameter.grad = None
    return result(clock.step)


def _check_bounds(seconds: float | None, epochs: float | None, batch_size: int) -> None:
    if seconds is None and epochs is None:
        raise ValueError("give seconds, epochs or both: a run must end")
    for name, bound in (("seconds", seconds), ("epochs", epochs)):
        if bound is not None and not (bound >= 0 and math.isfinite(bound)):
            raise ValueError(f"{name} must be a finite number of at least 0, not {bound}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")


def _batches(split: Split, size: int, seed: int, objective: Objective, done: int = 0) -> Iterator[Batch]:
    """Batches without end: pass after pass, each in its own order, every example in its view of that pass.

    The first `done` are left out.
    """
    epoch, skip = divmod(done, max(1, len(split) // size))
    while True:
        shuffled = split.batches(size, shuffle=seed + epoch, drop_last=True, skip=skip)
        for indices, inputs, targets in shuffled:
            views = view_of(indices, epoch, objective.views)
            yield Batch(indices, show(inputs, views, objective.views), targets, views)
        epoch, skip = epoch + 1, 0


def mean_loss(
    model: nn.Module, split: Split, objective: Objective, *, precision: Precision, batch_size: int = 64
) -> float:
    """The objective's mean over the split in eval mode, every example as it is (no other view)."""
    device, total = device_of(model), 0.0
    precision.model(model).eval()
    for indices, inputs, targets in split.batches(batch_size):
        batch = Batch(
            indices, inputs, targets, torch.full((len(indices),), objective.views.index(View.IDENTITY))
        )
        with torch.no_grad():
            with precision.arithmetic(device):
                outputs = call(model, precision.inputs(inputs, device))
            total += float(objective(outputs.float(), batch)) * len(indices)
    plain_layout(model)
    return total / len(split)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _curve(losses: list[float]) -> tuple[float, ...]:
    """Means over up to `CURVE_POINTS` equal stretches."""
    points = min(CURVE_POINTS, len(losses))
    edges = [round(i * len(losses) / points) for i in range(points + 1)] if points else []
    return tuple(sum(losses[a:b]) / (b - a) for a, b in pairwise(edges))
