"""`Tie`: several layers of a stack become one, as in ALBERT: fewer weights to keep, as much to compute."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.compress.technique import Applied, Json, Problem, Run, quantized
from tenfold.cost import Device, Inputs
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.naming import nearest


class Partition(Enum):
    """Which layers of a stack become one."""

    NEAREST = "nearest"  # neighbours whose weights lie nearest together
    EVEN = "even"  # groups of equal size


@dataclass(frozen=True)
class Tie:
    """Let the layers of each stack share the weights of `groups` different ones (Lan et al., 2020, "ALBERT").

    A stack is a run of two or more layers of the same class and shapes in a `ModuleList` or `Sequential`; `stacks`
    are patterns of the names of these containers. A group is a run of neighbours; it takes the mean of its members'
    kernels and matrices. Biases and norms, which are small and tell layers apart, stay each layer's own, unless
    `norms`. To be healed by a distillation after it.
    """

    groups: int = 1
    stacks: tuple[str, ...] = ()
    partition: Partition = Partition.NEAREST
    norms: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stacks", tuple(self.stacks))
        if not isinstance(self.groups, int) or self.groups < 1:
            raise ValueError(f"Tie: groups must be a whole number of at least 1, not {self.groups!r}")

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """No stack, patterns that match none, stacks that are no deeper than `groups`."""
        if already := quantized(model):
            return already
        found = stacks_of(model)
        problems = [
            Problem(
                pattern, f"matches no stack of equal layers{nearest(pattern, [name for name, _ in found])}"
            )
            for pattern in self.stacks
            if not any(fnmatchcase(name, pattern) for name, _ in found)
        ]
        if not problems and not self._chosen(model):
            why = "no stack of equal layers" if not found else f"no stack deeper than {self.groups} layers"
            problems.append(Problem("", f"the network has {why}, so Tie has nothing to do"))
        return problems

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """Part each stack into groups, and give the members of a group one weight, their mean."""
        groups: list[list[str]] = []
        for layers in self._chosen(model):
            vectors = torch.stack([self._vector(model.get_submodule(layer)) for layer in layers])
            if not bool(vectors.isfinite().all()):
                raise NetworkError(f"{layers[0]} and those like it: their weights hold NaN or inf")
            edges = nearest_runs(vectors, self.groups) if self.partition is Partition.NEAREST else None
            if edges is None:
                edges = [round(i * len(layers) / self.groups) for i in range(self.groups + 1)]
            groups += [layers[a:b] for a, b in pairwise(edges) if b - a > 1]
        if not groups:
            raise NetworkError("no stack of equal layers is deep enough to be tied")
        tied = self._tied(model, groups)
        with torch.no_grad():
            for group in groups:
                for path in self._shared(model.get_submodule(group[0])):
                    values = [model.get_submodule(layer).get_parameter(path).detach() for layer in group]
                    tied.get_submodule(group[0]).get_parameter(path).copy_(torch.stack(values).mean(0))
        return Applied(tied, {"groups": groups, "norms": self.norms})

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """Tie the same layers; the weights are loaded afterwards."""
        groups: Any = resolved.get("groups")
        plain = isinstance(groups, list) and all(
            isinstance(group, list) and group and all(isinstance(name, str) for name in group)
            for group in groups
        )
        if not plain:
            raise RecipeError("Tie: resolved must have 'groups', lists of names of layers")
        try:
            return self._tied(model, groups)
        except (AttributeError, NetworkError) as error:
            raise RecipeError(f"Tie: made for another network: {error}") from error

    def foresee(self, model: nn.Module, task: Task) -> nn.Module | None:
        """The tied network itself; None where weights are not finite, which `apply` says."""
        try:
            return self.apply(model, task, Run()).model
        except NetworkError:
            return None

    def _tied(self, model: nn.Module, groups: Sequence[Sequence[str]]) -> nn.Module:
        """A copy whose groups share their first member's parameters."""
        model = copy.deepcopy(model).eval()
        for group in groups:
            first = model.get_submodule(group[0])
            for name in group[1:]:
                other = model.get_submodule(name)
                for path in self._shared(first):
                    parameter, there = first.get_parameter(path), other.get_parameter(path)
                    if there.shape != parameter.shape:
                        raise NetworkError(f"{name}.{path} has another shape than {group[0]}'s")
                    owner, _, leaf = path.rpartition(".")
                    other.get_submodule(owner)._parameters[leaf] = parameter
        return model

    def _shared(self, layer: nn.Module) -> list[str]:
        return [name for name, p in layer.named_parameters() if self.norms or p.dim() > 1]

    def _vector(self, layer: nn.Module) -> Tensor:
        parameters = [layer.get_parameter(name).detach().double().flatten() for name in self._shared(layer)]
        return torch.cat(parameters)

    def _chosen(self, model: nn.Module) -> list[list[str]]:
        """The stacks, by the names of their layers, that match and are deeper than `groups`."""
        return [
            layers
            for name, layers in stacks_of(model)
            if len(layers) > self.groups
            and self._shared(model.get_submodule(layers[0]))
            and (not self.stacks or any(fnmatchcase(name, pattern) for pattern in self.stacks))
        ]


def _are_names(group: object) -> bool:
    return isinstance(group, list) and bool(group) and all(isinstance(name, str) for name in group)


def stacks_of(model: nn.Module) -> list[tuple[str, list[str]]]:
    """(container, its layers) for every run of two or more layers of one class and equal shapes, outermost only."""
    found: list[tuple[str, list[str]]] = []
    for path, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        if any(path.startswith(f"{layer}.") for _, layers in found for layer in layers):
            continue
        run: list[str] = []
        kind = None
        for leaf, child in module.named_children():
            own = _kind(child)
            if own is not None and own == kind:
                run.append(f"{path}.{leaf}" if path else leaf)
                continue
            if len(run) > 1:
                found.append((path, run))
            run, kind = [f"{path}.{leaf}" if path else leaf], own
        if len(run) > 1:
            found.append((path, run))
    return found


def _kind(layer: nn.Module) -> tuple[object, ...] | None:
    """What two layers must have in common; None for one without matrices or kernels of its own."""
    shapes = tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
    if not any(len(shape) > 1 for _, shape in shapes):
        return None
    return type(layer), shapes


def nearest_runs(vectors: Tensor, number: int) -> list[int]:
    """The edges of the `number` runs of neighbours with the least Σ‖vector − mean of its run‖², exactly.

    By dynamic programming over the place of the last run, as for k-means in one dimension.
    """
    count = len(vectors)
    number = min(number, count)
    spread = torch.full((count + 1, count + 1), float("inf"), dtype=torch.float64)
    for a in range(count):
        for b in range(a + 1, count + 1):
            part = vectors[a:b]
            spread[a, b] = (part - part.mean(0)).square().sum()
    cost, cuts = spread[0], []
    for _ in range(1, number):
        through = cost[:, None] + spread
        cuts.append(through.argmin(0))
        cost = through.min(0).values
    edges = [count]
    for cut in reversed(cuts):
        edges.append(int(cut[edges[-1]]))
    return sorted({0, *edges})
