"""How images become what a network takes: bytes to float32, scaled to 0 … 1 or normalised by mean and std."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tenfold.data.split import Split
from tenfold.errors import DataError

CHANNELS = (1, 3, 4)
IN_MEMORY_BYTES = (
    1 << 30
)  # data sets up to this size as float32 are converted at once, larger ones by the example

Numbers = float | Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Scaling:
    """(x / 255 − mean) / std, by channel; without mean and std, x / 255."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.mean) != bool(self.std):
            raise DataError("mean and std belong together: give both or neither")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not all(np.isfinite(value) for value in values):
                raise DataError(f"{name} must be finite, not {values}")
        if any(value <= 0 for value in self.std):
            raise DataError(f"std must be above zero, not {self.std}")

    def __call__(self, images: Tensor) -> Tensor:
        """Bytes (…, C, H, W) -> float32 of the same shape."""
        scaled = images.float().div_(255)
        if not self.mean:
            return scaled
        channels = images.shape[-3]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise DataError(f"{name} has {len(values)} values, but the images have {channels} channels")
        shape = (-1, 1, 1)
        return scaled.sub_(torch.tensor(self.mean).view(shape)).div_(torch.tensor(self.std).view(shape))


def scaling_from(mean: Numbers | None, std: Numbers | None) -> Scaling:
    """A `Scaling` from what a caller gives: one number, one a channel, or None."""
    return Scaling(_values(mean, "mean"), _values(std, "std"))


def _values(value: Numbers | None, name: str) -> tuple[float, ...]:
    if value is None:
        return ()
    try:
        return tuple(float(number) for number in np.atleast_1d(np.asarray(value, dtype=np.float64)).ravel())
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be a number or one number a channel, not {value!r}") from error


def channels_first(images: np.ndarray, name: str) -> np.ndarray:
    """Bytes (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W)."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in CHANNELS:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.ndim == 4 and images.shape[1] in CHANNELS:
        return images
    raise DataError(
        f"{name} has shape {images.shape}; images of bytes are (N, H, W) or (N, H, W, C) with C of 1, 3 or 4"
    )


class ByteImages(Dataset[tuple[Tensor, int]]):
    """Images kept as bytes (N, C, H, W) and scaled one at a time, for sets too large to hold as float32."""

    def __init__(self, images: Tensor, targets: Tensor, scaling: Scaling) -> None:
        self.images, self.targets, self.scaling = images, targets, scaling

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.scaling(self.images[index]), int(self.targets[index])


def image_split(images: Tensor, targets: Tensor, scaling: Scaling) -> Split:
    """Bytes (N, C, H, W) and labels (N,) as a split of float32 images."""
    if images.numel() * 4 <= IN_MEMORY_BYTES:
        return Split((scaling(images), targets))
    return Split(ByteImages(images, targets, scaling))
