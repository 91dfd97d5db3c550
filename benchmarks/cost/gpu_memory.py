"""Peak memory of a run on a GPU, of the allocator: at any time, and whenever an operator has just returned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Readings(TorchDispatchMode):
    """Reads the allocator whenever an operator has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, torch.cuda.memory_allocated())
        return result


def allocated(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Bytes above the network's weights, the input included: the allocator's own peak, and the peak of readings."""
    with torch.no_grad():
        model(x)
        torch.cuda.synchronize()
        weights = torch.cuda.memory_allocated() - x.nbytes
        torch.cuda.reset_peak_memory_stats()
        model(x)
        torch.cuda.synchronize()
        anywhere = torch.cuda.max_memory_allocated() - weights
        with Readings() as readings:
            model(x)
    return anywhere, readings.peak - weights
