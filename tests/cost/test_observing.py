"""Samples as calibration times them: on a GPU every network twice, apart, since what launches is disturbed at times."""

from __future__ import annotations

import time
from itertools import islice

import pytest
import torch
from torch import nn

from tenfold.cost import Device, calibration_networks, observing, profile
from tenfold.cost.calibration_networks import Sample

QUICK_S, DISTURBED_S = 0.002, 0.02


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_gpus_networks_are_timed_again_and_the_shorter_time_counts(kind, monkeypatch):
    def drawn(seed, batches, work):
        layers = nn.Sequential(nn.Linear(4, 4)).eval()
        yield from (Sample("chain", layers, (1, 4)), Sample("network", layers, (1, 4), True))
        while True:
            yield Sample("chain", layers, (1, 4))

    made = []

    def prepare(module, inputs):
        made.append(module)  # the processor is disturbed until a third sample is there
        return lambda: time.sleep(DISTURBED_S if len(made) < 3 else QUICK_S)

    monkeypatch.setattr(calibration_networks, "samples", drawn)
    monkeypatch.setattr(observing, "heartbeat", lambda device: lambda: 1.0)
    profile(nn.Linear(4, 4), torch.empty(1, 4))  # the first count imports what it needs
    begun = time.monotonic()
    found, _ = observing.observe(
        Device(kind, "torch"), prepare, begun, begun + 3.0, 0, lambda share, text: None
    )
    first, network = islice(found, 2)
    assert first.seconds >= DISTURBED_S
    assert network.network
    assert (network.seconds < DISTURBED_S) == (kind == "cuda")
    assert torch.tensor([one.spread for one in found]).isfinite().all()
