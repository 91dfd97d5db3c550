"""What is asked of a network before it is quantised, and its graph."""

from __future__ import annotations

import torch
from torch import fx, nn

from tenfold.compress.quantize.simplify import capture_folded
from tenfold.compress.quantized import already_quantized, is_quantized, packed_by_torch
from tenfold.compress.technique import Problem
from tenfold.cost import Inputs
from tenfold.errors import NetworkError

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def not_finite(model: nn.Module) -> list[Problem]:
    """The parameters and buffers that hold NaN or infinity."""
    return [
        Problem(name, "its values hold NaN or infinity; train or load the network again")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


def check_finite(model: nn.Module) -> None:
    """Raise a `NetworkError` that names the first parameter or buffer without values, or with NaN or infinity in it."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise NetworkError(f"{name} is on the meta device: it has no values; load weights first")
    for problem in not_finite(model):
        raise NetworkError(str(problem))


def without_layers(model: nn.Module) -> list[Problem]:
    """That there is no layer to quantise, or none of the type that is quantised, where that is so."""
    if not any(isinstance(module, LAYERS) for module in model.modules()):
        return [
            Problem("", packed_by_torch(model) or "it has no convolution and no linear layer to quantise")
        ]
    try:
        check_type(model)
    except NetworkError as error:
        return [Problem("", str(error))]
    return []


def check_type(model: nn.Module) -> None:
    """Raise a `NetworkError` that names the first layer where no layer has weights of float32."""
    weights = [
        (name, module.weight.dtype)
        for name, module in model.named_modules()
        if isinstance(module, LAYERS) and isinstance(module.weight, torch.Tensor)
    ]
    if weights and all(dtype != torch.float32 for _, dtype in weights):
        name, dtype = weights[0]
        raise NetworkError(
            f"{name or type(model).__name__}: its weight is {str(dtype).removeprefix('torch.')}, and only float32 is "
            "quantised; convert the network and its data by .float()"
        )


def captured(model: nn.Module, inputs: Inputs) -> fx.GraphModule:
    """The network as one flat graph with its batch norms folded; `NetworkError` for a quantised one."""
    if is_quantized(model):
        raise NetworkError(already_quantized(model))
    return capture_folded(model, inputs)
