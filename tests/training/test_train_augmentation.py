"""Augmentation: every operation against what it means, image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenfold.data import Split
from tenfold.data.pixels import ByteImages, Scaling
from tenfold.errors import DataError
from tenfold.training import Augmentation
from tenfold.training.augmentation import (
    BETA_DRAWS,
    Augmenter,
    boxes,
    cut_and_mixed,
    erased,
    mixed_up,
    recoloured,
    warped,
)
from tenfold.training.resident import ResidentImages

CPU = torch.device("cpu")
SCALING = Scaling((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def images(count: int = 16, side: int = 8) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def byte_split(count: int = 12, side: int = 8) -> Split:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, side, side + 2), dtype=torch.uint8, generator=generator)
    return Split(ByteImages(pixels, torch.arange(count) % 3, SCALING))


@pytest.mark.parametrize("padding", [0, 2])
def test_resident_images_are_those_of_the_split(padding: int) -> None:
    split = byte_split()
    held = ResidentImages.of(split, CPU, "train", padding)
    index = torch.tensor([3, 0, 11])
    mine, labels = held.batch(index)
    theirs, targets = split.select(index)
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
    assert torch.equal(labels, targets)
    assert mine.is_contiguous(memory_format=torch.channels_last)
    assert held.stored.dtype == torch.uint8


def test_resident_images_of_a_subset_of_floats_and_of_vectors() -> None:
    subset = byte_split().subset(torch.tensor([5, 7, 2]))
    torch.testing.assert_close(
        ResidentImages.of(subset, CPU, "train").batch(torch.arange(3))[0],
        byte_split().select([5, 7, 2])[0],
        atol=1e-6, rtol=1e-6,
    )  # fmt: skip
    floats = Split((images(), torch.arange(16)))
    assert torch.equal(ResidentImages.of(floats, CPU, "train", 1).batch(torch.arange(16))[0], images())
    vectors = Split((torch.randn(4, 5), torch.arange(4)))
    held = ResidentImages.of(vectors, CPU, "train", 1)
    assert held.varied(torch.tensor([1, 2]), flip=True)[0].shape == (2, 5)


def test_targets_that_are_no_classes_are_refused() -> None:
    with pytest.raises(DataError, match="train: training wants one class label"):
        ResidentImages.of(Split((images(), torch.randn(16))), CPU, "train")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.booleans(), st.integers(0, 1000))
def test_a_varied_image_is_a_window_of_the_padded_one_perhaps_mirrored(
    padding: int, flip: bool, seed: int
) -> None:
    held = ResidentImages.of(byte_split(), CPU, "train", padding)
    torch.manual_seed(seed)
    index = torch.arange(12)
    varied, _ = held.varied(index, flip)
    whole = (held.stored * held.scale - held.shift).permute(0, 3, 1, 2)
    height, width = held.height, held.width
    for image, padded in zip(varied, whole, strict=True):
        windows = [
            padded[:, r : r + height, c : c + width]
            for r in range(2 * padding + 1)
            for c in range(2 * padding + 1)
        ]
        windows += [w.flip(2) for w in windows] if flip else []
        assert any(torch.allclose(image, w, atol=1e-6) for w in windows)


def test_padding_is_of_the_mean_colour() -> None:
    held = ResidentImages.of(byte_split(), CPU, "train", 2)
    corner = (held.stored[:, 0, 0] * held.scale - held.shift).abs()
    assert bool((corner <= 0.5 / (255 * torch.tensor(SCALING.std)) + 1e-6).all())  # half a byte


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    held = ResidentImages.of(Split((images(1), torch.zeros(1, dtype=torch.long))), CPU, "train")
    varied, _ = held.varied(torch.zeros(2000, dtype=torch.long), flip=True)
    share = (varied == images(1).flip(3)).flatten(1).all(dim=1).float().mean()
    assert abs(share - 0.5) < 0.05


def test_no_warp_is_the_identity_and_the_warps_stay_in_the_image() -> None:
    torch.testing.assert_close(warped(images(), 1.0, 0.0), images(), atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)
    ones = torch.ones(200, 3, 16, 16)
    zoomed = warped(ones, 0.2, 0.0)
    # A zoom only reads from inside, where bilinear reading half a pixel off the edge meets the 0 outside.
    torch.testing.assert_close(zoomed[:, :, 2:-2, 2:-2], ones[:, :, 2:-2, 2:-2])
    moved = warped(ones, 1.0, 1.0)
    assert not torch.allclose(moved, ones)
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1 + 1e-5


def test_a_zoom_shows_a_part_of_the_area_between_its_bounds() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 64).repeat(64, 1)
    both = torch.stack((ramp, ramp.T)).repeat(300, 1, 1, 1)  # the coordinates themselves, as two channels
    shown = warped(both, 0.25, 0.0)[:, :, 8:-8, 8:-8]
    # From one pixel to the next, coordinates move by the side of the window over the number of pixels.
    wide = (shown[:, 0, 20, 40] - shown[:, 0, 20, 4]) / 36 * 63 / 2
    high = (shown[:, 1, 40, 20] - shown[:, 1, 4, 20]) / 36 * 63 / 2
    area = wide * high
    assert float(area.min()) > 0.25 * 0.95
    assert float(area.max()) < 1.05


def test_recoloured_images_keep_what_their_operation_keeps() -> None:
    torch.manual_seed(0)
    before = images(64)
    after = recoloured(before, 0.5)
    brighter = ((after - before).flatten(1).std(dim=1) < 1e-5).sum()
    contrast = ((after - before).mean(dim=(1, 2, 3)).abs() < 1e-6).sum()
    assert 0 < int(brighter) < 64
    assert 0 < int(contrast) < 64
    grey = torch.randn(64, 1, 4, 4)
    assert recoloured(grey, 0.5).shape == grey.shape


def test_an_erased_rectangle_has_the_area_it_should() -> None:
    torch.manual_seed(0)
    gone = erased(torch.ones(2000, 1, 32, 32), 0.5) == 0
    share = gone.float().mean(dim=(1, 2, 3))
    hit = share > 0
    assert abs(float(hit.float().mean()) - 0.5) < 0.05
    assert float(share.max()) < 0.40
    for mask in gone[hit][:50, 0]:  # a full rectangle
        assert int(mask.any(1).sum()) * int(mask.any(0).sum()) == int(mask.sum())


def test_mixing_is_with_the_example_before_and_tells_its_share() -> None:
    torch.manual_seed(0)
    before, share = images(), torch.rand(16)
    blend, told = mixed_up(before, share)
    expected = torch.stack([share[i] * before[i] + (1 - share[i]) * before[i - 1] for i in range(16)])
    torch.testing.assert_close(blend, expected)
    assert torch.equal(told, share)
    cut, own = cut_and_mixed(before, share)
    for i in range(16):
        mine, its = (cut[i] == before[i]).all(0), (cut[i] == before[i - 1]).all(0)
        assert bool((mine | its).all())
        assert float(mine.float().mean()) == pytest.approx(float(own[i]), abs=1e-6)


def test_boxes_have_their_sides_where_they_fit() -> None:
    torch.manual_seed(0)
    mask = boxes(torch.full((500,), 0.5), torch.full((500,), 0.25), 16, 16)
    assert int(mask.any(2).sum(1).max()) == 8
    assert int(mask.any(1).sum(1).max()) == 4


def test_the_augmenter_draws_shares_from_the_beta_distribution_and_repeats_by_seed() -> None:
    augmenter = Augmenter(Augmentation(mixup=0.4), CPU)
    assert augmenter.mixup is not None
    assert augmenter.mixup.shape == (BETA_DRAWS,)
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert float(augmenter.mixup.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(augmenter.mixup.var()) == pytest.approx(1 / (4 * 1.8), rel=0.1)
    everything = Augmenter(Augmentation(zoom=0.5, affine=1, colour=1, erasing=1, mixup=1, cutmix=1), CPU)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(everything(images()))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] is not None
    untouched, share = Augmenter(Augmentation(), CPU)(images())
    assert share is None
    assert torch.equal(untouched, images())


@pytest.mark.parametrize(
    "values",
    [{"padding": -1}, {"zoom": 0.0}, {"erasing": 1.5}, {"affine": -0.1}, {"mixup": -1}, {"cutmix": np.nan}],
)
def test_settings_out_of_range_are_refused_by_name(values: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Augmentation(**values)
