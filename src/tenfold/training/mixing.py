"""Mixing images of a batch: no step shows what was shown before, so that nothing is learnt by heart.

A network that is healed has learnt the training images already, and a few fixed views of them are soon learnt as well:
a ResNet-56 on CIFAR-10 without six of its blocks was no better after 18 passes than after 6. What the teacher says of
mixed images is worth as much as what it says of plain ones (Beyer et al., 2022, "Knowledge distillation: A good teacher
is patient and consistent"), but cannot be kept: it answers at every step. That holds for a teacher that has learnt from
such images; another tells little of them (`faithfulness.answers_mixed`).
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import torch
from torch import Tensor

from tenfold.training.augmentation import Augmentation, Augmenter
from tenfold.training.precision import sent
from tenfold.training.views import Batch, is_image

# Half of the steps blend two images, mostly one of them; the others put a box of any size into one from the other.
MIXTURE = Augmentation(mixup=0.2, cutmix=1.0)


class Mixer:
    """Mixes the images (N, C, H, W) of a batch with their neighbours; what a step draws, its number and `seed` fix."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._augmenter, self._device, self._seed = Augmenter(MIXTURE, device), device, seed

    def __call__(self, batch: Batch, step: int) -> Batch:
        """The batch mixed, on the device."""
        if not is_image(batch.inputs):
            raise ValueError("only float images (N, C, H, W) can be mixed")
        return replace(batch, inputs=self.mixed(batch.inputs, step)[0], mixed=True)

    def mixed(self, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The images mixed, on the device, and the share (N,) of each that is its own; the rest is the one's before it."""
        on_gpu = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if on_gpu else []):
            # A processor's generator takes no more than 32 bits of a seed.
            seed = zlib.crc32(f"{self._seed} {step}".encode())
            if on_gpu:
                with torch.cuda.device(self._device):
                    torch.cuda.manual_seed(seed)
            else:
                torch.default_generator.manual_seed(seed)
            found, shares = self._augmenter(sent(images, self._device))
        assert shares is not None  # which are those of what is always mixed
        return found, shares
