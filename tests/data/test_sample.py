"""The sample that ships."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import numpy as np
import torch

from tenfold.data import fashion_mnist


def test_sizes_balance_and_preprocessing() -> None:
    splits = fashion_mnist()
    assert len(splits.classes) == 10
    for split, number in ((splits.train, 1000), (splits.validation, 500), (splits.test, 1000)):
        images, labels = split.stacked
        assert images.shape == (10 * number, 1, 28, 28)
        assert images.dtype == torch.float32
        assert labels.bincount().tolist() == [number] * 10
    images = splits.train.stacked[0].double()
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.01
    with np.load(str(files("tenfold.data") / "fashion_mnist" / "train.npz")) as stored:
        wanted = (stored["images"][17].astype(np.float64) / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(images[17, 0].numpy(), wanted, atol=1e-6)


def test_no_image_is_in_two_parts() -> None:
    """Fashion-MNIST itself holds some equal images; the parts must not share more than its few duplicates."""
    parts = {}
    for name in ("train", "validation", "test"):
        with np.load(str(files("tenfold.data") / "fashion_mnist" / f"{name}.npz")) as stored:
            parts[name] = {image.tobytes() for image in stored["images"]}
    assert len(parts["train"] & parts["validation"]) < 5
    assert len(parts["train"] & parts["test"]) < 5
    assert len(parts["validation"] & parts["test"]) < 5


def test_the_readme_states_the_hashes_of_the_files() -> None:
    folder = files("tenfold.data") / "fashion_mnist"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for name in ("train", "validation", "test"):
        digest = hashlib.sha256((folder / f"{name}.npz").read_bytes()).hexdigest()
        assert f"`{name}.npz`" in readme
        assert digest in readme
    assert "Copyright (c) 2017 Zalando SE" in (folder / "LICENSE").read_text(encoding="utf-8")
