"""How sharply the loss bends: diagonals of the Hessian for OBD, and the Hessians of layers' outputs for OBS."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tenfold.compress.answers import task_loss
from tenfold.compress.columns import patch_columns
from tenfold.compress.layers import Weighted, holders, reading
from tenfold.compress.technique import Run
from tenfold.cost import call, free_memory
from tenfold.data import Split
from tenfold.errors import DataError, NetworkError
from tenfold.naming import described
from tenfold.training.precision import device_of

BATCH = 32
# Of the free memory, what second moments of inputs may take at a time, where one layer's are no more. The layers' own
# work and whatever else the machine does need the rest.
MOMENT_SHARE, MOST_MOMENT_BYTES = 0.25, 4 << 30


def fisher_diagonal(model: nn.Module, split: Split, names: list[str], run: Run) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher matrix: the mean over examples of the squared gradient of its own loss.

    By parameter name. Where the labels are distributed as the network says, it is the Gauss-Newton part of the
    Hessian's diagonal; it is never negative. One backward pass for each example.
    """
    network, parameters = _trainable(model, names)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    done = 0
    for _, inputs, targets in split.batches(1):
        if done and run.seconds_left() < 0:
            break
        gradients = torch.autograd.grad(
            task_loss(call(network, inputs), targets), list(parameters.values()), allow_unused=True
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.square()
        done += 1
        run.progress(done / len(split), "curvature (Fisher)")
    return {name: value / done for name, value in total.items()}


def hutchinson_diagonal(
    model: nn.Module, split: Split, names: list[str], run: Run, *, probes: int = 8
) -> dict[str, Tensor]:
    """An unbiased estimate of the Hessian's diagonal of the mean loss: the mean of v ⊙ Hv over random signs v.

    Hutchinson (1990); Bekas, Kokiopoulou and Saad (2007) for diagonals. Two backward passes for each batch and probe.
    The variance of entry i is the sum of the other squared entries of its row over the number of probes.
    """
    network, parameters = _trainable(model, names)
    tensors = list(parameters.values())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    generator = torch.Generator().manual_seed(run.seed)
    seen = 0
    for _, inputs, targets in split.batches(BATCH):
        if seen and run.seconds_left() < 0:
            break
        loss = task_loss(call(network, inputs), targets)
        try:
            gradients = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True)
            for _ in range(probes):
                signs = [torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1 for p in tensors]
                slope = torch.stack(
                    [(g * v).sum() for g, v in zip(gradients, signs, strict=True) if g is not None]
                ).sum()
                products = torch.autograd.grad(slope, tensors, retain_graph=True, allow_unused=True)
                for name, sign, product in zip(parameters, signs, products, strict=True):
                    if product is not None:
                        total[name] += sign * product * (len(targets) / probes)
        except RuntimeError as error:
            raise NetworkError(
                f"the network cannot be differentiated twice ({described(error)}): use the saliency fisher"
            ) from error
        seen += len(targets)
        run.progress(seen / len(split), "curvature (Hutchinson)")
    return {name: value / seen for name, value in total.items()}


def moment_room(model: nn.Module) -> float:
    """Bytes that second moments of inputs may take at a time, where the network lies."""
    place = device_of(model)
    free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else free_memory()
    return min(MOMENT_SHARE * free, MOST_MOMENT_BYTES)


def in_groups(layers: Mapping[str, Weighted], room: float) -> list[dict[str, Weighted]]:
    """The layers, in order, in as few groups as keep each group's matrices H within `room` bytes; one at least.

    What all of a network's layers need grows with its depth times the square of its width. A group takes one pass over
    the examples; most networks are one group. A layer that needs more is a group by itself.
    """
    groups: list[dict[str, Weighted]] = [{}]
    held = 0
    for name, layer in layers.items():
        size = moment_bytes(layer)
        if groups[-1] and held + size > room:
            groups.append({})
            held = 0
        groups[-1][name] = layer
        held += size
    return groups


def moment_bytes(layer: Weighted) -> int:
    """Bytes of the layer's H: (groups, D, D) in float64."""
    return 8 * getattr(layer, "groups", 1) * layer.weight[0].numel() ** 2


def input_hessians(
    model: nn.Module, split: Split, layers: Mapping[str, Weighted], run: Run
) -> dict[str, Tensor]:
    """For each layer H (groups, D, D) = 2·mean of x·xᵀ over all places, D weights of an output, in float64.

    The Hessian of the layer's own squared output error, the same for each of its outputs; where several layers share
    the weight, of the errors of all. Layers that are never called on these examples have none. All are in memory
    together: `in_groups` says which should be.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    # A layer's name is that of the others too that share its weight.
    names = {
        module: name
        for name, layer in layers.items()
        for module, _ in holders(model, layer)
        if isinstance(module, Weighted)
    }

    def add(layer: nn.Module, x: Tensor) -> None:
        assert isinstance(layer, Weighted)
        name, patches = names[layer], unfolded(layer, x).double()
        product = patches @ patches.transpose(1, 2)
        totals[name] = totals[name].add_(product) if name in totals else product
        counts[name] = counts.get(name, 0) + patches.shape[2]

    with reading(names, add), torch.no_grad():
        done = 0
        for _, inputs, targets in split.batches(BATCH):
            if done and run.seconds_left() < 0:
                break
            call(model, inputs)
            done += len(targets)
            run.progress(done / len(split), "curvature of layers")
    for name, total in totals.items():
        if not bool(total.isfinite().all()):
            raise DataError(
                f"{name}: its inputs hold NaN or inf, so the training data or the weights before it do"
            )
    return {name: totals[name].mul_(2).div_(counts[name]) for name in layers if name in totals}


def unfolded(layer: Weighted, x: Tensor) -> Tensor:
    """What each weight of an output is multiplied with: (groups, D, places), D = inputs of a group × kernel."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        # As the layer itself pads, for its odd and named forms.
        sides = layer._reversed_padding_repeated_twice
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    else:
        sides = [side for size in reversed(layer.padding) for side in (int(size), int(size))]
        mode = "constant"
    return patch_columns(
        x, layer.kernel_size, stride=layer.stride, sides=sides, dilation=layer.dilation, groups=layer.groups,
        mode=mode,
    )  # fmt: skip


def _trainable(model: nn.Module, names: list[str]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy whose named parameters alone get gradients."""
    network = copy.deepcopy(model).eval().requires_grad_(False)
    parameters: dict[str, Tensor] = {n: network.get_parameter(n).requires_grad_(True) for n in names}
    return network, parameters
