"""`Shorten`: a shallower student that begins with some of the teacher's own layers, as DistilBERT does."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tenfold.compress.share.tying import stacks_of
from tenfold.compress.technique import Applied, Json, Problem, Run, apart, misplaced, quantized
from tenfold.cost import Device, Inputs, call
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.naming import described, nearest


@dataclass(frozen=True)
class Shorten:
    """Keep the share `keep` of the layers of each stack, evenly spaced, and leave out the others.

    Layer-wise initialisation of a shallower student (Sanh et al., 2019, "DistilBERT", section 3): every other layer of
    the teacher is a better start than the first half, or than none. A stack is a run of layers of the same class and
    shapes in a `ModuleList` or `Sequential`; `stacks` are patterns of these containers' names. To be healed by a
    distillation after it.
    """

    keep: float = 0.5
    stacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stacks", tuple(self.stacks))
        if not 0.0 < self.keep < 1.0:
            raise ValueError(f"Shorten: keep must be between 0 and 1, not {self.keep!r}")

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """No stack of equal layers, or patterns that match none."""
        if already := quantized(model):
            return already
        found = [name for name, _ in stacks_of(model)]
        problems = [
            Problem(pattern, f"matches no stack of equal layers{nearest(pattern, found)}")
            for pattern in self.stacks
            if not any(fnmatchcase(name, pattern) for name in found)
        ]
        if not problems and not self._gone(model):
            problems.append(Problem("", "no stack of equal layers can be shortened so far"))
        return problems or misplaced(model, task)

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """Leave layers out and see that the network still runs."""
        gone = self._gone(model)
        if not gone:
            raise NetworkError("no stack of equal layers can be shortened so far")
        short, renamed = without(model, gone)
        inputs = task.example(2)  # a mask of zeros would leave nothing to see
        try:
            with torch.no_grad():
                answer = call(short, inputs)
        except Exception as error:  # whatever the user's forward raises
            text = apart(short, inputs) or f"the network does not run without {gone[0]}: {described(error)}"
            raise NetworkError(text) from error
        if not bool(answer.isfinite().all()):
            raise NetworkError(f"without {gone[0]} the network's answers are not finite")
        return Applied(short, {"gone": gone}, renamed)

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """Leave the same layers out."""
        gone: Any = resolved.get("gone")
        if not isinstance(gone, list) or not all(isinstance(name, str) for name in gone):
            raise RecipeError("Shorten: resolved must have 'gone', the names of layers left out")
        return without(model, gone)[0]

    def foresee(self, model: nn.Module, task: Task) -> nn.Module:
        """The shorter network itself."""
        return without(model, self._gone(model))[0]

    def _gone(self, model: nn.Module) -> list[str]:
        gone = []
        for name, layers in stacks_of(model):
            if self.stacks and not any(fnmatchcase(name, pattern) for pattern in self.stacks):
                continue
            kept = {layers[place] for place in evenly(len(layers), max(1, round(self.keep * len(layers))))}
            gone += [layer for layer in layers if layer not in kept]
        return gone


def evenly(count: int, number: int) -> list[int]:
    """`number` of the places 0 … count−1, the first and the last among them, the others evenly between."""
    if number == 1:
        return [0]
    return [math.floor(i * (count - 1) / (number - 1) + 0.5) for i in range(number)]


def without(model: nn.Module, gone: list[str]) -> tuple[nn.Module, dict[str, str]]:
    """A copy without these members of `ModuleList`s and `Sequential`s, whose numbered members are numbered anew.

    With the former name of each module that has another now.
    """
    short = copy.deepcopy(model).eval()
    modules = dict(short.named_modules())
    before = {id(module): name for name, module in modules.items()}
    parents = dict.fromkeys(name.rpartition(".")[0] for name in gone)
    for path in parents:
        container = modules.get(path)
        leaves = {name.rpartition(".")[2] for name in gone if name.rpartition(".")[0] == path}
        if (
            not isinstance(container, (nn.ModuleList, nn.Sequential))
            or not leaves <= container._modules.keys()
        ):
            raise RecipeError(
                f"the network has no stack {path!r} with the layers {', '.join(sorted(leaves))}"
            )
        left = [(leaf, child) for leaf, child in container._modules.items() if leaf not in leaves]
        numbered = all(leaf.isdigit() for leaf, _ in left)
        container._modules = OrderedDict(
            (str(place) if numbered else leaf, child) for place, (leaf, child) in enumerate(left)
        )
    after = {name: before[id(module)] for name, module in short.named_modules()}
    return short, {name: former for name, former in after.items() if former != name}
