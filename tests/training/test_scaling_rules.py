"""Finding a rule of scaling: the data on the network's resolution, points that are kept, and what is refused."""

from pathlib import Path

import pytest
import torch

from tenfold.data import Splits
from tenfold.data.pixels import ByteImages, Scaling
from tenfold.data.resizing import resized
from tenfold.data.split import Split
from tenfold.errors import DataError, NetworkError
from tenfold.models.scaling import scale
from tenfold.training import Sgd, TrainingRecipe, find_rule
from tenfold.training.recipes import Arithmetic
from tenfold.training.rules import trained_score

RECIPE = TrainingRecipe(epochs=1, batch_size=6, optimizer=Sgd(0.01), arithmetic=Arithmetic.FP32)
OPTIONS = {"num_classes": 2, "in_channels": 3, "resolution": 16, "width": 0.25}


def split(count: int) -> Split:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(ByteImages(pixels, torch.arange(count) % 2, Scaling((0.5,), (0.25,))))


def data() -> Splits:
    return Splits(split(24), split(8), split(10))


def test_bytes_and_floats_come_on_another_side_as_a_mean_of_their_neighbours() -> None:
    small = resized(data(), 4)
    before, after = data().train.dataset, small.train.dataset
    assert isinstance(before, ByteImages)
    assert isinstance(after, ByteImages)
    assert after.images.shape == (24, 3, 4, 4)
    assert after.images.dtype == torch.uint8
    assert torch.equal(after.targets, before.targets)
    flat = Splits((torch.full((4, 1, 6, 6), 0.5), torch.arange(4) % 2), split(2), None)
    assert torch.equal(resized(flat, 9).train.select([0, 3])[0], torch.full((2, 1, 9, 9), 0.5))
    chosen = Splits(split(24).subset(torch.tensor([5, 2])), split(4), None)
    picked = resized(chosen, 4).train.dataset
    assert isinstance(picked, ByteImages)
    assert torch.equal(picked.images, after.images[[5, 2]])


def test_a_point_is_trained_on_its_own_resolution_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = scale("mobilenet_v1", 0.0, **OPTIONS)
    score = trained_score(scaled, data(), RECIPE, seed=1, folder=tmp_path)
    assert 0 <= score <= 1
    (kept,) = tmp_path.glob("*-r16-1.json")
    assert '"validation"' in kept.read_text()

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("tenfold.training.rules.train", refused)
    assert trained_score(scaled, data(), RECIPE, seed=1, folder=tmp_path) == score
    with pytest.raises(AssertionError, match="trained again"):
        trained_score(scaled, data(), TrainingRecipe(epochs=2), seed=1, folder=tmp_path)


def test_what_cannot_be_searched_is_refused_before_training() -> None:
    with pytest.raises(NetworkError, match="at least 12 points"):
        find_rule("mobilenet_v1", data(), RECIPE, points=3, **OPTIONS)
    vectors = Splits((torch.randn(6, 5), torch.arange(6) % 2), (torch.randn(2, 5), torch.arange(2)), None)
    with pytest.raises(DataError, match="only images"):
        find_rule("mobilenet_v1", vectors, RECIPE, **OPTIONS)
    with pytest.raises(DataError, match="side of at least 1"):
        resized(data(), 0)
