"""How far a network's answers move when it is changed: what harm is judged by where a metric is too coarse."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
