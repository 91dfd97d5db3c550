"""CIFAR-10 from mosaics: small ones made here, and the real ones where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold.data.cifar10 import CLASSES, SCALING, cifar10, read_mosaic
from tenfold.data.pixels import ByteImages
from tenfold.errors import DataError


def write(folder: Path, name: str, rows: int, columns: int) -> np.ndarray:
    """A mosaic of plain tiles, each of its own grey, and labels 0, 1, …, 9, 0, …; returns the greys."""
    greys = np.linspace(10, 240, rows * columns).round().astype(np.uint8)
    tiles = np.repeat(np.repeat(greys.reshape(rows, columns), 32, 0), 32, 1)
    Image.fromarray(np.repeat(tiles[:, :, None], 3, 2)).save(folder / f"{name}.jpg", quality=95)
    (np.arange(rows * columns) % 10).astype(np.uint8).tofile(folder / f"{name}_labels.u8")
    return greys


def test_tiles_are_read_in_row_order(tmp_path: Path) -> None:
    greys = write(tmp_path, "cifar10_train", 4, 25)
    pixels, labels = read_mosaic(tmp_path, "cifar10_train")
    assert pixels.shape == (100, 3, 32, 32)
    assert pixels.dtype == torch.uint8
    np.testing.assert_allclose(pixels.float().mean((1, 2, 3)), greys, atol=2)
    assert labels.tolist() == [i % 10 for i in range(100)]


def test_the_splits_are_bytes_and_validation_has_all_classes_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "cifar10_train", 4, 25)
    write(tmp_path, "cifar10_test", 2, 5)
    monkeypatch.setenv("TENFOLD_DATA", str(tmp_path))
    splits = cifar10()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (90, 10, 10)
    assert isinstance(splits.train.dataset, ByteImages)
    assert splits.validation.dataset.targets.sort().values.tolist() == list(range(10))
    assert splits.classes == CLASSES
    image, label = splits.test.select([3])
    pixels, _ = read_mosaic(tmp_path, "cifar10_test")
    torch.testing.assert_close(image, SCALING(pixels[3:4]))
    assert int(label) == 3


def test_validation_may_come_from_the_test_images(tmp_path: Path) -> None:
    write(tmp_path, "cifar10_train", 4, 25)
    write(tmp_path, "cifar10_test", 5, 20)
    splits = cifar10(tmp_path, whole=True)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (100, 20, 80)
    assert torch.bincount(splits.validation.dataset.targets).tolist() == [2] * 10
    pixels, _ = read_mosaic(tmp_path, "cifar10_test")
    both = torch.cat([splits.validation.dataset.images, splits.test.dataset.images])
    greys = pixels.float().mean((1, 2, 3)).sort().values
    torch.testing.assert_close(both.float().mean((1, 2, 3)).sort().values, greys)


def test_what_is_wrong_with_the_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENFOLD_DATA", raising=False)
    with pytest.raises(DataError, match="TENFOLD_DATA: set it"):
        cifar10()
    with pytest.raises(DataError, match=r"cifar10_train\.jpg does not exist"):
        cifar10(tmp_path)
    write(tmp_path, "cifar10_train", 2, 5)
    labels = tmp_path / "cifar10_train_labels.u8"
    np.zeros(9, np.uint8).tofile(labels)
    with pytest.raises(DataError, match=r"10 tiles of 32×32, but .* holds 9 labels"):
        read_mosaic(tmp_path, "cifar10_train")
    np.full(10, 11, np.uint8).tofile(labels)
    with pytest.raises(DataError, match="label 0 is 11, and there are 10 classes"):
        read_mosaic(tmp_path, "cifar10_train")
    (tmp_path / "cifar10_train.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        read_mosaic(tmp_path, "cifar10_train")


def test_the_real_set() -> None:
    folder = os.environ.get("TENFOLD_DATA")
    if not folder or not (Path(folder) / "cifar10_train.jpg").exists():
        pytest.skip("TENFOLD_DATA names no folder with cifar10_train.jpg")
    splits = cifar10()
    assert torch.bincount(splits.validation.dataset.targets).tolist() == [500] * 10
    scaled = splits.train.dataset.images[:5000].float().div(255).mean((0, 2, 3))
    torch.testing.assert_close(scaled, torch.tensor(SCALING.mean), atol=0.01, rtol=0)
