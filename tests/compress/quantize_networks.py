"""Small networks and tasks for the tests of quantisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tenfold.data import Task


class Residual(nn.Module):
    """Convolution, batch norm, in-place ReLU, a residual sum, max pool, global pool, classifier: (N, 3, 12, 12)."""

    def __init__(self, width: int = 7, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.stem(x))))
        x = self.relu(self.conv2(self.relu(self.norm1(self.conv1(x)))) + x)
        return self.fc(torch.flatten(self.average(x), 1))


class Attention(nn.Module):
    """One pre-norm transformer block over (N, 6, 16) and a classifier, called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.project = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        x = tokens + self.project(nn.functional.scaled_dot_product_attention(q, k, v))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(dim=1))


class Standardised(nn.Module):
    """A convolution whose weight is computed from its parameters at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, padding=1).relu().mean(dim=(2, 3))


def seeded(build: type[nn.Module], *args: int) -> nn.Module:
    """A network with weights and batch norm statistics drawn from a fixed seed, in eval mode."""
    torch.manual_seed(0)
    model = build(*args)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def images(number: int = 24, seed: int = 1) -> Tensor:
    """Smooth positive and negative images (N, 3, 12, 12)."""
    return torch.randn(number, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def task_of(model: nn.Module, inputs: object) -> Task:
    """A task over these inputs with targets of zero, which quantisation does not read."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    targets = torch.zeros(len(first), dtype=torch.long)  # type: ignore[arg-type]
    return Task(model, train=(inputs, targets), validation=(inputs, targets))
