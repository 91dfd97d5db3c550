"""Factorize: replace layers by several thinner ones whose product comes near to them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tenfold.compress.factorize.candidates import Candidate, candidates, matches
from tenfold.compress.factorize.forms import Form, Kernels, Linears, Spectra, form_of, why_no_form
from tenfold.compress.factorize.moments import Moments
from tenfold.compress.factorize.ranks import Cost, Energy, Share, Vbmf, energy_for_cost, rank_for, vbmf_rank
from tenfold.compress.factorize.structure import CONVOLUTIONS, Layer, Price, price
from tenfold.compress.technique import Applied, Json, Problem, Run, misplaced, quantized, unrunnable
from tenfold.cost import Device, Inputs
from tenfold.data import Task
from tenfold.errors import NetworkError, OutOfTime, RecipeError

MIDDLE = 0.65  # share of the work, as it is told, before ranks are chosen, where inputs are looked at


@dataclass(frozen=True)
class Factorize:
    """Factorise linear layers and 1×1 convolutions by SVD, larger ones by Tucker-2, one SVD, CP or a tensor train.

    `keep` chooses ranks: `Energy(0.9)`, `Share(0.5)` or `Vbmf()`. Ranks are rounded up to `multiple`, since processors
    work on 8 or 16 channels at a time. `kernels` says what larger convolutions become, `linears` what linear layers do
    (a tensor train gains by small ranks: give `multiple` 1). With `activations`, so many training examples say which
    inputs matter: each layer's output error is minimised, not its weights' (then kernels become two layers, by one SVD,
    as they do with `Kernels.SVD`); they are gone through again for every 4 GiB, or quarter of the free memory if that is
    less, that the second moments of the inputs take. `layers` are patterns of names ("layer3.*"); without any, all are
    looked at. A layer that would not become both smaller and cheaper stays, and so do grouped and depthwise ones.
    """

    keep: Energy | Share | Vbmf = Energy(0.9)  # noqa: RUF009 - frozen, so it may be shared
    layers: tuple[str, ...] = ()
    multiple: int = 8
    kernels: Kernels = Kernels.TUCKER
    activations: int = 0
    linears: Linears = Linears.SVD

    def __post_init__(self) -> None:
        if not isinstance(self.keep, (Energy, Share, Vbmf)):
            raise ValueError(f"Factorize: keep must be Energy(…), Share(…) or Vbmf(), not {self.keep!r}")
        for name, forms in (("kernels", Kernels), ("linears", Linears)):
            if not isinstance(getattr(self, name), forms):
                raise ValueError(
                    f"Factorize: {name} must be one of {', '.join(map(str, forms))}, not {getattr(self, name)!r}"
                )
        if not isinstance(self.activations, int) or self.activations < 0:
            raise ValueError(
                f"Factorize: activations must be a whole number of at least 0, not {self.activations!r}"
            )
        if self.activations and self.kernels not in (Kernels.TUCKER, Kernels.SVD):
            raise ValueError(f"Factorize: activations go with no kernels of the form {self.kernels.value}")
        if self.activations and self.linears is not Linears.SVD:
            raise ValueError(f"Factorize: activations go with no linears of the form {self.linears.value}")
        if isinstance(self.layers, str):
            raise ValueError(f"Factorize: layers must be a tuple of patterns, not the string {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))
        if not isinstance(self.multiple, int) or self.multiple < 1:
            raise ValueError(
                f"Factorize: multiple must be a whole number of at least 1, not {self.multiple!r}"
            )

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """Patterns that match no layer, layers named that cannot be replaced, nothing to do, a share out of reach."""
        if already := quantized(model):
            return already
        names = [name for name, _ in model.named_modules() if name]
        problems = [
            Problem(pattern, "no layer has a name like this in Factorize.layers")
            for pattern in self.layers
            if not any(matches(name, (pattern,)) for name in names)
        ]
        stuck = misplaced(model, task) or unrunnable(model, task)
        if stuck:
            return problems + stuck
        found, skipped = self._candidates(model, task)
        if self.layers:
            exact = [(name, reason) for name, reason in skipped.items() if name in self.layers]
            problems += [Problem(name, f"cannot be factorised: {reason}") for name, reason in exact]
        if not found and not problems:
            problems.append(
                Problem("", "no linear or convolutional layer can be factorised" + _first(skipped))
            )
        problems += [Problem("", text) for text in self._out_of_reach(found)]
        problems += [
            Problem(c.name, "its weight holds NaN or inf")
            for c in found
            if not bool(c.layer.weight.isfinite().all())
        ]
        return problems

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """Replace what becomes cheaper; `resolved` has the ranks by layer and the reason for each that stays."""
        model = copy.deepcopy(model).eval()
        found, skipped = self._candidates(model, task)
        for text in self._out_of_reach(found):
            raise NetworkError(text)
        examples = task.train.take(self.activations, seed=run.seed) if self.activations else None
        moments = Moments(model, examples)
        spectra = self._spectra(found, moments, run.part(0.0, MIDDLE if examples else 0.5))
        ranks = self._ranks(found, spectra)
        run = run.part(MIDDLE if examples else 0.5, 1.0)
        made: dict[str, nn.Module] = {}  # put in place at the end: `moments` needs the network as it came
        for c in moments.each([c for c in found if c.name in ranks], run, "factors"):
            made[c.name] = self._form(c.layer).factorised(c.layer, ranks[c.name], moments.of(c))
        for candidate in found:
            if candidate.name in made:
                replace(model, candidate.name, made[candidate.name])
            else:
                skipped[candidate.name] = "at the ranks it needs it would not become both smaller and cheaper"
        before = self._total(found, {})
        after = self._total(found, ranks)
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
            fitting = self._factorisable(name, layer, ranks)
            replace(model, name, self._form(fitting).row(fitting, tuple(ranks)).eval())
        return model

    def _form(self, layer: Layer) -> Form:
        return form_of(layer, self.kernels, self.linears, bool(self.activations))

    def _candidates(self, model: nn.Module, task: Task) -> tuple[list[Candidate], dict[str, str]]:
        """Those that can take their form, and the reason for each that cannot."""
        found, skipped = candidates(model, task.zeros(2), self.layers)
        for candidate in found:
            reason = why_no_form(candidate.layer, self.kernels)
            if reason:
                skipped[candidate.name] = reason
        return [candidate for candidate in found if candidate.name not in skipped], skipped

    def _spectra(self, found: list[Candidate], moments: Moments, run: Run) -> dict[str, Spectra]:
        """What each layer's ranks are chosen by."""
        spectra: dict[str, Spectra] = {}
        for c in moments.each(found, run, "singular values"):
            if run.seconds_left() <= 0:
                raise OutOfTime(f"Factorize ran out of time at {c.name}: give it fewer layers or more time")
            if not bool(c.layer.weight.isfinite().all()):
                raise NetworkError(f"{c.name}: its weight holds NaN or inf, so it cannot be factorised")
            spectra[c.name] = self._form(c.layer).spectra(c.layer, moments.of(c))
        return spectra

    def _ranks(self, found: list[Candidate], spectra: dict[str, Spectra]) -> dict[str, tuple[int, ...]]:
        """{layer: its ranks}, for those alone that become smaller and cheaper."""

        def fitted(choose: Callable[[Tensor, int], int]) -> dict[str, tuple[int, ...]]:
            wanted = {}
            for c in found:
                form = self._form(c.layer)
                chosen = tuple(choose(values, long) for values, long in spectra[c.name])
                pairs = zip(form.ranks(c.layer, chosen), form.largest(c.layer), strict=True)
                wanted[c.name] = tuple(min(rank, top) for rank, top in pairs)
            return {c.name: wanted[c.name] for c in found if self._saves(c, wanted[c.name])}

        def at(energy: float) -> dict[str, tuple[int, ...]]:
            return fitted(lambda values, long: rank_for(values, energy, self.multiple))

        if isinstance(self.keep, Vbmf):
            return fitted(lambda values, long: vbmf_rank(values, long, self.multiple))
        if isinstance(self.keep, Energy):
            return at(self.keep.share)

        def cost_at(energy: float) -> float:
            return self._cost(found, at(energy), of)

        of = self.keep.of
        return at(energy_for_cost(cost_at, self.keep.share * self._cost(found, {}, of)))

    def _out_of_reach(self, found: list[Candidate]) -> list[str]:
        """That not even the lowest ranks keep as little as the share asked for, where that is so."""
        if not isinstance(self.keep, Share) or not found:
            return []
        lowest = {
            c.name: tuple(min(self.multiple, top) for top in self._form(c.layer).largest(c.layer))
            for c in found
        }
        lowest = {c.name: lowest[c.name] for c in found if self._saves(c, lowest[c.name])}
        of = self.keep.of
        least, whole = (self._cost(found, ranks, of) for ranks in (lowest, {}))
        if least <= self.keep.share * whole:
            return []
        smaller = ", or a smaller multiple" if self.multiple > 1 else ""
        return [
            f"cannot keep {self.keep.share:.2%} of the {of.value}: ranks of {self.multiple} everywhere still keep "
            f"{math.ceil(1e4 * least / whole) / 1e4:.2%}; give at least that{smaller}"
        ]

    def _cost(self, found: list[Candidate], ranks: dict[str, tuple[int, ...]], of: Cost) -> int:
        total = self._total(found, ranks)
        return total.parameters if of is Cost.PARAMETERS else total.macs

    def _price(self, candidate: Candidate, ranks: tuple[int, ...] | None) -> Price:
        places = candidate.places_in, candidate.places_out
        if ranks is None:
            return price(candidate.layer, *places)
        return self._form(candidate.layer).price(candidate.layer, *places, ranks)

    def _saves(self, candidate: Candidate, ranks: tuple[int, ...]) -> bool:
        old, new = self._price(candidate, None), self._price(candidate, ranks)
        return new.parameters < old.parameters and new.macs < old.macs

    def _total(self, found: list[Candidate], ranks: dict[str, tuple[int, ...]]) -> Price:
        return sum((self._price(c, ranks.get(c.name)) for c in found), Price(0, 0))

    def _factorisable(self, name: str, layer: nn.Module, ranks: Any) -> Layer:
        """The layer, once it is sure that these ranks, which may come from a file, fit it."""
        if isinstance(layer, (nn.Linear, *CONVOLUTIONS)) and isinstance(ranks, list):
            fits = getattr(layer, "groups", 1) == 1 and why_no_form(layer, self.kernels) is None
            most = self._form(layer).largest(layer) if fits else ()
            if fits and len(ranks) == len(most):  # noqa: SIM102 - mypy narrows no further than this
                if all(type(rank) is int and 1 <= rank <= top for rank, top in zip(ranks, most, strict=True)):
                    return layer
        raise RecipeError(f"{name}: ranks {ranks!r:.80} do not fit a {type(layer).__name__} in this network")


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the layer of this name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _first(skipped: dict[str, str]) -> str:
    return next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
