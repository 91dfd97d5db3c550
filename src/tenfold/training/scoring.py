"""How many of a split's examples a network gets right."""

from __future__ import annotations

import torch
from torch import nn

from tenfold.training.precision import Precision
from tenfold.training.resident import ResidentImages

BATCH = 1000


@torch.no_grad()
def right_answers(model: nn.Module, data: ResidentImages, precision: Precision) -> int:
    """The number of examples whose largest output is the label; the network's mode is left as it was."""
    training, benchmark = model.training, torch.backends.cudnn.benchmark
    model.eval()
    torch.backends.cudnn.benchmark = (
        False  # trying all of cuDNN's algorithms pays only where shapes return often
    )
    right = torch.zeros((), dtype=torch.long, device=data.device)
    for index in torch.arange(len(data), device=data.device).split(BATCH):
        inputs, labels = data.batch(index)
        with precision.arithmetic(data.device):
            outputs = model(precision.inputs(inputs, data.device))
        right += (outputs.argmax(dim=1) == labels).sum()
    model.train(training)
    torch.backends.cudnn.benchmark = benchmark
    return int(right)
