"""Which kernels a device launches for the operators of a profile."""

from __future__ import annotations

from collections.abc import Sequence

from tenfold.cost.device import Device
from tenfold.cost.fused_kernels import fused_kernels
from tenfold.cost.record import OperatorCost
from tenfold.cost.workload import Kernel, eager_kernels


def kernels_of(operators: Sequence[OperatorCost], device: Device, block: int = 16) -> tuple[Kernel, ...]:
    """Fused as ONNX Runtime does, or one for each operator in eager PyTorch."""
    if device.runtime == "onnxruntime":
        return fused_kernels(operators, block)
    return eager_kernels(operators)
