"""A network's answers judged: how far they move when it is changed, and their loss on the task's own targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tenfold.errors import DataError
from tenfold.training.losses import hard_loss


def distance(answer: Tensor, wanted: Tensor, classes: bool) -> float:
    """From the answers (N, …) to the ones `wanted`, mean over examples.

    For `classes` the KL divergence of the wanted distribution from the answered one, in nats, over logits (N, C, …)
    or (N, S, C); for other targets the squared error as a share of the energy wanted.
    """
    answer, wanted = answer.float(), wanted.float()
    if not classes:
        return float((answer - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12))
    dim = -1 if wanted.dim() == 3 else 1
    divergence = F.kl_div(answer.log_softmax(dim), wanted.log_softmax(dim), reduction="none", log_target=True)
    return float(divergence.sum(dim).mean())


def task_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The task's loss; language models answer (N, S, V) where losses are (N, V, S)."""
    if outputs.dim() == 3 and targets.dim() == 2 and not targets.is_floating_point():
        outputs = outputs.transpose(1, 2)
    loss = hard_loss(outputs, targets)
    if not bool(loss.isfinite()):
        raise DataError(
            "the loss on the training data is not finite: the weights or the data hold NaN or inf"
        )
    return loss
