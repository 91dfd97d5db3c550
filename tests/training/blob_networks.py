"""A small network, and data that it can learn, for the tests of the training loop."""

from __future__ import annotations

import torch
from torch import nn

from tenfold.data import Split


def blobs(number: int = 96) -> Split:
    """Three classes of (N, 4) that a linear layer can tell apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % 3
    return Split((torch.randn(number, 4, generator=generator) + 3 * torch.eye(4)[labels], labels))


def small() -> nn.Sequential:
    """With dropout, whose random numbers must go on too, and batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
