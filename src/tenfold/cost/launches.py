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
    kernels = eager_kernels(operators)
    return with_biases(kernels) if device.kind == "cuda" else kernels


def with_biases(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """The kernels, and after a convolution with a bias the one that adds it.

    cuDNN's convolutions as PyTorch calls them add none: their output is read and written once more.
    """
    found: list[Kernel] = []
    for kernel in kernels:
        found.append(kernel)
        if "conv" in kernel.op and kernel.weight_bytes > kernel.itemsize * weights_of(kernel):
            found.append(
                Kernel(
                    "broadcast", kernel.layer, kernel.op, (), 0, kernel.elements, kernel.elements, 0,
                    kernel.written_bytes, kernel.written_bytes, kernel.itemsize, batch=kernel.batch,
                )
            )  # fmt: skip
    return tuple(found)


def weights_of(kernel: Kernel) -> int:
    """The elements of a convolution's weight."""
    return kernel.groups * kernel.columns * kernel.depth
