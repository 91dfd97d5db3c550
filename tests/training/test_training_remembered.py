"""Inputs that were read once are not read again, and training on them is training on the split."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tenfold.data import Split
from tenfold.training import Precision, Supervised, fit, remembered
from tenfold.training.remembered import Remembered

CPU = torch.device("cpu")


class Counted(Dataset):
    """Pairs that count how often each was read; every `odd`-th has another shape."""

    def __init__(self, odd: int = 0) -> None:
        self.inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        self.targets = torch.arange(40) % 3
        self.read: Counter[int] = Counter()
        self.odd = odd

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.read[i] += 1
        return (self.inputs[i, :3] if self.odd and i % self.odd == 1 else self.inputs[i]), self.targets[i]


def test_every_example_is_read_once_and_given_as_it_is() -> None:
    data = Counted()
    split = Remembered(Split(data), CPU)
    data.read.clear()
    for index in (torch.tensor([3, 5, 3]), [5, 7], torch.arange(40), range(10)):
        inputs, targets = split.select(index)
        wanted = torch.as_tensor(index)
        assert torch.equal(inputs, data.inputs[wanted])
        assert torch.equal(targets, data.targets[wanted])
    assert all(data.read[i] == 1 for i in range(40) if i != 3)
    assert data.read[3] == 2  # asked for twice in one batch
    assert len(split) == 40
    assert torch.equal(split.known_targets, data.targets)
    assert len(split.subset(torch.tensor([1, 2]))) == 2


def test_inputs_in_memory_are_given_alike() -> None:
    inputs, targets = torch.randn(9, 2, 2), torch.randn(9, 4)
    split = Remembered(Split((inputs, targets)), CPU)
    for _ in range(2):
        assert torch.equal(split.select([8, 0])[0], inputs[[8, 0]])
        assert torch.equal(split.select([8, 0])[1], targets[[8, 0]])


def test_inputs_of_several_shapes_and_kinds_are_read_as_ever() -> None:
    split = Remembered(Split(Counted(odd=4)), CPU)
    assert split.select([0, 2])[0].shape == (2, 6)
    assert split.select([1])[0].shape == (1, 3)
    assert split.select([0, 2])[0].shape == (2, 6)
    words = Split(({"ids": torch.arange(8).view(4, 2)}, torch.zeros(4)))
    assert torch.equal(Remembered(words, CPU).select([1])[0]["ids"], torch.tensor([[2, 3]]))


def test_a_processor_needs_none() -> None:
    split = Split(Counted())
    assert remembered(split, CPU) is split


def test_training_is_the_same() -> None:
    found = []
    for wrap in (lambda split: split, lambda split: Remembered(split, CPU)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        fit(
            model, wrap(Split(Counted())), Supervised(), epochs=3, batch_size=8, seed=1, precision=Precision()
        )
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_keeps_them_unless_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    device, data = torch.device("cuda"), Counted()
    split = remembered(Split(data), device)
    assert isinstance(split, Remembered)
    assert split.select([4])[0].device.type == "cuda"
    assert split.select([4])[1].device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    assert not isinstance(remembered(Split(data), device), Remembered)


def test_what_reading_will_still_take_is_told_from_what_it_took() -> None:
    split = Remembered(Split(Counted()), CPU)
    assert split.waiting() == 0.0  # nothing was read: nothing is known
    split.select(range(10))
    after_ten = split.waiting()
    assert after_ten == pytest.approx(3 * split._seconds)  # 30 of 40 are left
    split.select(range(40))
    assert split.waiting() == 0.0
