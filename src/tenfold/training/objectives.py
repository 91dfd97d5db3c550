"""What a step minimises: a function of the student's outputs and the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from torch import Tensor, nn

from tenfold.errors import NetworkError
from tenfold.training.losses import distillation_loss, hard_loss
from tenfold.training.outputs import TeacherOutputs
from tenfold.training.precision import sent
from tenfold.training.views import Batch, View


class Objective(Protocol):
    """A loss to train with. `views` are those that its examples may be shown in."""

    views: tuple[View, ...]

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss, a scalar, of the student's outputs (N, …)."""
        ...

    def watching(self, student: nn.Module) -> AbstractContextManager[list[nn.Parameter]]:
        """While the context lasts the objective may hook the student. Yields what it learns beside it."""
        ...


class Supervised:
    """Learn from the data's own targets; `ValueError` for mixed images, which have none."""

    def __init__(self, views: tuple[View, ...] = (View.IDENTITY,)) -> None:
        self.views = views

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        if batch.mixed:
            raise ValueError("labels say nothing of mixed images: let a teacher answer them")
        return hard_loss(outputs, batch.targets)

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[list[nn.Parameter]]:
        yield []


class Distillation:
    """Learn from a teacher's outputs, kept once computed, and to a share `alpha` from the targets."""

    def __init__(
        self,
        teacher: TeacherOutputs,
        *,
        temperature: float = 4.0,
        alpha: float = 0.1,
        views: tuple[View, ...] = (View.IDENTITY,),
    ) -> None:
        self.teacher, self.temperature, self.alpha, self.views = teacher, temperature, alpha, views

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        if batch.mixed:
            return self.loss(outputs, self.teacher.fresh(batch.inputs), batch)
        return self.loss(outputs, self.teacher(batch, self.views), batch)

    def waiting(self) -> float:
        """Seconds that training will wait for the teacher, whose answers are kept."""
        return self.teacher.waiting(self.views)

    def for_trial(self) -> Distillation:
        """The same, for steps that are to leave no trace in what is learnt beside the student."""
        return self

    def loss(self, outputs: Tensor, answers: Tensor, batch: Batch) -> Tensor:
        """The loss against the teacher's `answers`, of the shape of `outputs`."""
        if answers.shape != outputs.shape:
            raise NetworkError(
                f"the teacher answers in shape {tuple(answers.shape)} and the student in {tuple(outputs.shape)}: "
                "both must be the same"
            )
        return distillation_loss(
            outputs,
            sent(answers, outputs.device),
            batch.targets,
            temperature=self.temperature,
            alpha=0.0 if batch.mixed else self.alpha,
        )

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[list[nn.Parameter]]:
        yield []
