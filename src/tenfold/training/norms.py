"""Batch norm: estimating its statistics again after a network has changed, and holding them still."""

from __future__ import annotations

import math
import time

import torch
from torch import nn

from tenfold.cost import call
from tenfold.data import Split
from tenfold.training.precision import Precision, device_of

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """Every batch norm that keeps running statistics."""
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]


def hold_statistics(model: nn.Module) -> None:
    """Put batch norms alone into eval mode, so that training uses their statistics and does not move them."""
    for norm in batch_norms(model):
        norm.eval()


def refresh_statistics(
    model: nn.Module,
    split: Split,
    *,
    examples: int = 1024,
    batch_size: int = 128,
    seed: int = 0,
    precision: Precision | None = None,
    deadline: float = math.inf,
) -> int:
    """Replace batch norm's running mean and variance by plain averages over up to `examples` inputs, in place.

    A network that lost layers or channels sends other distributions on than those its statistics were taken
    from; measured afresh, they give back much of its accuracy before any training. Other modules stay in eval mode,
    and so is the whole network left. Batches of at least two examples only. Stops at `deadline` (`time.monotonic()`).
    Returns the number of examples used; if none, the statistics are untouched.
    """
    norms = batch_norms(model)
    model.eval()
    if not norms or len(split) < 2:
        return 0
    precision = precision or Precision()
    device = device_of(model)
    before = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    used = 0
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average: every batch weighs the same
        for index, inputs, _ in split.batches(min(batch_size, len(split)), shuffle=seed, drop_last=True):
            if used >= examples or time.monotonic() >= deadline:
                break
            with torch.no_grad(), precision.arithmetic(device):
                call(model, precision.inputs(inputs, device))
            used += len(index)
    finally:
        for norm, momentum, kept in zip(norms, momenta, before, strict=True):
            norm.eval()
            norm.momentum = momentum
            now = dict(norm.named_buffers())
            # A norm that no batch passed through, or one left with infinities, keeps what it had.
            passed = used > 0 and int(now["num_batches_tracked"]) > 0
            if passed and all(bool(value.isfinite().all()) for value in now.values()):
                now.pop("running_mean"), now.pop("running_var")
            for name, value in now.items():
                value.copy_(kept[name])
    return used
