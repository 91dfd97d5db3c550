"""Quantisation-aware training: packed weights taught to answer as the original does, their steps learnt along.

The network computes with rounded weights all through. Rounding passes gradients on unchanged within the range and none
outside (the straight-through estimator, Bengio et al., 2013), and the step of each scale has the gradient of learned step
size quantisation (Esser et al., 2020, "LSQ", arXiv:1902.08153, eqs. 1 to 4): round(w/s) − w/s within the range, the
nearest end outside, times 1/√(N Qp) for the N weights that share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from tenfold.compress.distill import Distill
from tenfold.compress.healing import Healed, heal
from tenfold.compress.quantize.capture import attribute, copied
from tenfold.compress.quantize.codes import unpack_codes
from tenfold.compress.quantize.grid import Grid, spread
from tenfold.compress.quantize.layer_inputs import weight_of
from tenfold.compress.quantize.walk import Target
from tenfold.compress.quantize.weight_insert import store
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.training import AdamW

RATE = 0.002  # of Adam, for weights in steps of their grid: at five times that 2 bits lose what rounding had kept
INSIDE = 0.49  # how far a weight may begin from its code
AWARE = "aware"  # what a layer's module is called below while it is trained


class Step(nn.Module):
    """A step size that is learnt: the log of its change, with the gradient scale of `shared` values of `levels` levels.

    `first` are the steps it begins with, of any shape, kept as `stored` holds them.
    """

    def __init__(self, first: Tensor, stored: torch.dtype, shared: float, levels: int) -> None:
        super().__init__()
        # Where a weight moves by one step, the end of the range moves by one step too.
        self.rate, self.stored = 1 / levels, stored
        self.gradient_scale = (max(shared, 1.0) * levels) ** -0.5
        self.first = nn.Buffer(first.detach().clone().float(), persistent=False)
        self.growth = nn.Parameter(torch.zeros_like(self.first))

    def forward(self) -> Tensor:
        scale = self.first * torch.exp(self.rate * self.growth)
        scale = scale * self.gradient_scale + (scale * (1 - self.gradient_scale)).detach()
        return scale + (scale.to(self.stored).float() - scale).detach()


class Aware(nn.Module):
    """A weight that is rounded at every call: latent weights and steps are what is learnt.

    `place` (R, K) is the weight in steps of the grid it began with, so that one learning rate serves every layer, and
    zero where the weight is, so that a pruned one is known. It begins as near to `matrix` as its code allows, so that
    what rounding has chosen stays.
    """

    def __init__(
        self,
        matrix: Tensor,
        grid: Grid,
        codes: Tensor,
        stored: torch.dtype,
        shape: tuple[int, ...],
        axis: int,
    ) -> None:
        super().__init__()
        self.grid, self.shape, self.axis = grid, shape, axis
        self.first, self.zero = grid.columns(matrix.shape[1])
        code = codes - self.zero
        near = torch.clamp(matrix / self.first, code - INSIDE, code + INSIDE)
        self.place = nn.Parameter(near)
        self.step = Step(grid.scale, stored, matrix.numel() / grid.scale.numel(), 2 ** (grid.bits - 1))

    def forward(self) -> Tensor:
        scale = spread(self.step(), self.place.shape[1], self.grid.group)
        return weight_of(lsq(self.latent(), scale, self.zero, self.grid.top), self.shape, self.axis)

    def latent(self) -> Tensor:
        """The weight (R, K) before it is rounded."""
        return self.first * self.place

    def result(self) -> tuple[Grid, Tensor]:
        """The grid and the codes (R, K) that `forward` computes with."""
        with torch.no_grad():
            grid = replace(self.grid, scale=self.step())
            scale, zero = grid.columns(self.place.shape[1])
            return grid, torch.round(self.latent() / scale + zero).clamp(0, grid.top).to(torch.uint8)


class Bias(nn.Module):
    """A bias (R,) that is learnt, in steps of its layer's weights, so that one learning rate serves it too."""

    def __init__(self, bias: Tensor, steps: Tensor) -> None:
        super().__init__()
        self.first = nn.Buffer(bias.detach().clone(), persistent=False)
        self.unit = nn.Buffer(steps.detach().float().mean(1).expand(len(bias)).clone(), persistent=False)
        self.moved = nn.Parameter(torch.zeros_like(bias))

    def forward(self) -> Tensor:
        return self.first + self.unit * self.moved


def lsq(weight: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """s · (clip(⌊w / s + z⌉, 0, top) − z), the rounding's own gradient taken for one."""
    place = weight / scale + zero
    rounded = place + (torch.round(place) - place).detach()
    return scale * (rounded.clamp(0, top) - zero)


def train_aware(
    module: fx.GraphModule, targets: Sequence[Target], task: Task, run: Run, epochs: float
) -> Healed:
    """Teach a module of packed weights for `epochs` passes; its codes, scales and biases are edited if it helped."""
    network, layers, biases = trainable(module, targets)
    healed = taught(network, task, run, epochs)
    if healed.kept:
        for target, layer, bias in zip(targets, layers, biases, strict=True):
            if not target.tied:
                store(module, target.path, *layer.result())
            if bias is not None:
                with torch.no_grad():
                    attribute(module, f"{target.path}.bias").copy_(bias())
    return healed


def taught(network: nn.Module, task: Task, run: Run, epochs: float) -> Healed:
    """Heal a network of `Aware` weights in place, by the original's answers alone."""
    settings = Distill(alpha=0.0, precision="fp32", teacher_precision="fp32")  # steps are finer than bfloat16
    return heal(
        network, task, run, epochs, settings=settings, optimizer=AdamW(RATE, weight_decay=0.0), moves=False
    )


def trainable(
    module: fx.GraphModule, targets: Sequence[Target]
) -> tuple[fx.GraphModule, list[Aware], list[Bias | None]]:
    """A copy whose packed weights and biases are learnt, and those; nothing else asks for gradients."""
    network = copied(module).requires_grad_(False)
    calls = {node.name: node for node in network.graph.nodes}
    found: dict[
        fx.Node, Aware
    ] = {}  # by the call that unpacks it: layers that share a weight learn it together
    biases: list[Bias | None] = []
    own = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    for index, target in enumerate(targets):
        if not target.tied:
            layer = found[target.unpacking] = _aware(module, target)
            network.add_submodule(f"{AWARE}.{index}", layer)
            _replace(network, calls[target.unpacking.name], f"{AWARE}.{index}")
        bias = None
        if f"{target.path}.bias" in own:
            steps = found[target.unpacking].grid.scale
            bias = Bias(attribute(module, f"{target.path}.bias"), steps)
            network.add_submodule(f"{AWARE}.{index}b", bias)
            (held,) = (n for n in network.graph.nodes if n.target == f"{target.path}.bias")
            _replace(network, held, f"{AWARE}.{index}b")
        biases.append(bias)
    network.graph.lint()
    network.recompile()
    return network, [found[target.unpacking] for target in targets], biases


def _aware(module: fx.GraphModule, target: Target) -> Aware:
    """The packed weight of a layer as one that is learnt."""
    owner = module.get_submodule(target.path)
    rows, width = target.matrix.shape
    bits = int(target.unpacking.args[3])  # type: ignore[arg-type]
    group = int(target.unpacking.args[6])  # type: ignore[arg-type]
    stored = attribute(owner, "scale")
    zero = (
        attribute(owner, "zero_point").float()
        if hasattr(owner, "zero_point")
        else torch.full(stored.shape, float(2 ** (bits - 1)))
    )
    codes = unpack_codes(attribute(owner, "codes"), bits, rows * width).reshape(rows, width)
    grid = Grid(bits, stored.float(), zero, group)
    return Aware(target.matrix, grid, codes, stored.dtype, tuple(target.weight.shape), target.layer.axis)


def _replace(network: fx.GraphModule, node: fx.Node, module: str) -> None:
    with network.graph.inserting_before(node):
        node.replace_all_uses_with(network.graph.call_module(module))
    network.graph.erase_node(node)
