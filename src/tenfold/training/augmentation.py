"""Augmentation in batched tensor code: each image of a batch gets draws of its own, on the device that trains.

Images are normalised float tensors (N, C, H, W), in which 0 is the mean colour; what comes in from outside the
image, or is erased, is 0. All draws come from the default generator of the images' device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TURN = math.radians(30)  # the largest rotation at strength 1
SHEAR, SHIFT = 0.3, 0.3  # the largest shear, and the largest shift as a share of the side, at strength 1
COLOUR = 0.9  # the largest change of brightness, contrast or saturation at strength 1
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 3.3)  # Zhong et al., 2020, section 4.2
BETA_DRAWS = 4096


@dataclass(frozen=True)
class Augmentation:
    """How the training images are varied; the defaults leave them as they are.

    `padding`: pixels put around an image before a crop of its own size is taken at random. `flip`: mirror half of
    them left to right. `zoom`: crop at random between this share of the area and all of it, and scale back
    (Szegedy et al., 2015); 1 is off. `affine` and `colour`: one operation of each kind at random, of a strength
    drawn between 0 and this (Müller and Hutter, 2021, "TrivialAugment"). `erasing`: the chance that a rectangle is
    erased (Zhong et al., 2020). `mixup` (Zhang et al., 2018) and `cutmix` (Yun et al., 2019): the alpha of the Beta
    distribution that shares are drawn from, 0 is off; with both, each batch takes either at random.
    """

    padding: int = 0
    flip: bool = False
    zoom: float = 1.0
    affine: float = 0.0
    colour: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.padding <= 1024:
            raise ValueError(f"padding must lie between 0 and 1024 pixels, not {self.padding}")
        if not 0.0 < self.zoom <= 1.0:
            raise ValueError(f"zoom must be a share of the area above 0 and at most 1, not {self.zoom}")
        for name in ("affine", "colour", "erasing"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name in ("mixup", "cutmix"):
            if not 0.0 <= getattr(self, name) <= 100.0:
                raise ValueError(f"{name} must lie between 0 and 100, not {getattr(self, name)}")

    @property
    def mixes(self) -> bool:
        """Whether an image may carry a share of another's label."""
        return self.mixup > 0 or self.cutmix > 0


class Augmenter:
    """The augmentation of batches on one device, after the crop and the flip, which `ResidentImages` does."""

    def __init__(self, settings: Augmentation, device: torch.device) -> None:
        self.settings = settings
        self.mixup = beta_draws(settings.mixup, device) if settings.mixup else None
        self.cutmix = beta_draws(settings.cutmix, device) if settings.cutmix else None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images varied, and for each the share (N,) of its own label; the rest belongs to its neighbour's.

        The neighbour of example i is i − 1, as in `labels.roll(1)`. The share is None where nothing is mixed.
        """
        chosen = self.settings
        if chosen.zoom < 1 or chosen.affine:
            images = warped(images, chosen.zoom, chosen.affine)
        if chosen.colour:
            images = recoloured(images, chosen.colour)
        if chosen.erasing:
            images = erased(images, chosen.erasing)
        if not chosen.mixes:
            return images, None
        return self._mixed(images)

    def _mixed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        count, device = len(images), images.device
        draw = torch.randint(BETA_DRAWS, (count,), device=device)
        if self.cutmix is None:
            assert self.mixup is not None
            return mixed_up(images, self.mixup[draw])
        cut, cut_share = cut_and_mixed(images, self.cutmix[draw])
        if self.mixup is None:
            return cut, cut_share
        blend, share = mixed_up(images, self.mixup[draw])
        either = torch.rand((), device=device) < 0.5
        return torch.where(either, cut, blend), torch.where(either, cut_share, share)


def beta_draws(alpha: float, device: torch.device) -> Tensor:
    """A table (BETA_DRAWS,) of draws from Beta(alpha, alpha), always the same: its sampling needs no host later."""
    draws = np.random.default_rng(0).beta(alpha, alpha, BETA_DRAWS)
    return torch.from_numpy(draws.astype(np.float32)).to(device)


def warped(images: Tensor, zoom: float, affine: float) -> Tensor:
    """Each image through an affine map of its own: a zoom into a part of it, and a turn, shear or shift."""
    count, device = len(images), images.device
    maps = torch.eye(2, 3, device=device).repeat(count, 1, 1)
    if zoom < 1:
        area = torch.empty(count, device=device).uniform_(zoom, 1.0)
        aspect = torch.empty(count, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
        sides = torch.stack(((area * aspect).sqrt(), (area / aspect).sqrt()), dim=1).clamp(max=1.0)
        maps[:, 0, 0], maps[:, 1, 1] = sides[:, 0], sides[:, 1]
        # Coordinates run from −1 to 1, so a window of side s may lie off the centre by up to 1 − s.
        maps[:, :, 2] = (1 - sides) * (2 * torch.rand(count, 2, device=device) - 1)
    if affine:
        kind = torch.randint(5, (count,), device=device)
        strength = affine * (2 * torch.rand(count, device=device) - 1)
        none = torch.zeros_like(strength)
        turn = torch.where(kind == 0, TURN * strength, none)
        shear_x = torch.where(kind == 1, SHEAR * strength, none)
        shear_y = torch.where(kind == 2, SHEAR * strength, none)
        linear = torch.stack(
            (turn.cos(), shear_x - turn.sin(), shear_y + turn.sin(), turn.cos()), dim=1
        ).view(count, 2, 2)
        maps[:, :, :2] = maps[:, :, :2] @ linear
        # A shift by a share of the side is twice that in coordinates.
        maps[:, 0, 2] += torch.where(kind == 3, 2 * SHIFT * strength, none)
        maps[:, 1, 2] += torch.where(kind == 4, 2 * SHIFT * strength, none)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), align_corners=False)


def recoloured(images: Tensor, strength: float) -> Tensor:
    """Each image with its brightness, its contrast or its saturation changed (the last does nothing to grey)."""
    count, device = len(images), images.device
    kind = torch.randint(3, (count, 1, 1, 1), device=device)
    change = strength * COLOUR * (2 * torch.rand(count, 1, 1, 1, device=device) - 1)
    centre = torch.where(
        kind == 1, images.mean(dim=(1, 2, 3), keepdim=True), images.mean(dim=1, keepdim=True)
    )
    return torch.where(kind == 0, images + change, centre + (images - centre) * (1 + change))


def erased(images: Tensor, probability: float) -> Tensor:
    """With this probability an image loses a rectangle of 2% to 33% of its area (random erasing)."""
    count, _, height, width = images.shape
    device = images.device
    area = torch.empty(count, device=device).uniform_(*ERASED_AREA)
    aspect = torch.empty(count, device=device).uniform_(*map(math.log, ERASED_ASPECT)).exp()
    chosen = torch.rand(count, device=device) < probability
    inside = boxes((area * aspect).sqrt(), (area / aspect).sqrt(), height, width)
    return images.masked_fill((inside & chosen[:, None, None])[:, None], 0.0)


def mixed_up(images: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """share·image + (1 − share)·its neighbour, and the share (N,)."""
    weight = share.to(images.dtype)[:, None, None, None]
    return torch.lerp(images.roll(1, 0), images, weight), share


def cut_and_mixed(images: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Each image with a box of 1 − share of the area from its neighbour, and the true share (N,) of its own pixels."""
    height, width = images.shape[2:]
    side = (1 - share).sqrt()
    inside = boxes(side, side, height, width)
    own = 1 - inside.float().mean(dim=(1, 2))
    return torch.where(inside[:, None], images.roll(1, 0), images), own


def boxes(high: Tensor, wide: Tensor, height: int, width: int) -> Tensor:
    """A mask (N, height, width) of one box an image: its sides as shares (N,), its centre anywhere, cut at the edges."""
    return _span(high, height)[:, :, None] & _span(wide, width)[:, None, :]


def _span(share: Tensor, length: int) -> Tensor:
    centre = length * torch.rand(len(share), 1, device=share.device)
    place = torch.arange(length, device=share.device) + 0.5
    return (place - centre).abs() < 0.5 * length * share[:, None]
