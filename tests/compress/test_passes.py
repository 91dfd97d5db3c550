"""How many passes fit: what is waited for once is counted once, and no time gives no pass."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tenfold.compress import passes
from tenfold.compress.passes import Pace, may_mix, pace
from tenfold.data import Split
from tenfold.training import Distillation, Precision, TeacherOutputs
from tenfold.training.optimizers import Sgd
from tenfold.training.remembered import Remembered

CPU = torch.device("cpu")


class Slow(Dataset):
    """200 images (1, 4, 4) that take two milliseconds each to read."""

    targets = torch.arange(200) % 3

    def __len__(self) -> int:
        return 200

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.002)
        return torch.full((1, 4, 4), i / 200), self.targets[i]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def paced(split: Split, seconds: float, mixing: bool = False) -> Pace | None:
    teacher = TeacherOutputs(network(), split, batch_size=20, precision=Precision())
    options = {"optimizer": Sgd(0.01), "batch_size": 20, "precision": Precision()}
    deadline = time.monotonic() + seconds
    return pace(deadline, network(), split, Distillation(teacher), 0, options, mixing)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (-1.0, 0.0),
        (5.0, 0.5),  # of a pass that reads everything and waits for a third of the answers: 2 + 6 + 2 seconds
        (10.0, 1.0),
        (14.0, 2.0),  # another third of the answers, and nothing to read
        (18.0, 3.0),
        (26.0, 7.0),
    ],
)
def test_what_is_waited_for_once_is_counted_once(
    left: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "MARGIN", 1.0)
    monkeypatch.setattr(passes.time, "monotonic", lambda: 100.0)
    known = Pace(alone=2.0, reading=6.0, teaching=6.0, views=3, preparing=1.0)
    assert known.passes_by(101.0 + left) == pytest.approx(expected)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_without_time_for_a_step_there_is_no_pace(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "device_of", lambda model: torch.device(place))
    assert paced(Split((torch.randn(60, 1, 4, 4), torch.arange(60) % 3)), -1.0) is None


def test_reading_that_takes_longer_than_the_time_leaves_a_part_of_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "device_of", lambda model: torch.device("cuda"))
    monkeypatch.setattr(passes, "TRIAL_STEPS_ON_GPU", 4)
    split = Remembered(Split(Slow()), CPU)
    split.select(range(20))  # some of it, whose pace is known
    found = paced(split, 60.0)
    assert found is not None
    assert found.reading >= 0.002 * 100
    assert 0 < found.passes_by(time.monotonic() + found.preparing + found.reading / 2) < 1


def test_mixed_images_wait_for_no_answer_that_is_kept() -> None:
    split = Split((torch.randn(200, 1, 4, 4), torch.arange(200) % 3))
    plain, mixed = paced(split, 60.0), paced(split, 60.0, mixing=True)
    assert plain is not None
    assert mixed is not None
    assert plain.teaching > 0
    assert mixed.teaching == 0.0


def test_what_is_mixed() -> None:
    images, words = torch.randn(640, 1, 4, 4), torch.ones(640, 5, dtype=torch.long)
    labels = torch.arange(640) % 3
    split = Split((images, labels))
    assert may_mix(split, 0.1, 32, 100.0)  # 2,000 steps
    assert not may_mix(split, 0.1, 32, 99.0)
    assert not may_mix(split, 0.1, 32, 200.0, steps=1999)
    assert not may_mix(split, 0.9, 32, 200.0)
    assert not may_mix(split, 0.1, 16, 200.0)
    assert not may_mix(Split((words, labels)), 0.1, 32, 200.0)
    assert not may_mix(Split((images, torch.randn(640, 2))), 0.1, 32, 200.0)
