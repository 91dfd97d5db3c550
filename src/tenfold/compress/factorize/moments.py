"""The second moments of layers' inputs, of as many layers at a time as fit into the memory that they may take."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from tenfold.compress.factorize.candidates import Candidate
from tenfold.compress.prune.curvature import in_groups, input_hessians, moment_room
from tenfold.compress.technique import Run
from tenfold.data import Split
from tenfold.errors import NetworkError

GATHERING = 0.45  # share of going through the layers, as it is told: of seeing their inputs


class Moments:
    """E[x·xᵀ] of the inputs that the layers of `model` have on the examples; of none without examples.

    `model` must stay as it is, so that the inputs of a layer that comes late are those of the network as it came.
    """

    def __init__(self, model: nn.Module, examples: Split | None) -> None:
        self._model, self._examples = model, examples
        self._held: dict[str, Tensor] = {}
        self._room = moment_room(model)  # once, so that groups are the same whenever they are gone through

    def of(self, candidate: Candidate) -> Tensor | None:
        """(D, D) of the layer that `each` is at; None without examples."""
        return self._held.get(candidate.name)

    def each(self, found: list[Candidate], run: Run, work: str) -> Iterator[Candidate]:
        """Go through the layers, told as `work`, group by group; a group that is held already is not gathered anew."""
        groups = self._groups(found)
        for number, group in enumerate(groups):
            part = run.part(number / len(groups), (number + 1) / len(groups))
            if self._examples is not None and any(c.name not in self._held for c in group):
                self._gather(group, self._examples, part.part(0.0, GATHERING))
                part = part.part(GATHERING, 1.0)
            for done, candidate in enumerate(group):
                part.progress(done / len(group), f"{work} of {candidate.name}")
                yield candidate

    def _groups(self, found: list[Candidate]) -> list[list[Candidate]]:
        if self._examples is None:
            return [found]
        by_name = {c.name: c for c in found}
        groups = in_groups({c.name: c.layer for c in found}, self._room)
        return [[by_name[name] for name in group] for group in groups]

    def _gather(self, group: list[Candidate], examples: Split, run: Run) -> None:
        self._held.clear()  # before the next are gathered
        hessians = input_hessians(self._model, examples, {c.name: c.layer for c in group}, run)
        for c in group:
            if c.name not in hessians:
                raise NetworkError(f"{c.name}: no example reaches it, so its inputs are not known")
            self._held[c.name] = hessians[c.name][0].div_(2)
