"""A small network and data that it learns in a moment, for the tests of healing."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tenfold.data import Split, Task
from tenfold.training import AdamW, Precision, Supervised, fit


class Net(nn.Module):
    """(N, 1, 8, 8) -> (N, 3)."""

    def __init__(self, width: int = 8, hidden: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stage = nn.Sequential(
            nn.Conv2d(width, hidden, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.fc = nn.Linear(hidden, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stage(self.stem(x)).mean(dim=(2, 3)))


def data(number: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes by the frequency of vertical stripes, the same when mirrored up to phase."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % 3
    wave = torch.cos(torch.arange(8)[None] * (labels[:, None] + 0.5))
    noise = 0.3 * torch.randn(number, 1, 8, 8, generator=generator)
    return wave[:, None, None, :].expand(-1, 1, 8, -1) + noise, labels


def taught_task() -> Task:
    """A teacher that really knows its data."""
    torch.manual_seed(0)
    model = Net()
    fit(
        model,
        Split(data()),
        Supervised(),
        epochs=8,
        batch_size=20,
        precision=Precision(),
        optimizer=AdamW(0.01),
    )
    return Task(model, data(), data(60))


def damaged_copy(model: nn.Module) -> nn.Module:
    """A copy whose weights are off by half as much again as they are spread."""
    student = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in student.parameters():
            if p.ndim > 1:
                p.add_(1.5 * p.std() * torch.randn_like(p))
    return student
