"""One way to call a network: inputs are a tensor, a tuple of positional tensors, or a dict of keyword tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def as_args(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The positional and keyword arguments that `inputs` stands for."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, dict):
        return (), inputs
    return tuple(inputs), {}


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """Run `model` and return its main output: the tensor itself, `.logits`, or the first tensor found."""
    args, kwargs = as_args(inputs)
    return main_output(model(*args, **kwargs))


def main_output(output: Any) -> Tensor:
    """The tensor that a metric is computed from, out of whatever a network returns."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    values = output.values() if isinstance(output, dict) else output
    for value in values if isinstance(values, (list, tuple)) or hasattr(values, "__iter__") else ():
        if isinstance(value, Tensor):
            return value
    raise TypeError(f"the network returned {type(output).__name__}, which holds no tensor")


def map_inputs(function: Any, inputs: Inputs) -> Inputs:
    """Apply `function` to every tensor of `inputs`, keeping the structure."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, dict):
        return {name: function(tensor) for name, tensor in inputs.items()}
    return tuple(function(tensor) for tensor in inputs)


def batch_size(inputs: Inputs) -> int:
    """The number of examples in `inputs` (the first dimension of its first tensor)."""
    args, kwargs = as_args(inputs)
    return int(next(iter((*args, *kwargs.values()))).shape[0])
