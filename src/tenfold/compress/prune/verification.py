"""Does the user's own module, narrowed, answer as the masked original does? Checked on random weights.

A network may hold a size that no attribute names. Rather than trust the graph, each kind of family is narrowed
once and run; what fails or answers otherwise is frozen, with the reason.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import Node

from tenfold.compress.prune.graph import ChannelGraph, Family
from tenfold.compress.prune.program import Program, TensorOutputs, operator_name
from tenfold.cost import Inputs, as_args, map_inputs

TOLERANCE = 1e-3  # of the largest answer, in float32, on random weights; a wrong channel shows as about 1


def without_unsound(graph: ChannelGraph, model: nn.Module, inputs: Inputs) -> ChannelGraph:
    """`graph` with the kinds of families that cannot be narrowed moved to `frozen`."""
    network = scrambled(model)
    probe = finite_inputs(graph.program, network, inputs)
    if not graph.families or mismatch(graph, graph.families, network, probe) is None:
        return graph
    kinds: dict[tuple[str, ...], list[Family]] = {}
    for family in graph.families:
        kinds.setdefault(family.kind, []).append(family)
    sound: list[Family] = []
    frozen = dict(graph.frozen)
    for families in kinds.values():
        problem = mismatch(graph, [*sound, *families], network, probe)
        if problem is None:
            sound += families
        else:
            frozen.update({family.name: problem for family in families})
    return replace(graph, families=tuple(f for f in graph.families if f in sound), frozen=frozen)


def mismatch(
    graph: ChannelGraph, families: Iterable[Family], network: nn.Module, inputs: Inputs
) -> str | None:
    """Drop every second slot of these families; why the narrowed network is wrong, or None if it is right."""
    kept = {family.name: range(0, family.size, 2) for family in families}
    expected = graph.reference(kept, network, inputs)
    args, kwargs = as_args(inputs)
    try:
        with torch.no_grad():
            answers = TensorOutputs(graph.narrow(network, kept)).eval()(*args, **kwargs)
    except Exception as error:  # whatever the user's forward raises when a size does not fit
        return f"its code does not run when narrowed ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
    for answer, wanted in zip(answers, expected, strict=True):
        if answer.shape != wanted.shape or not same(answer, wanted):
            return "its code answers otherwise when narrowed (a size or an index is written into it)"
    return None


def same(answer: Tensor, wanted: Tensor) -> bool:
    """Equal up to `TOLERANCE` of the largest value."""
    if not wanted.is_floating_point():
        return bool((answer == wanted).all())
    scale = wanted.abs().max().item()
    return math.isfinite(scale) and (answer - wanted).abs().max().item() <= TOLERANCE * max(scale, 1e-12)


def scrambled(model: nn.Module) -> nn.Module:
    """A copy in eval mode with random weights and statistics, so that no branch is silent (a zero-initialised
    norm, a layer scale of 1e-6) and every channel counts."""
    network = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)

    def normal(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() >= 2:
                fan_in = parameter.numel() / parameter.shape[0]
                parameter.copy_(normal(parameter) / max(fan_in, 1.0) ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * normal(parameter))
            else:
                parameter.copy_(1 + 0.2 * normal(parameter).clamp(-2, 2))
        for module in network.modules():
            mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(mean, Tensor) and isinstance(variance, Tensor):
                mean.copy_(0.1 * normal(mean))
                variance.copy_(1 + 0.2 * normal(variance).clamp(-2, 2))
    return network


def finite_inputs(program: Program, network: nn.Module, inputs: Inputs) -> Inputs:
    """Random inputs whose answers are finite, if there are any: a mask of zeros may leave nothing to look at."""
    probe = random_inputs(program, inputs)
    for candidate in (probe, random_inputs(program, inputs, masks=1)):
        args, kwargs = as_args(candidate)
        with torch.no_grad():
            answers = TensorOutputs(network).eval()(*args, **kwargs)
        if all(bool(answer.isfinite().all()) for answer in answers):
            return candidate
    return probe


def random_inputs(program: Program, inputs: Inputs, masks: int | None = None) -> Inputs:
    """Inputs shaped like `inputs`: floats drawn at random; whole numbers too, where they index an embedding.

    Other whole numbers and truth values are all `masks`, if given, else as they are.
    """
    generator = torch.Generator().manual_seed(1)
    vocabulary: dict[int, int] = {}  # by the identity of the input tensor
    given = program.bind(inputs)
    for place in program.nodes:
        for user in place.users if place.name in given else ():
            if operator_name(user) == "embedding" and user.args[1] is place:
                table = user.args[0]
                assert isinstance(table, Node)
                vocabulary[id(given[place.name])] = int(table.meta["val"].shape[0])

    def drawn(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator).to(tensor)
        if id(tensor) in vocabulary:
            return torch.randint(vocabulary[id(tensor)], tensor.shape, generator=generator).to(tensor)
        return tensor if masks is None else torch.full_like(tensor, masks)

    return map_inputs(drawn, inputs)
