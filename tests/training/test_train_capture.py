"""Steps replayed from a CUDA graph draw anew and move the weights as plain steps do."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from tenfold.data.pixels import Scaling
from tenfold.training import Augmentation, Precision, Sgd, TrainingRecipe
from tenfold.training.resident import ResidentImages
from tenfold.training.stepper import WARM_UP, Stepper

COUNT, SIDE, PADDING = 64, 8, 4
PLACES = 2 * PADDING + 1
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


class Watched(nn.Module):
    """A small network that keeps the last batch it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Parameter(torch.zeros(COUNT, 1, SIDE, SIDE), requires_grad=False)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (SIDE - 2) ** 2, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        self.seen.data.copy_(x)
        return self.layers(x)


def held(padding: int, device: str) -> ResidentImages:
    """Images whose pixels say where they are: row·8 + column + 1, so that a crop tells its place."""
    pixels = torch.arange(1, SIDE * SIDE + 1, dtype=torch.uint8).view(1, 1, SIDE, SIDE)
    pixels = pixels.repeat(COUNT, 1, 1, 1)
    labels = torch.arange(COUNT) % 3
    return ResidentImages(pixels, labels, Scaling((0.0,), (1.0,)), torch.device(device), padding)


def stepper(device: str, augmentation: Augmentation, graph: bool) -> tuple[Stepper, Watched]:
    torch.manual_seed(0)
    model = Watched().to(device).train()
    recipe = TrainingRecipe(optimizer=Sgd(0.1), augmentation=augmentation)
    made = Stepper(model, held(augmentation.padding, device), recipe, COUNT, Precision(), graph=graph)
    return made, model


def crops(seen: Tensor) -> list[tuple[int, int, bool]]:
    """Row and column of each crop, and whether it is mirrored, read off its pixels."""
    found = []
    for image in (seen[:, 0] * 255).round().long().cpu():
        row, column = (int(axis[0]) for axis in torch.nonzero(image, as_tuple=True))
        value = int(image[row, column]) - 1
        beside = int(image[row, column + 1]) - 1 if column + 1 < SIDE else -1
        mirrored = beside == value - 1
        found.append((value // SIDE - row, value % SIDE - column, mirrored))
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_no_two_steps_crop_alike_and_every_image_is_cropped_by_itself(device: str) -> None:
    made, model = stepper(device, Augmentation(padding=PADDING, flip=True), graph=True)
    index = torch.arange(COUNT, device=device)
    for _ in range(WARM_UP):
        made(index, 0.0)
    assert made.captured == (device == "cuda")
    steps = []
    for _ in range(12):
        made(index, 0.0)
        steps.append(crops(model.seen.data))
    # A crop and its mirror are one of 2 · 81: two steps agree by chance in 1 image of 162.
    for before, after in itertools.pairwise(steps):
        alike = sum(a == b for a, b in zip(before, after, strict=True))
        assert alike <= 6
    assert all(len(set(step)) > COUNT / 3 for step in steps)
    drawn = [crop for step in steps for crop in step]
    assert {crop[0] for crop in drawn} == set(range(-PADDING, PADDING + 1))
    assert sum(crop[2] for crop in drawn) / len(drawn) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("device", DEVICES)
def test_captured_steps_are_plain_steps(device: str) -> None:
    captured, first = stepper(device, Augmentation(), graph=True)
    plain, second = stepper(device, Augmentation(), graph=False)
    generator = torch.Generator().manual_seed(1)
    for step in range(WARM_UP + 8):
        index = torch.randperm(COUNT, generator=generator).to(device)
        rate = 0.01 * (1 + step % 3)
        captured(index, rate)
        plain(index, rate)
    assert captured.captured == (device == "cuda")
    assert not plain.captured
    assert captured.loss.item() == pytest.approx(plain.loss.item(), rel=1e-4)
    for mine, its in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-3)
