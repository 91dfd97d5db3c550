"""Data from folders of class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold.data import folder, load_data
from tenfold.errors import DataError


def picture(
    path: Path, size: tuple[int, int] = (6, 5), value: int | None = None, mode: str = "RGB"
) -> np.ndarray:
    """Write a picture of this (height, width) and return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, 3)
    random = np.random.default_rng(sum(path.name.encode()))
    pixels = (
        random.integers(0, 256, shape, dtype=np.uint8) if value is None else np.full(shape, value, np.uint8)
    )
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, number in (("train", 4), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(number):
                picture(tmp_path / part / name / f"{i}.png", value=10 * i + (100 if name == "dog" else 0))
    return tmp_path


def test_given_splits(root: Path) -> None:
    splits = load_data(str(root))
    assert splits.classes == ("cat", "dog")
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [8, 4, 6]
    images, labels = splits.validation.stacked
    assert images.shape == (4, 3, 6, 5)
    assert labels.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([0.0, 10, 100, 110]) / 255)
    normal = load_data(str(root), mean=0.5, std=0.25).validation.stacked[0]
    torch.testing.assert_close(normal, (images - 0.5) / 0.25)


def test_class_folders_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(10):
            picture(tmp_path / name / f"{i}.png", mode="L")
    splits = load_data(str(tmp_path))
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [12, 4, 4]
    assert splits.train.stacked[0].shape == (12, 1, 6, 5)
    assert splits.train.known_targets.bincount().tolist() == [6, 6]


def test_one_colour_image_makes_all_rgb(tmp_path: Path) -> None:
    for i in range(10):
        picture(tmp_path / "a" / f"{i}.png", mode="L" if i else "RGB")
    assert load_data(str(tmp_path)).train.stacked[0].shape[1] == 3


def test_mixed_sizes_name_two_files(root: Path) -> None:
    picture(root / "train" / "dog" / "odd.png", size=(7, 9))
    with pytest.raises(DataError, match=r"cat/0\.png is 6×5, .*dog/odd\.png is 7×9 .*pass --image-size"):
        load_data(str(root))
    images = load_data(str(root), image_size=(4, 8)).train.stacked[0]
    assert images.shape[1:] == (3, 4, 8)
    with pytest.raises(DataError, match="the image size must be"):
        load_data(str(root), image_size=0)


def test_resizing_covers_and_crops_the_centre(tmp_path: Path) -> None:
    for i in range(5):
        path = tmp_path / "a" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.zeros((8, 16, 3), np.uint8)
        pixels[:, 4:12] = 200  # the middle square
        Image.fromarray(pixels).save(path)
    images = load_data(str(tmp_path), image_size=8).train.stacked[0]
    assert images.eq(200 / 255).all()


def test_large_folders_are_decoded_when_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = load_data(str(root)).train
    monkeypatch.setattr(folder, "DECODED_AT_ONCE", 10)
    large = load_data(str(root)).train
    assert large.stacked is None
    assert torch.equal(large.select([1, 6])[0], small.select([1, 6])[0])  # type: ignore[arg-type]
    assert large.known_targets.tolist() == [0] * 4 + [1] * 4
    # A picture that changed since: refused by name, not resized in silence.
    picture(root / "train" / "cat" / "1.png", size=(9, 9))
    with pytest.raises(DataError, match=r"cat/1\.png is 9×9, other images are 6×5"):
        large.select([1])


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i in range(5):
        Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "a" / f"{i}.png")
    assert load_data(str(tmp_path)).train.stacked[0].eq(128 / 255).all()


def test_faults_are_named(root: Path, tmp_path: Path) -> None:
    (root / "train" / "fox").mkdir()
    (root / "train" / "fox" / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"class 'fox' is empty: no image in .*train/fox"):
        load_data(str(root))
    (root / "train" / "fox" / "notes.txt").unlink()
    (root / "train" / "fox").rmdir()
    picture(root / "val" / "emu" / "0.png")
    with pytest.raises(DataError, match="has a class 'emu' that train has not"):
        load_data(str(root))
    (root / "val" / "emu" / "0.png").unlink()
    (root / "val" / "emu").rmdir()
    good = (root / "train" / "cat" / "2.png").read_bytes()
    (root / "train" / "cat" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"cat/2\.png cannot be read as an image"):
        load_data(str(root))
    (root / "train" / "cat" / "2.png").write_bytes(good[:45])  # the header is whole, the pixels are not
    with pytest.raises(DataError, match=r"cat/2\.png cannot be read as an image"):
        load_data(str(root))


def test_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folders"):
        load_data(str(tmp_path))
    picture(tmp_path / "validation" / "a" / "0.png")
    with pytest.raises(DataError, match="but no folder train"):
        load_data(str(tmp_path))
