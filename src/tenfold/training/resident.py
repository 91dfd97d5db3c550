"""A split held on the device that trains, as bytes where it has bytes, so that reading is never what limits.

Shapes: N examples, B of a batch, C channels, H × W pixels, p pixels of padding.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset

from tenfold.data import Split
from tenfold.data.folder import ImageFiles
from tenfold.data.pixels import ByteImages, Scaling
from tenfold.errors import DataError

READ_AT_ONCE = 512  # examples of a data set that is not in memory
MEMORY_SHARE = 0.7  # of a GPU's free memory that the data may take
READERS = 8  # threads that decode image files


class ResidentImages:
    """Inputs and labels (N,) on one device. Images (N, C, H, W) are kept as (N, H + 2p, W + 2p, C).

    In that order a crop by row and column indices comes out with the channels last, as convolutions want it. Inputs
    of another rank are kept as they are. `scaling` normalises bytes; floats are taken as they are.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, scaling: Scaling | None, device: torch.device, padding: int = 0
    ) -> None:
        self.images, self.device, self.padding = inputs.ndim == 4, device, padding
        self.labels = labels.to(device)
        self.scale, self.shift = _constants(scaling, inputs, device)
        if not self.images:
            self.stored = inputs.to(device)
            return
        self.height, self.width = inputs.shape[2:]
        if padding:
            inputs = _padded(inputs, padding, self._mean_byte(inputs))
        self.stored = inputs.permute(0, 2, 3, 1).contiguous().to(device)

    @classmethod
    def of(cls, split: Split, device: torch.device, name: str, padding: int = 0) -> ResidentImages:
        """The split on the device; `DataError` where it does not fit or its targets are no classes."""
        inputs, labels, scaling = _in_memory(split, name)
        if labels.ndim != 1 or labels.is_floating_point():
            raise DataError(f"{name}: training wants one class label an example, not {tuple(labels.shape)}")
        if device.type == "cuda":
            free = MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
            if inputs.nbytes > free:
                raise DataError(
                    f"{name} takes {inputs.nbytes / 1e9:.1f} GB as it is, and the GPU has {free / 1e9:.1f} GB for it: "
                    "give smaller images or fewer examples"
                )
        return cls(inputs, labels, scaling, device, padding)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Examples `index` (B,) as they are: inputs (B, C, H, W) in channels last, or (B, …), and labels (B,)."""
        if not self.images:
            return self._normalised(self.stored[index]), self.labels[index]
        p = self.padding
        pixels = self.stored[index, p : p + self.height, p : p + self.width]
        return self._normalised(pixels).permute(0, 3, 1, 2), self.labels[index]

    def varied(self, index: Tensor, flip: bool) -> tuple[Tensor, Tensor]:
        """As `batch`, each image cropped at a random place of its padded form and, with `flip`, half of them mirrored."""
        if not self.images or not (self.padding or flip):
            return self.batch(index)
        count, device, reach = len(index), self.device, 2 * self.padding + 1
        rows = torch.randint(reach, (count, 1), device=device) + torch.arange(self.height, device=device)
        columns = torch.arange(self.width, device=device).expand(count, -1)
        if flip:
            columns = torch.where(torch.rand(count, 1, device=device) < 0.5, columns.flip(1), columns)
        columns = columns + torch.randint(reach, (count, 1), device=device)
        pixels = self.stored[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._normalised(pixels).permute(0, 3, 1, 2), self.labels[index]

    def _normalised(self, values: Tensor) -> Tensor:
        return (
            values if self.scale is None else values * self.scale - self.shift
        )  # bytes times floats are floats, in one pass

    def _mean_byte(self, inputs: Tensor) -> Tensor:
        """The stored value (C,) that comes out nearest to 0: padding is of the mean colour."""
        if self.scale is None:
            return torch.zeros(inputs.shape[1])
        return (self.shift / self.scale).cpu().round().clamp(0, 255).expand(inputs.shape[1])


def _constants(scaling: Scaling | None, inputs: Tensor, device: torch.device) -> tuple[Tensor | None, Tensor]:
    """x·scale − shift is the normalised value of a byte x, by channel (the last dimension); no scale for floats."""
    if scaling is None:
        return None, torch.zeros(1, device=device)
    mean, std = scaling.mean or (0.0,), scaling.std or (1.0,)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, inputs.shape[1]):
            raise DataError(
                f"{name} has {len(values)} values, but the images have {inputs.shape[1]} channels"
            )
    deviation = torch.tensor(std, device=device)
    return 1 / (255 * deviation), torch.tensor(mean, device=device) / deviation


def _padded(images: Tensor, padding: int, value: Tensor) -> Tensor:
    """(N, C, H, W) with `padding` pixels of `value` (C,) on every side."""
    padded = F.pad(images, (padding,) * 4)
    border = torch.ones(padded.shape[2:], dtype=torch.bool)
    border[padding:-padding, padding:-padding] = False
    padded[:, :, border] = value.to(padded.dtype)[:, None]
    return padded


def _in_memory(split: Split, name: str) -> tuple[Tensor, Tensor, Scaling | None]:
    """Inputs (N, …), labels (N,), and the scaling where the inputs are bytes."""
    if split.stacked is not None:
        inputs, labels = split.stacked
        return _single(inputs, name), labels, None
    dataset: Any = split.dataset
    chosen: Tensor | None = None
    if isinstance(dataset, Subset):
        dataset, chosen = dataset.dataset, torch.as_tensor(dataset.indices, dtype=torch.long)
    if isinstance(dataset, ByteImages):
        images, labels = dataset.images, dataset.targets
        return (
            (images, labels, dataset.scaling)
            if chosen is None
            else (images[chosen], labels[chosen], dataset.scaling)
        )
    if isinstance(dataset, ImageFiles):
        wanted = range(len(dataset)) if chosen is None else chosen.tolist()
        with ThreadPoolExecutor(READERS) as readers:
            pixels = torch.stack(list(readers.map(dataset.pixels, wanted)))
        return pixels, dataset.targets[list(wanted)], dataset.scaling
    parts = [(inputs, labels) for _, inputs, labels in split.batches(READ_AT_ONCE)]
    return torch.cat([_single(inputs, name) for inputs, _ in parts]), torch.cat([t for _, t in parts]), None


def _single(inputs: object, name: str) -> Tensor:
    if isinstance(inputs, Tensor):
        return inputs
    raise DataError(f"{name}: this trainer takes one input tensor an example, not a {type(inputs).__name__}")
