"""Factorize: replace layers by several thinner ones whose product comes near to them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tenfold.compress.factorize.candidates import Candidate, candidates, matches
from tenfold.compress.factorize.factors import singular_values, unfold
from tenfold.compress.factorize.ranks import Cost, Energy, Share, energy_for_cost, rank_for
from tenfold.compress.factorize.structure import (
    CONVOLUTIONS,
    Layer,
    Price,
    channels,
    factorised,
    in_a_row,
    is_matrix,
    price,
)
from tenfold.compress.technique import Applied, Json, Problem, Run
from tenfold.cost import Device, Inputs
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError

Spectra = tuple[Tensor, ...]  # singular values: (matrix,) or (input unfolding, output unfolding)


@dataclass(frozen=True)
class Factorize:
    """Factorise linear layers and 1×1 convolutions by SVD, larger convolutions by Tucker-2.

    `keep` chooses ranks: `Energy(0.9)` or `Share(0.5)`. Ranks are rounded up to `multiple`, since processors work on
    8 or 16 channels at a time. `layers` are patterns of names ("layer3.*"); without any, all are looked at. A layer
    that would not become both smaller and cheaper stays, and so do grouped and depthwise ones.
    """

    keep: Energy | Share = Energy(0.9)  # noqa: RUF009 - frozen, so it may be shared
    layers: tuple[str, ...] = ()
    multiple: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.keep, (Energy, Share)):
            raise ValueError(f"Factorize: keep must be Energy(…) or Share(…), not {self.keep!r}")
        if isinstance(self.layers, str):
            raise ValueError(f"Factorize: layers must be a tuple of patterns, not the string {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))
        if not isinstance(self.multiple, int) or self.multiple < 1:
            raise ValueError(
                f"Factorize: multiple must be a whole number of at least 1, not {self.multiple!r}"
            )

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """Patterns that match no layer; layers named by a pattern that cannot be replaced; nothing to do at all."""
        names = [name for name, _ in model.named_modules() if name]
        problems = [
            Problem(pattern, "no layer has a name like this in Factorize.layers")
            for pattern in self.layers
            if not any(matches(name, (pattern,)) for name in names)
        ]
        found, skipped = candidates(model, task.zeros(2), self.layers)
        if self.layers:
            exact = [(name, reason) for name, reason in skipped.items() if name in self.layers]
            problems += [Problem(name, f"cannot be factorised: {reason}") for name, reason in exact]
        if not found and not problems:
            problems.append(
                Problem("", "no linear or convolutional layer can be factorised" + _first(skipped))
            )
        problems += [
            Problem(c.name, "its weight holds NaN or inf")
            for c in found
            if not bool(c.layer.weight.isfinite().all())
        ]
        return problems

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """Replace what becomes cheaper; `resolved` has the ranks by layer and the reason for each that stays."""
        model = copy.deepcopy(model).eval()
        found, skipped = candidates(model, task.zeros(2), self.layers)
        spectra: dict[str, Spectra] = {}
        for done, candidate in enumerate(found):
            if run.seconds_left() <= 0:
                raise NetworkError(
                    f"Factorize ran out of time at {candidate.name}: give it fewer layers or more time"
                )
            run.progress(done / (2 * len(found)), f"singular values of {candidate.name}")
            spectra[candidate.name] = spectra_of(candidate)
        ranks = self._ranks(found, spectra)
        for done, candidate in enumerate(found):
            run.progress(0.5 + done / (2 * len(found)), f"factors of {candidate.name}")
            if candidate.name in ranks:
                replace(model, candidate.name, factorised(candidate.layer, ranks[candidate.name]))
            else:
                skipped[candidate.name] = "at the ranks it needs it would not become both smaller and cheaper"
        before = _total(found, {})
        after = _total(found, ranks)
        return Applied(
            model,
            {
                "layers": {name: list(r) for name, r in ranks.items()},
                "skipped": skipped,
                "parameters": [before.parameters, after.parameters],
                "macs": [before.macs, after.macs],
            },
        )

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """The same structure from the ranks alone."""
        model = copy.deepcopy(model).eval()
        layers = resolved.get("layers")
        if not isinstance(layers, dict):
            raise RecipeError("Factorize: resolved must have 'layers', the ranks by name of layer")
        for name, ranks in layers.items():
            try:
                layer = model.get_submodule(name)
            except AttributeError as error:
                raise RecipeError(
                    f"{name}: the network has no such layer, which Factorize replaced"
                ) from error
            replace(model, name, in_a_row(_factorisable(name, layer, ranks), tuple(ranks)).eval())
        return model

    def _ranks(self, found: list[Candidate], spectra: dict[str, Spectra]) -> dict[str, tuple[int, ...]]:
        """{layer: its ranks}, for those alone that become smaller and cheaper."""

        def at(energy: float) -> dict[str, tuple[int, ...]]:
            wanted = {
                c.name: tuple(rank_for(values, energy, self.multiple) for values in spectra[c.name])
                for c in found
            }
            return {c.name: wanted[c.name] for c in found if _saves(c, wanted[c.name])}

        if isinstance(self.keep, Energy):
            return at(self.keep.share)

        def cost_at(energy: float) -> float:
            total = _total(found, at(energy))
            return total.parameters if of is Cost.PARAMETERS else total.macs

        of = self.keep.of
        whole = _total(found, {})
        most = self.keep.share * (whole.parameters if of is Cost.PARAMETERS else whole.macs)
        return at(energy_for_cost(cost_at, most))


def spectra_of(candidate: Candidate) -> Spectra:
    """The singular values that the layer's ranks are chosen by: one set for a matrix, two for a kernel."""
    weight = candidate.layer.weight.detach()
    if not bool(weight.isfinite().all()):
        raise NetworkError(f"{candidate.name}: its weight holds NaN or inf, so it cannot be factorised")
    if is_matrix(candidate.layer):
        return (singular_values(weight.flatten(1)),)
    return singular_values(unfold(weight, 1)), singular_values(unfold(weight, 0))


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the layer of this name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _saves(candidate: Candidate, ranks: tuple[int, ...]) -> bool:
    old = price(candidate.layer, candidate.places_in, candidate.places_out)
    new = price(candidate.layer, candidate.places_in, candidate.places_out, ranks)
    return new.parameters < old.parameters and new.macs < old.macs


def _total(found: list[Candidate], ranks: dict[str, tuple[int, ...]]) -> Price:
    prices = (price(c.layer, c.places_in, c.places_out, ranks.get(c.name)) for c in found)
    return sum(prices, Price(0, 0))


def _factorisable(name: str, layer: nn.Module, ranks: Any) -> Layer:
    """The layer, once it is sure that these ranks, which may come from a file, fit it."""
    if isinstance(layer, (nn.Linear, *CONVOLUTIONS)) and isinstance(ranks, list):
        into, out = channels(layer)
        most = [min(into, out)] if is_matrix(layer) else [into, out]
        grouped = getattr(layer, "groups", 1) > 1
        if len(ranks) == len(most) and not grouped:  # noqa: SIM102 - mypy narrows no further than this
            if all(type(rank) is int and 1 <= rank <= top for rank, top in zip(ranks, most, strict=True)):
                return layer
    raise RecipeError(f"{name}: ranks {ranks!r:.80} do not fit a {type(layer).__name__} in this network")


def _first(skipped: dict[str, str]) -> str:
    return next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
