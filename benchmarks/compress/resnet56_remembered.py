"""Varied images with what teachers answer to them, made once and kept on the device: a long healing asks nobody twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tenfold.training import Precision, TrainingRecipe
from tenfold.training.augmentation import Augmenter
from tenfold.training.resident import ResidentImages

AT_ONCE = 1_000  # images


class Remembered(ResidentImages):
    """So many passes of `data`, varied as `recipe` says, as bytes (N, H, W, C), and what the teacher answers to them (N, K).

    Images that are mixed have no label: what learns from them learns from the answers alone, which `Recalled` gives
    for the batch that was last asked for.
    """

    def __init__(
        self,
        data: ResidentImages,
        recipe: TrainingRecipe,
        teacher: nn.Module,
        passes: int,
        precision: Precision,
    ) -> None:
        if data.scale is None:
            raise ValueError("only images that are kept as bytes are remembered")
        self.images, self.device, self.padding = True, data.device, 0
        self.scale, self.shift = data.scale, data.shift
        self.height, self.width = data.height, data.width
        many = passes * len(data)
        self.stored = torch.empty(many, data.height, data.width, data.stored.shape[3], dtype=torch.uint8, device=data.device)  # fmt: skip
        self.labels = torch.zeros(many, dtype=torch.long, device=data.device)
        self.answers = torch.empty(0)
        augmenter = Augmenter(recipe.augmentation, data.device)
        number = 0
        for _ in range(passes):
            for index in torch.randperm(len(data), device=data.device).split(AT_ONCE):
                images, _ = augmenter(data.varied(index, recipe.augmentation.flip)[0])
                pixels = ((images.permute(0, 2, 3, 1) + data.shift) / data.scale).round_().clamp_(0, 255)
                kept = torch.arange(number, number + len(index), device=data.device)
                self.stored[kept] = pixels.to(torch.uint8)
                answers = answered(teacher, self.batch(kept)[0], precision)
                if not number:
                    self.answers = torch.empty(many, answers.shape[1], device=data.device)
                self.answers[kept] = answers
                number += len(index)
        if len(self.answers.argmax(1).unique()) == 1:
            raise ValueError("the teachers answer every image with the same class: look at their weights")
        self.asked = torch.zeros(0, dtype=torch.long, device=data.device)

    def varied(self, index: Tensor, flip: bool) -> tuple[Tensor, Tensor]:
        """Examples `index` (B,) as they are kept."""
        self.asked = index
        return self.batch(index)


class Recalled(nn.Module):
    """A teacher that looks its answers (B, K) up."""

    def __init__(self, data: Remembered) -> None:
        super().__init__()
        self.data = data

    @torch.compiler.disable
    def forward(self, inputs: Tensor) -> Tensor:
        return self.data.answers[self.data.asked]


@torch.no_grad()
def answered(teacher: nn.Module, images: Tensor, precision: Precision) -> Tensor:
    """The teacher's outputs (B, K) in fp32."""
    with precision.arithmetic(images.device):
        answers: Tensor = teacher(precision.inputs(images, images.device))
    return answers.float()
