"""CIFAR-10 from two mosaics: one JPEG a split, 32×32 tiles in row order, and a file of one label byte a tile.

The folder is the one named in the environment variable `TENFOLD_DATA`, or that given. It holds `cifar10_train.jpg`
(50,000 tiles), `cifar10_train_labels.u8`, `cifar10_test.jpg` (10,000 tiles) and `cifar10_test_labels.u8`. JPEG is
lossy, so accuracies lie a point or so under those on the original pixels.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tenfold.data.pixels import ByteImages, Scaling
from tenfold.data.split import Split
from tenfold.data.task import Splits
from tenfold.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of all pixels of the 50,000 training images, by channel, on a scale of 0 to 1.
SCALING = Scaling((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SIDE = 32
VALIDATION_SHARES = {"train": 0.1, "test": 0.2}  # of the images that validation is taken from
VARIABLE = "TENFOLD_DATA"
LARGEST_MOSAIC = 1 << 28  # pixels; Pillow's own limit would refuse 50,000 tiles


def cifar10(folder: Path | str | None = None, *, whole: bool = False) -> Splits:
    """Training, validation and test images as bytes (N, 3, 32, 32), normalised as they are read.

    5,000 of the 50,000 training images are set aside for validation (500 a class, always the same). With `whole`, for
    networks that learn from all 50,000, 2,000 of the 10,000 test images are. A network that has learnt from images
    must not be judged by them: its card says which it needs.
    Raises `DataError` where a file is missing, or is not what it should be.
    """
    if folder is None:
        folder = os.environ.get(VARIABLE)
    if not folder:
        raise DataError(f"CIFAR-10 is read from the folder in the environment variable {VARIABLE}: set it")
    parts = {}
    for name, gives in (("train", not whole), ("test", whole)):
        pixels, labels = read_mosaic(Path(folder), f"cifar10_{name}")
        places = torch.arange(len(labels))
        if gives:
            # Drawn on the labels alone, so that bytes stay bytes.
            rest, held = Split((places, labels)).hold_out(VALIDATION_SHARES[name])
            places, chosen = as_indices(rest), as_indices(held)
            parts["validation"] = Split(ByteImages(pixels[chosen], labels[chosen], SCALING))
        parts[name] = Split(ByteImages(pixels[places], labels[places], SCALING))
    return Splits(parts["train"], parts["validation"], parts["test"], CLASSES)


def cifar10_whole() -> Splits:
    """As `cifar10(whole=True)`, for `--data tenfold.data.cifar10:cifar10_whole`."""
    return cifar10(whole=True)


def as_indices(split: Split) -> torch.Tensor:
    """All inputs (N,) of a split of numbers."""
    inputs, _ = split.select(range(len(split)))
    assert isinstance(inputs, torch.Tensor)
    return inputs


def read_mosaic(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tiles (N, 3, 32, 32) as bytes and labels (N,) of `name.jpg` and `name_labels.u8`."""
    picture, list_of_labels = folder / f"{name}.jpg", folder / f"{name}_labels.u8"
    for path in (picture, list_of_labels):
        if not path.is_file():
            raise DataError(f"{path} does not exist: {VARIABLE} must name the folder that holds it")
    try:
        labels = np.fromfile(list_of_labels, dtype=np.uint8)
        # Pillow warns of pictures as large as a mosaic is on purpose.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LARGEST_MOSAIC
        try:
            with Image.open(picture) as image:
                mosaic = np.asarray(image.convert("RGB"))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{picture} cannot be read: {error}") from error
    height, width = mosaic.shape[:2]
    rows, columns = height // SIDE, width // SIDE
    if height % SIDE or width % SIDE or rows * columns != len(labels):
        raise DataError(
            f"{picture} is {height}×{width} pixels, {rows * columns} tiles of {SIDE}×{SIDE}, "
            f"but {list_of_labels.name} holds {len(labels)} labels"
        )
    if int(labels.max()) >= len(CLASSES):
        index = int(np.argmax(labels >= len(CLASSES)))
        raise DataError(
            f"{list_of_labels}: label {index} is {labels[index]}, and there are {len(CLASSES)} classes"
        )
    tiles = mosaic.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(np.ascontiguousarray(tiles)), torch.from_numpy(labels.astype(np.int64))
