"""The sample that ships: a part of Fashion-MNIST (its README beside the files says how it was drawn)."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import torch
from torch import Tensor

from tenfold.data.split import Split
from tenfold.data.task import Splits

# Mean and standard deviation of all pixels of the 60,000 training images, on a scale of 0 to 1.
MEAN, STD = 0.2860, 0.3530
CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def fashion_mnist() -> Splits:
    """10,000 training, 5,000 validation and 10,000 test images: float32 (N, 1, 28, 28), normalised; labels (N,)."""
    return Splits(_part("train"), _part("validation"), _part("test"), CLASSES)


def normalised(images: Tensor) -> Tensor:
    """Bytes (N, 28, 28) as the sample's network takes them: float32 (N, 1, 28, 28), (x / 255 − mean) / std."""
    return images[:, None].float().div_(255).sub_(MEAN).div_(STD)


def _part(name: str) -> Split:
    with (
        as_file(files("tenfold.data") / "fashion_mnist" / f"{name}.npz") as path,
        np.load(path, allow_pickle=False) as arrays,
    ):
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    return Split((normalised(images), labels.long()))
