"""Data from `.npz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.data import load_data, pixels
from tenfold.errors import DataError

RANDOM = np.random.default_rng(0)


def bytes_of(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def saved(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def test_images_alone_are_split_by_class(tmp_path: Path) -> None:
    images, labels = bytes_of(100, 6, 5, 3), np.repeat(np.arange(4), 25)
    splits = load_data(str(saved(tmp_path, images=images, labels=labels, classes=["a", "b", "c", "d"])))
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [60, 20, 20]
    assert splits.classes == ("a", "b", "c", "d")
    for split in (splits.train, splits.validation, splits.test):
        counts = split.known_targets.bincount()
        assert counts.max() - counts.min() <= 1
    seen = torch.cat([s.stacked[0] for s in (splits.train, splits.validation, splits.test)])
    wanted = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    assert sorted(map(tuple, seen.flatten(1)[:, :4].tolist())) == sorted(
        map(tuple, wanted.flatten(1)[:, :4].tolist())
    )


def test_given_splits_and_normalisation(tmp_path: Path) -> None:
    train, val = bytes_of(8, 4, 4, 3), bytes_of(5, 4, 4, 3)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    arrays = {
        "train_images": train,
        "train_labels": np.arange(8),
        "val_images": val,
        "val_labels": np.arange(5),
    }
    splits = load_data(str(saved(tmp_path, **arrays, mean=mean, std=std)))
    assert splits.test is None
    wanted = (val / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(splits.validation.stacked[0].numpy(), wanted.transpose(0, 3, 1, 2), atol=1e-5)
    overridden = load_data(str(saved(tmp_path, **arrays, mean=mean, std=std)), mean=0.0, std=1.0)
    np.testing.assert_allclose(
        overridden.train.stacked[0].numpy(), train.transpose(0, 3, 1, 2) / 255, atol=1e-6
    )


def test_grey_images_and_float_arrays(tmp_path: Path) -> None:
    grey = load_data(str(saved(tmp_path, train_images=bytes_of(9, 7, 6), train_labels=np.zeros(9, np.uint8))))
    assert grey.train.stacked[0].shape == (9, 1, 7, 6)
    rows = RANDOM.normal(size=(9, 11))
    table = load_data(str(saved(tmp_path, train_images=rows, train_labels=np.zeros(9, np.int16))))
    assert torch.equal(table.train.stacked[0], torch.from_numpy(rows.astype(np.float32)))


def test_large_sets_stay_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, train_images=bytes_of(9, 7, 6), train_labels=np.arange(9), mean=0.3, std=0.5)
    small = load_data(str(path)).train
    monkeypatch.setattr(pixels, "IN_MEMORY_BYTES", 10)
    large = load_data(str(path)).train
    assert large.stacked is None
    assert torch.equal(large.select([3, 8])[0], small.select([3, 8])[0])  # type: ignore[arg-type]
    assert large.known_targets.tolist() == list(range(9))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": bytes_of(2, 2, 2)}, "no train_images and train_labels, nor images and labels: it holds pictures"),
        ({"train_images": bytes_of(2, 2, 2)}, "the key train_labels is missing beside train_images"),
        ({"images": bytes_of(2, 2, 2), "labels": np.array([0.0, 1.0])}, "labels has the type float64"),
        ({"images": bytes_of(2, 2, 2), "labels": np.array([0, -1])}, r"labels\[1\] is -1"),
        ({"images": bytes_of(2, 2, 2), "labels": np.array([0, 2**64 - 1], np.uint64)}, r"labels\[1\] is 18446744073709551615: it has overflowed"),
        ({"images": bytes_of(2, 2, 2), "labels": np.eye(2, dtype=int)}, "one-hot"),
        ({"images": bytes_of(2, 2, 2), "labels": np.array(["a", "b"])}, "labels are whole numbers"),
        ({"images": bytes_of(3, 2, 2), "labels": np.array([0, 1])}, "images holds 3 examples, labels 2"),
        ({"images": bytes_of(0, 2, 2), "labels": np.zeros(0, int)}, "images is empty"),
        ({"images": bytes_of(2, 5, 5, 7), "labels": np.array([0, 1])}, r"images has shape \(2, 5, 5, 7\)"),
        ({"images": bytes_of(2, 4), "labels": np.array([0, 1])}, r"images has shape \(2, 4\)"),
        ({"images": np.array([[0.0], [np.nan]]), "labels": np.array([0, 1])}, r"images\[1\] holds NaN or infinity"),
        ({"images": np.array([[np.inf], [0.0]]), "labels": np.array([0, 1])}, r"images\[0\] holds NaN or infinity"),
        ({"images": np.zeros((2, 2), complex), "labels": np.array([0, 1])}, "has the type complex128"),
        ({"images": np.zeros((2, 2)), "labels": np.array([0, 1]), "mean": 0.5, "std": 0.5}, "mean and std are for bytes"),
        ({"images": bytes_of(2, 2, 2), "labels": np.array([0, 1]), "mean": 0.5}, "belong together"),
        ({"images": bytes_of(2, 2, 2), "labels": np.array([0, 1]), "mean": 0.5, "std": 0.0}, "std must be above zero"),
        ({"images": bytes_of(2, 2, 2), "labels": np.array([0, 1]), "mean": [0.5] * 3, "std": [0.5] * 3}, "3 values, but the images have 1 channels"),
        ({"images": bytes_of(2, 2, 2), "labels": np.array([0, 1])}, "2 examples are too few to set 20% aside"),
    ],
)  # fmt: skip
def test_bad_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(str(saved(tmp_path, **arrays)))
    assert str(tmp_path / "data.npz") in str(caught.value)


def test_nan_far_into_a_large_array(tmp_path: Path) -> None:
    images = np.zeros((3000, 50), np.float32)
    images[2345, 6] = np.nan
    with pytest.raises(DataError, match=r"train_images\[2345\] holds NaN"):
        load_data(str(saved(tmp_path, train_images=images, train_labels=np.zeros(3000, int))))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = saved(tmp_path, images=np.array([{"a": 1}], dtype=object), labels=np.array([0]))
    with pytest.raises(DataError, match="Python objects, which are not read"):
        load_data(str(path))


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_data(str(tmp_path / "data.npz"))
    path = saved(tmp_path, images=bytes_of(20, 9, 9), labels=np.arange(20))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_data(str(path))
    with pytest.raises(DataError, match=r"does not exist.*did you mean 'data.npz'"):
        load_data(str(tmp_path / "dat.npz"))
    with pytest.raises(DataError, match="an image size is for folders"):
        load_data(str(path), image_size=8)
