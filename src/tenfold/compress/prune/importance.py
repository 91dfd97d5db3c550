"""How much each removable channel matters: by the size of its weights, or by what the loss would lose."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tenfold.compress.answers import task_loss
from tenfold.compress.prune.curvature import fisher_diagonal
from tenfold.compress.prune.graph import ChannelGraph, Family, Member
from tenfold.compress.technique import Run
from tenfold.cost import call
from tenfold.data import Task
from tenfold.errors import backward_reported
from tenfold.pacing import Pacer

Scores = dict[str, NDArray[np.float64]]  # family name -> one score a slot
BATCH = 64


class Criterion(Enum):
    """What a channel's score is."""

    MAGNITUDE = "magnitude"
    TAYLOR = "taylor"
    FISHER = "fisher"
    GEOMETRIC_MEDIAN = "geometric_median"
    RANDOM = "random"  # the trivial baseline


def importance(
    graph: ChannelGraph, model: nn.Module, criterion: Criterion, task: Task, run: Run, *, examples: int = 256
) -> Scores:
    """A score for every slot of every family that `model` still has; larger matters more.

    MAGNITUDE: the L2 norm of all weights that go with the slot (Li et al., 2017, "Pruning Filters for Efficient
    ConvNets", with coupled layers added up), in units of its family's mean. Needs no data.

    TAYLOR: the mean over examples of the squared first-order change of the loss if the channel became zero
    wherever a layer uses it, (Σ x·∂L/∂x)² over its places (Molchanov et al., 2019, "Importance Estimation for
    Neural Network Pruning", eq. 8, with a gate before each user). In units of the loss, so families compare.

    FISHER: Σ ½·h·w² over all weights that go with the slot, h of the diagonal empirical Fisher matrix: OBD (LeCun et
    al., 1990) for a whole channel. In units of the loss too; it takes each weight for itself, TAYLOR their sum.

    GEOMETRIC_MEDIAN: Σ of the distances from the slot's weights to those of all others (He et al., 2019, "Filter
    Pruning via Geometric Median", eq. 5): what lies in the middle of the others is the easiest to replace. In units
    of its family's mean. Needs no data.

    RANDOM: equal chances, by the run's seed.
    """
    if criterion is Criterion.MAGNITUDE:
        return _magnitude(graph, model)
    if criterion is Criterion.GEOMETRIC_MEDIAN:
        return _geometric_median(graph, model)
    if criterion is Criterion.FISHER:
        return _fisher(graph, model, task, run, examples)
    if criterion is Criterion.RANDOM:
        generator = np.random.default_rng(run.seed)
        return {family.name: generator.random(family.size) for family in present(graph, model)}
    return _taylor(graph, model, task, run, examples)


def present(graph: ChannelGraph, model: nn.Module) -> tuple[Family, ...]:
    """The families with a tensor in `model`: dropping blocks takes some away."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return tuple(family for family in graph.families if any(m.tensor in names for m in family.members))


def per_slot(family: Family, values: dict[str, Tensor]) -> NDArray[np.float64]:
    """Σ of `values` (one for each weight, by tensor name) over what goes with each slot."""
    total = np.zeros(family.size)
    for member in family.members:
        if member.tensor not in values:
            continue
        value = values[member.tensor]
        axes = [axis for axis in range(value.dim()) if axis != member.dim]
        along = (value.sum(axes) if axes else value).double().cpu().numpy()
        chosen = member.slots >= 0
        np.add.at(total, member.slots[chosen], along[chosen])
    return total


def _magnitude(graph: ChannelGraph, model: nn.Module) -> Scores:
    squares = {name: p.detach().float().square() for name, p in model.named_parameters()}
    scores: Scores = {}
    for family in present(graph, model):
        norm = np.sqrt(per_slot(family, squares))
        scores[family.name] = norm / max(norm.mean(), 1e-30)
    return scores


def _geometric_median(graph: ChannelGraph, model: nn.Module) -> Scores:
    parameters = {name: p.detach().double() for name, p in model.named_parameters()}
    scores: Scores = {}
    for family in present(graph, model):
        parts = []
        for member in family.members:
            chosen = np.flatnonzero(member.slots >= 0)
            if member.tensor not in parameters or len(chosen) % family.size:
                continue
            # The entries of each slot side by side; a slot may have several (a head's features, flattened places).
            order = torch.from_numpy(chosen[np.argsort(member.slots[chosen], kind="stable")])
            entries = parameters[member.tensor].movedim(member.dim, 0)[order]
            parts.append(entries.reshape(family.size, -1))
        vectors = torch.cat(parts, dim=1)
        away = torch.cdist(vectors, vectors).sum(1).numpy()
        scores[family.name] = away / max(away.mean(), 1e-30)
    return scores


def _fisher(graph: ChannelGraph, model: nn.Module, task: Task, run: Run, examples: int) -> Scores:
    families = present(graph, model)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    names = {m.tensor for family in families for m in family.members} & parameters.keys()
    split = task.train.take(examples, seed=run.seed)
    curvature = fisher_diagonal(model, split, sorted(names), run)
    cost = {name: 0.5 * h * parameters[name].square() for name, h in curvature.items()}
    return {family.name: per_slot(family, cost) for family in families}


def _taylor(graph: ChannelGraph, model: nn.Module, task: Task, run: Run, examples: int) -> Scores:
    network = copy.deepcopy(model).eval().requires_grad_(True)
    families = present(graph, network)
    scores: Scores = {family.name: np.zeros(family.size) for family in families}
    split = task.train.take(examples, seed=run.seed)
    done, pacer = 0, Pacer(run.seconds_left)
    with watched_gates(network, families) as gates:
        for _, inputs, targets in split.batches(BATCH):
            if done and not pacer.may_begin():
                break
            with pacer.one():
                network.zero_grad(set_to_none=True)
                gates.start(len(targets))
                # The sum over examples, so that each example's gradient is that of its own loss.
                loss = task_loss(call(network, inputs), targets) * len(targets)
                with backward_reported():
                    loss.backward()
                change = {
                    n: (p.detach() * p.grad).float()
                    for n, p in network.named_parameters()
                    if p.grad is not None
                }
                for family in families:
                    gate = gates.change.get(family.name)
                    if gate is not None:
                        scores[family.name] += gate.double().square().sum(0).cpu().numpy()
                    else:  # used by something else than a layer: the batch's change, through all weights that go
                        scores[family.name] += per_slot(family, change) ** 2
                done += len(targets)
            run.progress(done / len(split), "channel importance")
    return {name: score / max(done, 1) for name, score in scores.items()}


class Gates:
    """For each family the change of each example's loss (N, slots), summed over the layers that use it."""

    def __init__(self) -> None:
        self.examples = 0
        self.change: dict[str, Tensor] = {}

    def start(self, examples: int) -> None:
        """Begin a batch of `examples`."""
        self.examples = examples
        self.change.clear()

    def add(self, family: Family, member: Member, axis: int, x: Tensor, gradient: Tensor) -> None:
        """A layer used `x` (without its history), whose channels lie on `axis`."""
        change = (x * gradient).float().movedim(axis, -1)
        if change.shape[0] % self.examples:  # examples are not the leading dimension: take them together
            change = change.reshape(1, -1, change.shape[-1])
        change = change.reshape(min(self.examples, change.shape[0]), -1, change.shape[-1]).sum(1)
        chosen = torch.from_numpy(member.slots >= 0)
        slots = torch.from_numpy(member.slots[member.slots >= 0]).to(change.device)
        total = torch.zeros(len(change), family.size, device=change.device)
        total.index_add_(1, slots, change[:, chosen.to(change.device)])
        before = self.change.get(family.name)
        self.change[family.name] = total if before is None else before + total


@contextmanager
def watched_gates(network: nn.Module, families: Iterable[Family]) -> Iterator[Gates]:
    """Watch the inputs of every linear layer and convolution that uses a family's channels."""
    gates = Gates()
    users: dict[str, list[tuple[Family, Member]]] = {}
    for family in families:
        for member in family.members:
            path, _, name = member.tensor.rpartition(".")
            if member.consumed and name == "weight":
                users.setdefault(path, []).append((family, member))
    handles = []
    for path, module in network.named_modules():
        if path in users and isinstance(module, (nn.Linear, _ConvNd)):
            axis = -1 if isinstance(module, nn.Linear) else 1

            def watch(_: nn.Module, args: Any, uses: Any = users[path], axis: int = axis) -> None:
                x = args[0]
                if x.requires_grad:
                    # A hook that holds what it hangs on is never freed, and with it all activations of the batch.
                    seen = x.detach()
                    for family, member in uses:
                        x.register_hook(lambda g, f=family, m=member: gates.add(f, m, axis, seen, g))

            handles.append(module.register_forward_pre_hook(watch))
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()
