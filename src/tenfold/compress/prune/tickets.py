"""Lottery tickets: do some weights of a network, at the values they began with, train as well alone as all together?

Iterative magnitude pruning with rewinding (Frankle and Carbin, 2019, "The Lottery Ticket Hypothesis"): train, cut the
smallest of the weights that are left, set the others back to where they were early in training, and train again.
Rewinding to a step after the first is what larger networks need (Frankle et al., 2020, "Linear Mode Connectivity and
the Lottery Ticket Hypothesis"). An experiment, no technique: it costs as many trainings as rounds, and shows whether
the values matter only beside its controls of the same size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from tenfold.compress.layers import unmatched, weighted_layers
from tenfold.compress.prune.masks import keep_largest_of_all
from tenfold.errors import NetworkError

Teach = Callable[[nn.Module, int, int], object]  # (network, from this step, to this step): trains it in place
Score = Callable[[nn.Module], float]


class Kind(Enum):
    """What a trained network began as."""

    DENSE = "dense"  # all weights
    TICKET = "ticket"  # those that were largest once trained, at their early values
    REINITIALISED = "reinitialised"  # the same places, at values drawn anew
    RANDOM_PLACES = "random places"  # as many in each layer, drawn by chance, at their early values


@dataclass(frozen=True)
class Ticket:
    """One training: the share of the weights that was there, what it scored, and the trained network."""

    kind: Kind
    round: int
    density: float
    score: float
    model: nn.Module


def lottery(
    network: nn.Module,
    teach: Teach,
    score: Score,
    *,
    steps: int,
    rounds: int,
    cut: float = 0.5,
    rewind: int = 0,
    fresh: Callable[[], nn.Module] | None = None,
    controls: Iterable[int] | None = None,
    layers: tuple[str, ...] = (),
    seed: int = 0,
) -> Iterator[Ticket]:
    """The dense network, then in each round the ticket and its controls, each as soon as it is trained.

    `network` holds its random weights and is not changed. `teach` must take the same steps whenever it is asked for
    the same stretch. Each round cuts the share `cut` of the weights left, wherever in `layers` (patterns; all linear
    layers and convolutions without any) they stand, and goes back to step `rewind`. `fresh` draws a network anew; without
    it that control is left out. `controls` are the rounds that have controls: all if not given. Random
    reinitialisation trains all `steps`, since its weights have none of the early ones behind them.
    """
    if not (0 <= rewind < steps and rounds >= 1 and 0.0 < cut < 1.0):
        raise ValueError(
            f"a lottery needs 0 <= rewind < steps, a round, and a cut between 0 and 1, not rewind {rewind}, "
            f"steps {steps}, rounds {rounds} and cut {cut}"
        )
    if not weighted_layers(network, layers) or unmatched(network, layers):
        raise NetworkError(f"no linear layer or convolution to cut weights of{_named(layers)}")
    early = copy.deepcopy(network)
    if rewind:
        teach(early, 0, rewind)
    trained = copy.deepcopy(early)
    teach(trained, rewind, steps)
    yield Ticket(Kind.DENSE, 0, 1.0, score(trained), trained)
    masks = {
        name: torch.ones_like(layer.weight, dtype=torch.bool)
        for name, layer in weighted_layers(trained, layers).items()
    }
    with_controls = set(range(1, rounds + 1) if controls is None else controls)
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, rounds + 1):
        masks = smaller(trained, masks, 1 - (1 - cut) ** number)
        density = kept_share(masks)
        trained = _trained(early, masks, teach, rewind, steps)
        yield Ticket(Kind.TICKET, number, density, score(trained), trained)
        if number not in with_controls:
            continue
        if fresh is not None:
            again = _trained(fresh().to(_device(network)), masks, teach, 0, steps)
            yield Ticket(Kind.REINITIALISED, number, density, score(again), again)
        chance = _trained(early, shuffled(masks, generator), teach, rewind, steps)
        yield Ticket(Kind.RANDOM_PLACES, number, density, score(chance), chance)


def smaller(trained: nn.Module, masks: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Masks within `masks` that keep all but the share `ratio` of the weights, the largest of all layers together."""
    layers = weighted_layers(trained, masks)
    # What is gone ranks below any weight that is there, one that trained to zero included.
    scores = {
        name: layers[name].weight.detach().abs().masked_fill(~mask, -1.0) for name, mask in masks.items()
    }
    return keep_largest_of_all(scores, ratio)


def shuffled(masks: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """As many places in each layer, drawn by chance."""
    made = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
        made[name] = mask.flatten()[order].reshape(mask.shape)
    return made


def kept_share(masks: Mapping[str, Tensor]) -> float:
    """The share of the weights that the masks keep."""
    return sum(int(mask.sum()) for mask in masks.values()) / max(
        sum(mask.numel() for mask in masks.values()), 1
    )


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Set what the masks cut to zero, and while it lasts give it no gradient.

    A rule without memory of before leaves it at zero: plain weight decay and momentum do.
    """
    layers, handles = weighted_layers(model, masks), []
    for name, mask in masks.items():
        weight = layers[name].weight
        with torch.no_grad():
            weight.masked_fill_(~mask, 0.0)
        handles.append(weight.register_hook(lambda gradient, mask=mask: gradient.masked_fill(~mask, 0.0)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _trained(
    start: nn.Module, masks: Mapping[str, Tensor], teach: Teach, first: int, steps: int
) -> nn.Module:
    model = copy.deepcopy(start)
    with masked(model, masks):
        teach(model, first, steps)
    return model


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _named(layers: tuple[str, ...]) -> str:
    return f" is named {', '.join(layers)}" if layers else ""
