"""Data from an `.npz` file: arrays of images (or other inputs) and labels, by the names of the splits.

Keys: `train_images` and `train_labels`, likewise `validation_…` (or `val_…`) and `test_…`; or `images` and
`labels` alone, which are split 60 : 20 : 20 by a fixed seed, every class alike. Optional: `mean` and `std` (one
number, or one a channel) and `classes` (names in label order). Bytes are images, (N, H, W) or (N, H, W, C), and
become float32 (N, C, H, W) as (x / 255 − mean) / std. Arrays of floats or wider integers are taken as they are.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tenfold.data.pixels import Numbers, Scaling, channels_first, image_split, scaling_from
from tenfold.data.split import Split, as_labels
from tenfold.data.task import VALIDATION_SHARE, Splits
from tenfold.errors import DataError

TEST_SHARE = 0.2
SPLIT_KEYS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_CHUNK = 1 << 22  # numbers looked at together when searching for one that is not finite


def read_archive(
    path: Path, *, mean: Numbers | None = None, std: Numbers | None = None, seed: int = 0
) -> Splits:
    """The splits of an `.npz`. Raises `DataError` that names the file, the key and the index of what is wrong."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, AttributeError) as error:
        pickled = "pickle" in str(error)
        hint = "it holds Python objects, which are not read: store plain arrays" if pickled else error
        raise DataError(f"{path} cannot be read as .npz: {hint}") from error
    try:
        return _splits(arrays, mean, std, seed)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _splits(arrays: Mapping[str, np.ndarray], mean: Numbers | None, std: Numbers | None, seed: int) -> Splits:
    scaling = scaling_from(
        arrays.get("mean") if mean is None else mean, arrays.get("std") if std is None else std
    )
    classes = tuple(str(name) for name in np.atleast_1d(arrays["classes"])) if "classes" in arrays else ()
    if "images" in arrays or "labels" in arrays:
        rest, test = _split(arrays, "images", "labels", scaling).hold_out(TEST_SHARE, seed=seed)
        train, validation = rest.hold_out(VALIDATION_SHARE / (1 - TEST_SHARE), seed=seed)
        return Splits(train, validation, test, classes)
    parts: dict[str, Split] = {}
    for name, prefixes in SPLIT_KEYS.items():
        for prefix in prefixes:
            if f"{prefix}_images" in arrays or f"{prefix}_labels" in arrays:
                parts[name] = _split(arrays, f"{prefix}_images", f"{prefix}_labels", scaling)
    if "train" not in parts:
        known = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(f"no train_images and train_labels, nor images and labels: it holds {known}")
    return Splits(parts["train"], parts.get("validation"), parts.get("test"), classes)


def _split(arrays: Mapping[str, np.ndarray], images_key: str, labels_key: str, scaling: Scaling) -> Split:
    for key in (images_key, labels_key):
        if key not in arrays:
            raise DataError(
                f"the key {key} is missing beside {images_key if key == labels_key else labels_key}"
            )
    images, targets = arrays[images_key], class_labels(arrays[labels_key], labels_key)
    if images.ndim == 0 or len(images) == 0:
        raise DataError(f"{images_key} is empty")
    if len(images) != len(targets):
        raise DataError(f"{images_key} holds {len(images)} examples, {labels_key} {len(targets)}")
    if images.dtype == np.uint8:
        return image_split(torch.from_numpy(channels_first(images, images_key)), targets, scaling)
    if scaling.mean:
        raise DataError(
            f"mean and std are for bytes, but {images_key} is {images.dtype}: scale it beforehand"
        )
    if images.dtype.kind == "f":
        require_finite(images, images_key)
        return Split((torch.from_numpy(images.astype(np.float32, copy=False)), targets))
    if images.dtype.kind in "iu":
        return Split((as_labels(torch.from_numpy(images)), targets))
    raise DataError(f"{images_key} has the type {images.dtype}: use uint8 for images, or floats")


def class_labels(labels: np.ndarray, name: str) -> Tensor:
    """Labels (N,) as int64; a `DataError` that names the index where they are not class indices from 0."""
    if labels.ndim != 1:
        hint = " (one-hot? take argmax)" if labels.ndim == 2 else ""
        raise DataError(f"{name} has shape {labels.shape}: one whole number an example is wanted{hint}")
    if labels.dtype.kind not in "iu":
        hint = "" if labels.dtype.kind != "f" else "; other targets can come from package.module:factory"
        raise DataError(f"{name} has the type {labels.dtype}: labels are whole numbers from 0{hint}")
    if labels.dtype == np.uint64 and (labels > np.iinfo(np.int64).max).any():
        index = int(np.argmax(labels > np.iinfo(np.int64).max))
        raise DataError(
            f"{name}[{index}] is {labels[index]}: it has overflowed (a negative number as unsigned?)"
        )
    if (labels < 0).any():
        index = int(np.argmax(labels < 0))
        raise DataError(f"{name}[{index}] is {labels[index]}: labels are whole numbers from 0")
    return torch.from_numpy(labels.astype(np.int64))


def require_finite(values: np.ndarray, name: str) -> None:
    """Raise a `DataError` that names the first example holding NaN or infinity."""
    step = max(1, _CHUNK * len(values) // max(values.size, 1))
    for start in range(0, len(values), step):
        finite = np.isfinite(values[start : start + step].reshape(min(step, len(values) - start), -1)).all(
            axis=1
        )
        if not finite.all():
            raise DataError(f"{name}[{start + int(np.argmin(finite))}] holds NaN or infinity")
