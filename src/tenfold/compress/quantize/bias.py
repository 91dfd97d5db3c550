"""Bias correction: what rounding shifts in the mean of a layer's output, given back to its bias.

Nagel et al., 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721,
section 4.2), in the empirical form of its appendix D: layer by layer, with the layers before already quantised and
corrected, b ← b + E[y] − E[ŷ] for each output channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.affine import round_bias
from tenfold.compress.quantize.capture import attribute
from tenfold.compress.quantize.insert import ROOT
from tenfold.compress.quantize.layers import Layer
from tenfold.compress.quantize.observe import Watch, run_captured
from tenfold.cost import Inputs


def output_means(
    module: fx.GraphModule, layers: dict[fx.Node, Layer], inputs: Inputs
) -> dict[fx.Node, Tensor]:
    """The mean of each layer's float output, for each channel: (C,), over the examples `inputs`."""
    means: dict[fx.Node, Tensor] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        means[node] = channel_means(value, layers[node].channel_dim)

    Watch(module, layers, see).watch(inputs)
    return means


def channel_means(value: Tensor, dim: int) -> Tensor:
    """The mean over every dimension but `dim`."""
    return value.mean(dim=[d for d in range(value.dim()) if d != dim % value.dim()])


def correct_biases(
    module: fx.GraphModule,
    computed: dict[str, str],
    means: dict[str, Tensor],
    dims: dict[str, int],
    inputs: Inputs,
    before_each: Callable[[], None] = lambda: None,
) -> None:
    """Edit the biases of a quantised module so that each layer has the given output means on `inputs`.

    `computed` names the node of each layer; `means` and `dims` are the float means and channel dimensions by layer.
    `before_each` is called before a layer is corrected; what it raises ends the work.
    """
    layers = {node: name for name, node in computed.items()}
    run_captured(_Correct(module, layers, means, dims, before_each), inputs)


class _Correct(fx.Interpreter):
    """One walk through the quantised graph in which every layer is corrected before its output is read."""

    def __init__(
        self,
        module: fx.GraphModule,
        layers: dict[str, str],
        means: dict[str, Tensor],
        dims: dict[str, int],
        before_each: Callable[[], None],
    ) -> None:
        super().__init__(module)
        self.extra_traceback = False  # an error of `before_each` speaks for itself
        self.layers, self.means, self.dims, self.before_each = layers, means, dims, before_each
        self.biases = {path for path, _ in module.named_buffers(remove_duplicate=False)}

    def run_node(self, n: fx.Node) -> Any:
        name = self.layers.get(n.name)
        if name is not None:
            self.before_each()
        value = super().run_node(n)
        if name is None or f"{ROOT}.{name}.bias" not in self.biases:
            return value
        shift = self.means[name] - channel_means(value, self.dims[name])
        shift = self._shift_bias(f"{ROOT}.{name}", shift)
        dims = [1] * value.dim()
        dims[self.dims[name]] = -1
        return value + shift.reshape(dims)

    def _shift_bias(self, path: str, shift: Tensor) -> Tensor:
        """Add `shift` (C,) to the stored bias; returns by how much its value changed after rounding."""
        owner = self.module.get_submodule(path)
        bias = attribute(owner, "bias")
        if bias.is_floating_point():
            bias.add_(shift)
            return shift
        scale = attribute(owner, "bias_scale")
        old = bias * scale
        with torch.no_grad():
            bias.copy_(round_bias(old.double() + shift.double(), scale))
        return bias * scale - old
