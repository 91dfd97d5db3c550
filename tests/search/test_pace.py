"""What a healing is expected to take: measured on steps of the original, which stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch

import tenfold
from tenfold.data import fashion_mnist
from tenfold.models import CifarResNet
from tenfold.search import pace
from tenfold.search.pace import pace_on_gpu

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_whole_steps_tell_the_pace_and_leave_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = CifarResNet(8, num_classes=10, in_channels=1).eval()
    task = tenfold.Task(network, train=fashion_mnist().train.take(96))
    before = copy.deepcopy(network.state_dict())
    asked: list[dict] = []

    def fit(*given, **options):
        asked.append(options)
        result = real(*given, **options)
        asked.append({"pace": result.pace, "steps": result.steps})
        return result

    real = pace.fit
    monkeypatch.setattr(pace, "fit", fit)
    found = pace_on_gpu(task, HERE)
    options, result = asked
    assert result["steps"] == pace.TRIAL_STEPS_ON_GPU
    assert found == pytest.approx(result["pace"] / options["batch_size"])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
