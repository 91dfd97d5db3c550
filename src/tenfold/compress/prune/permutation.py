"""Channel permutations for 2:4 sparsity: which input channels stand in fours decides how much the pattern costs.

Swapping channels of a family (everything that makes or reads them alike) changes no answer, so the order that keeps
most magnitude is free at run time. Source: Pool and Yu (2021), "Channel Permutations for N:M Sparsity".
Shapes: R rows (outputs × kernel positions of every reader), C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import combinations

import torch
from torch import Tensor, nn

from tenfold.compress.prune.graph import ChannelGraph, Family
from tenfold.compress.prune.masks import M
from tenfold.compress.prune.narrowing import Narrowing
from tenfold.cost import Inputs, call

EXACT = 12  # channels up to which every grouping is looked at: 5,775 of them
SWEEPS = 10
GAIN = 1e-6  # of the magnitude, below which a regrouping is not worth making


def retained(magnitude_RC: Tensor, order: list[int]) -> float:
    """Σ of the two largest of every four, with the channels in this order."""
    grouped = magnitude_RC[:, order].reshape(len(magnitude_RC), -1, M)
    return float(grouped.topk(2, dim=-1).values.sum())


def best_order(
    magnitude_RC: Tensor,
    go_on: Callable[[], bool] = lambda: True,
    progress: Callable[[float], None] = lambda share: None,
) -> list[int]:
    """An order of channels that retains much under 2:4: the best one up to `EXACT` channels, else never worse than none.

    Larger widths regroup the eight channels of two fours in the best of the 35 ways, pair after pair, until no pair
    gains. A pair is looked at again only once one of its fours has changed. Ends early where `go_on` says so.
    """
    channels = magnitude_RC.shape[1]
    if channels % M:
        raise ValueError(f"{channels} channels do not come in fours")
    order = list(range(channels))
    magnitude_CR = magnitude_RC.T.float().contiguous()
    if channels <= EXACT:
        return _regrouped(magnitude_CR, order)
    changes = [0] * (channels // M)  # of each four
    seen: dict[tuple[int, int], tuple[int, int]] = {}  # the changes of a pair when it was last looked at
    pairs, looked = len(changes) * (len(changes) - 1) // 2, 0
    for _ in range(SWEEPS):
        gained = False
        for a, b in combinations(range(channels // M), 2):
            if seen.get((a, b)) == (changes[a], changes[b]):
                continue
            if not go_on():
                return order
            looked += 1
            progress(looked / (looked + pairs))  # how many sweeps it takes is not known
            places = [*range(M * a, M * a + M), *range(M * b, M * b + M)]
            before = [order[place] for place in places]
            after = _regrouped(magnitude_CR, before)
            if after != before:
                gained = True
                changes[a] += 1
                changes[b] += 1
                for place, channel in zip(places, after, strict=True):
                    order[place] = channel
            seen[a, b] = changes[a], changes[b]
        if not gained:
            break
    return order


def _regrouped(magnitude_CR: Tensor, channels: list[int]) -> list[int]:
    """The best grouping of these few channels in fours; as they stand unless another gains."""
    groups = list(combinations(range(len(channels)), M))
    place = {group: i for i, group in enumerate(groups)}
    fours = torch.tensor(channels)[torch.tensor(groups).T]
    worth = two_largest(*(magnitude_CR[part] for part in fours)).sum(1, dtype=torch.float64)
    options = _groupings(len(channels))
    totals = worth[torch.tensor([[place[group] for group in option] for option in options])].sum(1)
    best = int(totals.argmax())
    if float(totals[best]) <= float(totals[0]) * (1 + GAIN):  # the first option is the order as it is
        return channels
    return [channels[i] for group in options[best] for i in group]


def two_largest(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The sum of the two largest of four, place by place, by comparisons alone: several times faster than sorting."""
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    high_, low_ = torch.maximum(c, d), torch.minimum(c, d)
    second = torch.maximum(torch.minimum(high, high_), torch.maximum(low, low_))
    return torch.maximum(high, high_) + second


@cache
def _groupings(number: int) -> list[tuple[tuple[int, ...], ...]]:
    """Every way to part 0 … number−1 into fours, those in order first."""

    def parted(left: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
        if not left:
            yield ()
            return
        first, rest = left[0], left[1:]
        for others in combinations(rest, M - 1):
            for more in parted(tuple(i for i in rest if i not in others)):
                yield ((first, *others), *more)

    return list(parted(tuple(range(number))))


def permuted(
    model: nn.Module,
    graph: ChannelGraph,
    readers: Mapping[str, nn.Module],
    inputs: Inputs,
    go_on: Callable[[], bool] = lambda: True,
    progress: Callable[[float, str], None] = lambda share, name: None,
) -> tuple[nn.Module, list[str]]:
    """A copy of `model` whose channels stand better for 2:4 in the layers `readers`, and the families reordered.

    Its answers equal the original's up to rounding, or it is not used: a family that the network's code does not
    allow to be reordered is left as it is.
    """
    with torch.no_grad():
        wanted = call(model, inputs)
    changed: list[str] = []
    sizes = {family.name: _work(_magnitude(model, family, readers)) for family in graph.families}
    whole, before = max(1.0, sum(sizes.values())), 0.0
    for family in graph.families:
        magnitude = _magnitude(model, family, readers)
        if magnitude is None or not go_on():
            continue
        order = best_order(
            magnitude, go_on, _share_of(progress, family.name, before, sizes[family.name], whole)
        )
        before += sizes[family.name]
        if order == list(range(family.size)):
            continue
        candidate = reordered(model, family, order).eval()
        with torch.no_grad():
            moved = (call(candidate, inputs) - wanted).abs().max()
        if float(moved) <= 1e-3 * float(wanted.abs().max()):
            model = candidate
            changed.append(family.name)
    return model, changed


def _work(magnitude_RC: Tensor | None) -> float:
    """How long `best_order` takes, up to a constant."""
    return 0.0 if magnitude_RC is None else float(magnitude_RC.shape[0] * magnitude_RC.shape[1] ** 2)


def _share_of(
    progress: Callable[[float, str], None], name: str, before: float, work: float, whole: float
) -> Callable[[float], None]:
    """The progress of one family's order as that of all."""
    return lambda share: progress((before + share * work) / whole, name)


def reordered(model: nn.Module, family: Family, order: list[int]) -> nn.Module:
    """A copy in which slot i of the family is what slot order[i] was, in everything that has a share in it."""
    indices: dict[str, dict[int, list[int]]] = {}
    for member in family.members:
        slots = member.slots.tolist()
        places: dict[int, list[int]] = {}
        for place, slot in enumerate(slots):
            places.setdefault(slot, []).append(place)
        taken: dict[int, int] = {}
        kept = []
        for place, slot in enumerate(slots):
            if slot < 0:
                kept.append(place)
                continue
            nth = taken[slot] = taken.get(slot, -1) + 1
            kept.append(places[order[slot]][nth])
        indices.setdefault(member.tensor, {})[member.dim] = kept
    return Narrowing(indices, {}).apply(model)


def _magnitude(model: nn.Module, family: Family, readers: Mapping[str, nn.Module]) -> Tensor | None:
    """(R, C) of all layers that read the family's channels one for one; None where there is none."""
    rows = []
    for member in family.members:
        layer, _, leaf = member.tensor.rpartition(".")
        if layer not in readers or leaf != "weight" or member.dim != 1:
            continue
        slots = member.slots.tolist()
        if sorted(slots) != list(range(family.size)) or family.size % M:
            return None
        place = torch.tensor(slots).argsort()
        weight = model.get_parameter(member.tensor).detach()
        rows.append(weight.movedim(1, -1).reshape(-1, weight.shape[1])[:, place].abs().double())
    return torch.cat(rows) if rows else None
