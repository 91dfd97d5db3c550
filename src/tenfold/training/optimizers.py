"""How weights are moved: the optimisers a training run may choose from, as plain settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with Nesterov momentum: the usual choice for networks with batch norm."""

    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def build(
        self, parameters: Iterable[nn.Parameter], *, learning_rate: Tensor | None = None, fused: bool = False
    ) -> torch.optim.Optimizer:
        """The optimiser. A `learning_rate` tensor on the device, with `fused`, can be changed under a CUDA graph."""
        return torch.optim.SGD(
            _groups(parameters, self.weight_decay),
            lr=self.learning_rate if learning_rate is None else learning_rate,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            fused=fused or None,
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): for transformers and networks without norms."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.05

    def build(
        self, parameters: Iterable[nn.Parameter], *, learning_rate: Tensor | None = None, fused: bool = False
    ) -> torch.optim.Optimizer:
        """The optimiser. A `learning_rate` tensor on the device, with `fused`, can be changed under a CUDA graph."""
        return torch.optim.AdamW(
            _groups(parameters, self.weight_decay),
            lr=self.learning_rate if learning_rate is None else learning_rate,
            betas=self.betas,
            fused=fused or None,
            capturable=fused,
        )


OptimizerSettings = Sgd | AdamW


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """Matrices and kernels decay; biases and the scales of norms do not."""
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
