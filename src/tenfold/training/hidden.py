"""Teaching hidden layers: which layers of student and teacher to compare, and the loss that compares them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.cost import Inputs, call, map_inputs
from tenfold.errors import NetworkError
from tenfold.training.losses import attention_loss, channel_dim, feature_loss, relation_loss
from tenfold.training.objectives import Distillation
from tenfold.training.precision import device_of
from tenfold.training.views import Batch

Pairs = tuple[tuple[str, str], ...]  # (student layer, teacher layer), by name


class Transfer(Enum):
    """What of a hidden layer is taught."""

    FEATURES = "features"  # what each position holds
    ATTENTION = "attention"  # which positions are active
    RELATION = "relation"  # how examples lie to each other


LOSSES = {
    Transfer.FEATURES: feature_loss,
    Transfer.ATTENTION: attention_loss,
    Transfer.RELATION: relation_loss,
}


class HiddenDistillation(Distillation):
    """Distillation of outputs and of hidden layers: adds weight · mean loss over `pairs`, of the kind of `transfer`.

    Where features of a pair differ in width, a linear map from the student's channels to the teacher's is learnt beside
    the student and thrown away after (FitNets, Romero et al., 2015). Feature maps are too large to keep, so the
    teacher runs at every step: of use where the teacher is cheap.
    """

    def __init__(
        self,
        outputs: Distillation,
        student: nn.Module,
        inputs: Inputs,
        pairs: Pairs,
        weight: float = 1.0,
        seed: int = 0,
        transfer: Transfer = Transfer.FEATURES,
    ) -> None:
        """`outputs` is the distillation of outputs that this adds to; `inputs` an example batch, to see shapes by."""
        super().__init__(
            outputs.teacher, temperature=outputs.temperature, alpha=outputs.alpha, views=outputs.views
        )
        self.pairs, self.weight, self.transfer = pairs, weight, transfer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projections = projections_between(student, self.teacher.teacher, inputs, pairs)
        if transfer is not Transfer.FEATURES:  # which compare what has no width
            self.projections = nn.ModuleDict()
        self._seen: dict[str, Tensor] = {}

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        with captured(self.teacher.teacher, [name for _, name in self.pairs]) as wanted:
            answers = self.teacher.ask(batch.inputs)
        total = outputs.new_zeros((), dtype=torch.float32)
        for index, (student, teacher) in enumerate(self.pairs):
            feature, target = self._seen[student].float(), wanted[teacher].clone().float()
            if str(index) in self.projections:
                dim = channel_dim(feature)
                feature = self.projections[str(index)](feature.movedim(dim, -1)).movedim(-1, dim)
            total = total + LOSSES[self.transfer](feature, target)
        return self.loss(outputs, answers, batch) + self.weight * total / max(1, len(self.pairs))

    def waiting(self) -> float:
        """None: every step waits for its own answers."""
        return 0.0

    def for_trial(self) -> HiddenDistillation:
        """With projections of its own."""
        trial = copy.copy(self)
        trial.projections = copy.deepcopy(self.projections)
        return trial

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[list[nn.Parameter]]:
        with captured(student, [name for name, _ in self.pairs]) as self._seen:
            yield list(self.projections.parameters())
        self._seen = {}


def stage_pairs(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, origins: Mapping[str, str] | None = None
) -> Pairs:
    """Layers to compare, found by name and shape: the last layer of both at each resolution.

    `origins` gives the student's layers by the name that they have in the teacher. Without it those of the same name
    go together, but for members of a list that is longer in one than in the other: there numbers may have changed.
    For sequences (N, S, D), whose length does not change, only the last of all. Layers whose maps
    are a single position are left out: the outputs teach those.
    """
    if origins is None:
        origins = _same_names(student, teacher)
    ours, theirs = _shapes(student, inputs), _shapes(teacher, inputs)
    stages: dict[tuple[int, ...], tuple[str, str]] = {}
    for name, shape in ours.items():  # in the order in which they finish, so that the last one stays
        positions, origin = _positions(shape), origins.get(name, "")
        if origin in theirs and _positions(theirs[origin]) == positions and torch.Size(positions).numel() > 1:
            stages[positions] = name, origin
    return tuple(stages.values())


def _same_names(student: nn.Module, teacher: nn.Module) -> dict[str, str]:
    """{name: name} of the modules of both, but for those in lists that have other members in either."""
    ours, theirs = dict(student.named_modules()), dict(teacher.named_modules())
    other = tuple(
        f"{path}." if path else ""
        for path, module in ours.items()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and path in theirs
        and module._modules.keys() != theirs[path]._modules.keys()
    )
    return {name: name for name in ours if name in theirs and not name.startswith(other)}


def projections_between(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, pairs: Pairs
) -> nn.ModuleDict:
    """For each pair (by its position) whose widths differ, a linear map of the channels; checks all shapes."""
    ours, theirs = _shapes(student, inputs), _shapes(teacher, inputs)
    maps = nn.ModuleDict()
    for index, (mine, its) in enumerate(pairs):
        for name, shapes, who in ((mine, ours, "student"), (its, theirs, "teacher")):
            if name not in shapes:
                raise NetworkError(
                    f"{name}: the {who} has no such layer that returns a feature map, so it cannot be matched"
                )
        if _positions(ours[mine]) != _positions(theirs[its]):
            raise NetworkError(
                f"{mine} and {its} cannot be matched: their maps are {ours[mine]} and {theirs[its]}, "
                "which differ in more than channels"
            )
        narrow, wide = (s[channel_dim(torch.empty(s, device="meta"))] for s in (ours[mine], theirs[its]))
        if narrow != wide:
            maps[str(index)] = nn.Linear(narrow, wide, bias=False)
    return maps.to(device_of(student))


@contextmanager
def captured(model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """A dict of the latest output of each named layer, in the order they finished, while the context lasts."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            output = output[0] if isinstance(output, (tuple, list)) and output else output
            if isinstance(output, Tensor):
                seen.pop(name, None)
                seen[name] = output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in dict.fromkeys(names)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _shapes(model: nn.Module, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """Shapes of the feature maps (rank 2 to 4) of every named layer, in the order they finish."""
    device, training = device_of(model), model.training
    model.eval()
    try:
        with captured(model, [name for name, _ in model.named_modules() if name]) as seen, torch.no_grad():
            call(model, map_inputs(lambda t: t.to(device), inputs))
    finally:
        model.train(training)
    return {name: tuple(value.shape) for name, value in seen.items() if 2 <= value.ndim <= 4}


def _positions(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A feature map's shape without examples and channels."""
    return shape[1:2] if len(shape) == 3 else shape[2:]
