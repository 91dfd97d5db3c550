"""Quantisation-aware training of a static INT8 network: weights, biases and the steps of weights and activations.

As `tenfold.compress.quantize.aware`, over the graph that `insert_static` makes. Zero points stay.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from tenfold.compress.healing import Healed
from tenfold.compress.quantize.affine import round_bias
from tenfold.compress.quantize.aware import AWARE, Aware, Bias, Step, lsq, taught
from tenfold.compress.quantize.capture import attribute, copied
from tenfold.compress.quantize.grid import Grid
from tenfold.compress.quantize.layer_inputs import matrix_of, weight_of
from tenfold.compress.quantize.ops import LEVELS, along
from tenfold.compress.technique import Run
from tenfold.data import Task

OPS = torch.ops.tenfold


class Activation(nn.Module):
    """A tensor rounded to uint8 at every call, by a step that is learnt."""

    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.step = Step(scale, torch.float32, 1.0, LEVELS)
        self.zero = float(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        # The number of values that share the step is that of one example.
        self.step.gradient_scale = (max(x[0].numel(), 1) * LEVELS) ** -0.5
        return lsq(x, self.step(), torch.tensor(self.zero), LEVELS)


def train_static(module: fx.GraphModule, task: Task, run: Run, epochs: float) -> Healed:
    """Teach a static INT8 module for `epochs` passes; its integers and scales are edited if it helped."""
    network = copied(module).requires_grad_(False)
    activations: dict[str, Activation] = {}
    weights: dict[str, Aware] = {}
    trained: dict[str, Bias] = {}
    read: dict[fx.Node, str] = {}  # the weight of each layer; tied ones read the same
    biases: dict[str, tuple[str, str]] = {}  # the activation and the weight whose steps an int32 bias is in
    for node in list(network.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is OPS.dequantize.default:
            path = str(node.args[1].target).removesuffix(".scale")
            if path not in activations:
                found = attribute(network, f"{path}.scale"), attribute(network, f"{path}.zero_point")
                activations[path] = Activation(*found)
                network.add_submodule(f"{AWARE}.a{len(activations)}", activations[path])
            name = f"{AWARE}.a{list(activations).index(path) + 1}"
            _replace(network, node, name, (node.args[0].args[0],))
        elif node.target is OPS.dequantize_channels.default:
            path, _, leaf = str(node.args[0].target).rpartition(".")
            if leaf == "weight":
                read |= dict.fromkeys(node.users, path)
                if path not in weights:
                    weights[path] = _weight(network, path, int(node.args[2]))
                    network.add_submodule(f"{AWARE}.w{len(weights)}", weights[path])
                _replace(network, node, f"{AWARE}.w{list(weights).index(path) + 1}", ())
            else:
                (layer,) = node.users
                biases[path] = str(layer.args[0].target), read[layer]  # by now a call of its activation
                values = attribute(network, f"{path}.bias") * attribute(network, f"{path}.bias_scale")
                trained[path] = Bias(values, attribute(network, f"{read[layer]}.weight_scale").reshape(-1, 1))
                network.add_submodule(f"{AWARE}.b{len(trained)}", trained[path])
                _replace(network, node, f"{AWARE}.b{len(trained)}", ())
    network.graph.eliminate_dead_code()
    network.graph.lint()
    network.recompile()
    healed = taught(network, task, run, epochs)
    if healed.kept:
        with torch.no_grad():
            _store(module, activations, weights, trained, biases)
    return healed


def _replace(network: fx.GraphModule, node: fx.Node, module: str, args: tuple[fx.Node, ...]) -> None:
    with network.graph.inserting_before(node):
        call = network.graph.call_module(module, args)
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    network.graph.erase_node(node)


def _weight(network: fx.GraphModule, path: str, axis: int) -> Aware:
    """Signed integers within ±limit are codes 0 … 2 · limit about the zero point `limit`."""
    integers, scale = attribute(network, f"{path}.weight"), attribute(network, f"{path}.weight_scale")
    limit = 127 if int(integers.abs().max()) > 63 else 63
    steps = scale.reshape(-1, 1)
    grid = _Signed(8 if limit == 127 else 7, steps, torch.full_like(steps, float(limit)))
    codes = matrix_of(integers, axis).float() + limit
    matrix = matrix_of(integers * along(scale, axis, integers.dim()), axis)
    return Aware(matrix, grid, codes, torch.float32, tuple(integers.shape), axis)


class _Signed(Grid):
    """A grid without the lowest code, so that what is left is symmetric."""

    @property
    def top(self) -> int:
        return 2 * (2 ** (self.bits - 1) - 1)


def _store(
    module: fx.GraphModule,
    activations: dict[str, Activation],
    weights: dict[str, Aware],
    trained: dict[str, Bias],
    biases: dict[str, tuple[str, str]],
) -> None:
    names = {f"{AWARE}.a{index + 1}": path for index, path in enumerate(activations)}
    for path, activation in activations.items():
        attribute(module, f"{path}.scale").copy_(activation.step())
    steps: dict[str, Tensor] = {}
    for path, weight in weights.items():
        grid, codes = weight.result()
        integers = codes.to(torch.int16) - int(grid.zero_point[0])
        attribute(module, f"{path}.weight").copy_(weight_of(integers, weight.shape, weight.axis))
        scale = attribute(module, f"{path}.weight_scale")
        steps[path] = scale.copy_(grid.scale.reshape(scale.shape))
    for path, (activation_name, weight_path) in biases.items():
        scale = steps[weight_path] * activations[names[activation_name]].step()
        attribute(module, f"{path}.bias_scale").copy_(scale)
        attribute(module, f"{path}.bias").copy_(round_bias(trained[path](), scale))
