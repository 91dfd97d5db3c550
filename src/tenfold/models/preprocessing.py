"""How a photo becomes what a network was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """The shorter side to `resize` pixels by bicubic interpolation, the centre `crop` × `crop`, (x − mean) / std.

    `mean` and `std` are of pixels from 0 to 255, one number for all channels.
    """

    resize: int
    crop: int
    mean: float
    std: float

    def __call__(self, photo: Image.Image) -> Tensor:
        """A photo as float32 (3, crop, crop)."""
        photo = photo.convert("RGB")
        scale = self.resize / min(photo.size)
        size = (round(photo.width * scale), round(photo.height * scale))
        photo = photo.resize(size, Image.Resampling.BICUBIC)
        left, top = (photo.width - self.crop) // 2, (photo.height - self.crop) // 2
        photo = photo.crop((left, top, left + self.crop, top + self.crop))
        pixels = np.asarray(photo, dtype=np.float32)
        return torch.from_numpy((pixels - self.mean) / self.std).permute(2, 0, 1).contiguous()
