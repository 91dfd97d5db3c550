"""`Sparsify`: set single weights to zero, freely or two of every four, and leave the network's shape as it is."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from tenfold.compress.distill import Distill
from tenfold.compress.layers import Weighted, not_finite, unmatched, weighted_layers
from tenfold.compress.prune.curvature import (
    fisher_diagonal,
    hutchinson_diagonal,
    in_groups,
    input_hessians,
    moment_room,
)
from tenfold.compress.prune.learned_scores import cubic, learn_which_go
from tenfold.compress.prune.masks import M, keep_largest, keep_largest_of_all, keep_two_of_four, sparsity
from tenfold.compress.prune.obs import damped_inverse, least_of_rows, surgeon, two_of_four
from tenfold.compress.prune.permutation import permuted
from tenfold.compress.prune.pruning import TRACED_BATCH, Scope, channel_graph
from tenfold.compress.technique import Applied, Json, Problem, Run, misplaced, quantized, unrunnable
from tenfold.cost import Device, Inputs
from tenfold.data import Task
from tenfold.errors import NetworkError, OutOfTime

OBS_ROUNDS = 8

ORDERING, CUTTING = 0.2, 0.1  # shares of the work, as it is told: of permuting, of choosing before healing


class Saliency(Enum):
    """What a weight's removal is taken to cost."""

    MAGNITUDE = "magnitude"  # |w|
    FISHER = "fisher"  # OBD, ½·h·w² with h of the diagonal Fisher matrix
    HUTCHINSON = "hutchinson"  # OBD with h of the Hessian's diagonal, estimated
    OBS = "obs"  # ½·w²/[H⁻¹]_qq of the layer's own output; the other weights make up for it
    MOVEMENT = "movement"  # learnt while training: from its magnitude on, what moves towards zero goes
    RANDOM = "random"  # the trivial baseline


RUNS = (Saliency.FISHER, Saliency.HUTCHINSON, Saliency.OBS)  # the network on the examples, where both lie


@dataclass(frozen=True)
class Free:
    """The share `ratio` of the weights goes, wherever they stand; layers compete or each loses the same share."""

    ratio: float = 0.5
    scope: Scope = Scope.GLOBAL

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise ValueError(f"Free: ratio must be between 0 and 1, not {self.ratio!r}")


@dataclass(frozen=True)
class TwoOfFour:
    """Two of every four input channels in a row go, for sparse tensor cores; with `permute` in the best order."""

    permute: bool = True


@dataclass(frozen=True)
class Sparsify:
    """Set weights of linear layers and convolutions to zero: smaller as a file, not faster on dense kernels.

    `pattern` says which weights may go together, `saliency` which cost least. With `epochs` the network is healed by
    distillation in so many passes altogether, the zeros held, in `stages` between which the share of zeros grows to
    its final value by the cubic of Zhu and Gupta (2017). `examples` of the training data tell the curvature; OBS goes
    through them again for every 4 GiB, or quarter of the free memory if that is less, that the second moments of the
    layers' inputs take. `layers` are patterns of names; without any, all are looked at.
    """

    pattern: Free | TwoOfFour = Free()
    saliency: Saliency = Saliency.MAGNITUDE
    stages: int = 1
    epochs: float = 0.0
    examples: int = 256
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        for name in ("stages", "examples"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Sparsify: {name} must be a whole number of at least 1, not {value!r}")
        if not (self.epochs >= 0 and math.isfinite(self.epochs)):
            raise ValueError(f"Sparsify: epochs must be at least 0, not {self.epochs!r}")
        if self.stages > 1 and not self.epochs:
            raise ValueError("Sparsify: stages are of use only with epochs, between which the network heals")
        free = isinstance(self.pattern, Free)
        if self.stages > 1 and not free:
            raise ValueError("Sparsify: stages go with pattern Free; two of four is one stage")
        within = self.saliency in (Saliency.OBS, Saliency.MOVEMENT)
        if within and isinstance(self.pattern, Free) and self.pattern.scope is Scope.GLOBAL:
            raise ValueError(
                f"Sparsify: saliency {self.saliency.value} compares weights within a layer: "
                "set the pattern's scope to uniform"
            )
        if self.saliency is Saliency.MOVEMENT and not (free and self.epochs):
            raise ValueError(
                "Sparsify: saliency movement learns while it trains: give epochs, and pattern Free"
            )

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """Patterns that match nothing, layers that cannot take the pattern, weights that are not finite."""
        if already := quantized(model):
            return already
        problems = unmatched(model, self.layers)
        chosen, skipped = self._chosen(model)
        if not chosen and not problems:
            why = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            problems.append(
                Problem("", f"no linear layer or convolution in floating point can be made sparse{why}")
            )
        problems += [Problem(name, skipped[name]) for name in self.layers if name in skipped]
        return problems + not_finite(chosen) or self._misplaced(model, task) or unrunnable(model, task)

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """Permute if that helps, then choose, set to zero and heal, stage by stage.

        Raises `OutOfTime` where the run's deadline comes before the end of the healing that was asked for.
        """
        given, model = model, copy.deepcopy(model).eval()
        chosen, skipped = self._chosen(model)
        for problem in self._misplaced(model, task):
            raise NetworkError(str(problem))
        if not chosen:
            raise NetworkError("no linear layer or convolution in floating point can be made sparse")
        reordered: list[str] = []
        begun = 0.0  # share of the work
        if isinstance(self.pattern, TwoOfFour) and self.pattern.permute:
            try:
                graph = channel_graph(model, task.zeros(TRACED_BATCH), run)
            except NetworkError as error:
                skipped["permutation"] = str(error)
            else:
                example, begun = task.example(TRACED_BATCH), ORDERING
                tell = run.part(0.0, begun).progress
                model, reordered = permuted(
                    model, graph, chosen, example, lambda: run.seconds_left() > 0,
                    lambda share, name: tell(share, f"order of {name}"),
                )  # fmt: skip
                chosen, _ = self._chosen(model)
        healed: list[Json] = []
        if self.saliency is Saliency.MOVEMENT:
            assert isinstance(self.pattern, Free)  # `__post_init__` saw to it
            learn_which_go(
                model, chosen, task, run.part(begun, 1.0), ratio=self.pattern.ratio, epochs=self.epochs
            )
        else:
            each = (1.0 - begun) / self.stages
            for stage in range(1, self.stages + 1):
                start, end = begun + (stage - 1) * each, begun + stage * each
                cut = start + (CUTTING if self.epochs else 1.0) * each
                for name in self._cut(model, chosen, task, run.part(start, cut), stage / self.stages):
                    skipped[name] = "no example reaches it, so OBS knows no inputs of it"
                if self.epochs:
                    heal = Distill(epochs=self.epochs / self.stages)
                    # With one for all, the first stage, gone through again, would replace what a later one kept.
                    part = run.part(cut, end) if self.stages == 1 else run.part(cut, end).stage(stage)
                    applied = heal.taught(model, task, part, given)
                    passes = applied.resolved["epochs"]
                    if applied.resolved["diverged"] is None and passes < self.epochs / self.stages - 1e-6:
                        # A recipe states the passes, and would heal for all of them elsewhere. What was kept would
                        # bring so few of them back.
                        if part.checkpoint is not None:
                            part.checkpoint.unlink(missing_ok=True)
                        raise OutOfTime(
                            f"the time was over after {passes:.4g} of {self.epochs / self.stages:g} passes of healing "
                            f"(stage {stage} of {self.stages})"
                        )
                    model = applied.model
                    chosen, _ = self._chosen(model)
                    healed.append({key: applied.resolved[key] for key in ("kept", "loss", "mixing")})
        weights = {name: layer.weight.detach() for name, layer in chosen.items() if name not in skipped}
        return Applied(
            model.eval(),
            {
                "sparsity": sparsity(weights),
                "zeros": {name: int((weight == 0).sum()) for name, weight in weights.items()},
                "reordered": reordered,
                "skipped": skipped,
                "healed": healed,
            },
        )

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """Zeros are values, no structure: a copy as it is."""
        return copy.deepcopy(model).eval()

    def foresee(self, model: nn.Module, task: Task) -> nn.Module:
        """The network as it is."""
        return model

    def _misplaced(self, model: nn.Module, task: Task) -> list[Problem]:
        return misplaced(model, task) if self.saliency in RUNS else []

    def _chosen(self, model: nn.Module) -> tuple[dict[str, Weighted], dict[str, str]]:
        """The layers to make sparse, and why others stay."""
        found = weighted_layers(model, self.layers)
        if isinstance(self.pattern, Free):
            return found, {}
        odd = {
            name: f"its {layer.weight.shape[1]} inputs do not come in fours, so two of four cannot go"
            for name, layer in found.items()
            if layer.weight.shape[1] % M
        }
        return {name: layer for name, layer in found.items() if name not in odd}, odd

    @torch.no_grad()
    def _cut(
        self, model: nn.Module, chosen: dict[str, Weighted], task: Task, run: Run, done: float
    ) -> list[str]:
        """Set the weights that go by the share `done` of the work to zero, in place; the layers that cannot be judged."""
        if self.saliency is Saliency.OBS:
            return self._operate(model, chosen, task, run, done)
        scores = self._scores(model, chosen, task, run)
        if isinstance(self.pattern, TwoOfFour):
            masks = {name: keep_two_of_four(score) for name, score in scores.items()}
        else:
            ratio = cubic(self.pattern.ratio, done)
            if self.pattern.scope is Scope.GLOBAL:
                masks = keep_largest_of_all(scores, ratio)
            else:
                masks = {name: keep_largest(score, ratio) for name, score in scores.items()}
        for name, mask in masks.items():
            chosen[name].weight.masked_fill_(~mask, 0.0)  # a product would leave zeros with a sign
        return []

    def _scores(
        self, model: nn.Module, chosen: dict[str, Weighted], task: Task, run: Run
    ) -> dict[str, Tensor]:
        """What the removal of each weight is taken to cost; zero for those that are gone already."""
        if self.saliency is Saliency.MAGNITUDE:
            return {name: layer.weight.detach().abs() for name, layer in chosen.items()}
        if self.saliency is Saliency.RANDOM:
            generator = torch.Generator().manual_seed(run.seed)
            return {
                name: (torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device) + 1e-9)
                * (layer.weight.detach() != 0)
                for name, layer in chosen.items()
            }
        split = task.train.take(self.examples, seed=run.seed)
        names = [f"{name}.weight" for name in chosen]
        with torch.enable_grad():
            if self.saliency is Saliency.FISHER:
                curvature = fisher_diagonal(model, split, names, run)
            else:
                found = hutchinson_diagonal(model, split, names, run)
                curvature = {name: smoothed(diagonal) for name, diagonal in found.items()}
        return {
            name: obd(layer.weight.detach(), curvature[f"{name}.weight"]) for name, layer in chosen.items()
        }

    def _operate(
        self, model: nn.Module, chosen: dict[str, Weighted], task: Task, run: Run, done: float
    ) -> list[str]:
        """OBS, layer by layer, each on the inputs that it has in the network as it came; the layers that have none."""
        examples = task.train.take(self.examples, seed=run.seed)
        made: dict[str, Tensor] = {}  # put in place at the end, since every group sees the network as it came
        groups = in_groups(chosen, moment_room(model))
        for number, group in enumerate(groups):
            part = run.part(number / len(groups), (number + 1) / len(groups))
            hessians = input_hessians(model, examples, group, part.part(0.0, 0.5))
            part, reached = part.part(0.5, 1.0), list(hessians)
            for place, name in enumerate(reached):
                if run.seconds_left() <= 0:
                    raise OutOfTime(f"Sparsify ran out of time at {name}: give it fewer layers or more time")
                # Taken out, so that none are left when those of the next group are gathered.
                made[name] = self._operated(group[name].weight.detach(), hessians.pop(name), done)
                part.progress((place + 1) / len(reached), f"OBS of {name}")
        if not made:
            raise NetworkError(
                "no example reaches a linear layer or convolution, so OBS has nothing to judge by"
            )
        for name, weight in made.items():
            chosen[name].weight.copy_(weight)
        return [name for name in chosen if name not in made]

    def _operated(self, weight: Tensor, hessians: Tensor, done: float) -> Tensor:
        """The weight after OBS on each of its groups' outputs, `hessians` (groups, D, D) theirs."""
        if isinstance(self.pattern, TwoOfFour):
            choose, rounds = two_of_four(weight.shape[1]), 2
        else:
            choose, rounds = least_of_rows(cubic(self.pattern.ratio, done), OBS_ROUNDS), OBS_ROUNDS
        rows = weight.flatten(1).split(len(weight) // len(hessians))  # one part for each group
        parts = [
            surgeon(part, damped_inverse(hessian), choose, rounds)
            for part, hessian in zip(rows, hessians, strict=True)
        ]
        return torch.cat(parts).to(weight.dtype).reshape(weight.shape)


def obd(weight: Tensor, curvature: Tensor) -> Tensor:
    """½·h·w² (LeCun, Denker and Solla, 1990, "Optimal Brain Damage", eq. 4), h ≥ 0 of the same shape as w."""
    return 0.5 * curvature * weight.square()


def smoothed(diagonal: Tensor) -> Tensor:
    """|h|, h averaged over each kernel's positions: an estimated diagonal that can be divided or multiplied by.

    Yao et al. (2021), "AdaHessian", section 3.2. An estimate scatters around what it estimates by more than its size.
    Taken for zero where it falls below, as at a minimum it cannot, nearly half of the weights would go before all
    others, whatever they are: a ResNet-56 on Fashion-MNIST answered at random without half of its weights.
    """
    if diagonal.ndim > 2:
        diagonal = diagonal.mean(tuple(range(2, diagonal.ndim)), keepdim=True).expand_as(diagonal)
    return diagonal.abs()
