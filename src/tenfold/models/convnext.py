"""ConvNeXt-T, -S and -B (Liu et al., 2022, "A ConvNet for the 2020s", section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.models.images import check_ends, check_resolution, has_small_stem
from tenfold.nn.convnext_block import ChannelNorm, ConvNeXtBlock
from tenfold.nn.stochastic_depth import depth_rates

PAPER = "Liu et al., 2022, A ConvNet for the 2020s, arXiv:2201.03545"
SMALL_PATCH = 2


class Stage(nn.Module):
    """Norm and a strided 2×2 convolution where the width changes, then blocks: (N, Cin, H, W) -> (N, C, H/2, W/2)."""

    def __init__(self, in_channels: int, channels: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if in_channels != channels:
            self.downsample = nn.Sequential(ChannelNorm(in_channels), nn.Conv2d(in_channels, channels, 2, 2))
        self.blocks = nn.Sequential(*(ConvNeXtBlock(channels, drop_path=rate) for rate in drop_paths))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes) logits, for H and W of about 224.

    `depths` and `widths` are the blocks and channels of each stage. The stem cuts the image into patches of
    `patch_size`; `small_stem`, unless said otherwise for a `resolution` below 96, into patches of 2×2.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        resolution: int = 224,
        small_stem: bool | None = None,
        patch_size: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if len(depths) != len(widths) or min(*depths, *widths) < 1:
            raise ValueError(
                f"depths {tuple(depths)} and widths {tuple(widths)} must be as many, and at least 1"
            )
        if has_small_stem(resolution, small_stem):
            patch_size = SMALL_PATCH
        check_ends(num_classes, in_channels)
        check_resolution("ConvNeXt", resolution, patch_size * 2 ** (len(depths) - 1))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], patch_size, patch_size), ChannelNorm(widths[0])
        )
        rates = depth_rates(drop_path, sum(depths))
        stages = []
        previous = widths[0]
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            done = sum(depths[:index])
            stages.append(Stage(previous, width, rates[done : done + depth]))
            previous = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(previous, eps=1e-6)
        self.head = nn.Linear(previous, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.head(self.norm(x.mean((2, 3))))

    def namings(self) -> dict[str, dict[str, str]]:
        """What timm and torchvision call our modules and the scales."""
        timm = {"stem.1.norm": "stem.1", "norm": "head.norm", "head": "head.fc"}
        vision = {"stem.0": "features.0.0", "stem.1.norm": "features.0.1", "norm": "classifier.0"}
        vision["head"] = "classifier.2"
        for index, stage in enumerate(self.stages):
            ours = f"stages.{index}"
            timm[f"{ours}.downsample.0.norm"] = f"{ours}.downsample.0"
            vision[f"{ours}.downsample.0.norm"] = f"features.{2 * index}.0"
            vision[f"{ours}.downsample.1"] = f"features.{2 * index}.1"
            assert isinstance(stage, Stage)
            for place in range(len(stage.blocks)):
                block, theirs = f"{ours}.blocks.{place}", f"features.{2 * index + 1}.{place}"
                timm[f"{block}.depthwise"] = f"{block}.conv_dw"
                timm[f"{block}.scale"] = f"{block}.gamma"
                vision[f"{block}.scale"] = f"{theirs}.layer_scale"
                for module, number in (("depthwise", 0), ("norm", 2), ("mlp.fc1", 3), ("mlp.fc2", 5)):
                    vision[f"{block}.{module}"] = f"{theirs}.block.{number}"
        return {"timm": timm, "torchvision": vision}


def _entry(name: str, depths: tuple[int, ...], width: int, params: int, macs: int, top1: float) -> Entry:
    widths = (width, 2 * width, 4 * width, 8 * width)
    description = Description(name, "ConvNeXt", PAPER, 224, params, macs, top1, "torchvision, IMAGENET1K_V1")
    return Entry(partial(ConvNeXt, depths, widths), description)


NETWORKS = catalogued(
    _entry("convnext_tiny", (3, 3, 9, 3), 96, 28_589_128, 4_455_531_264, 82.52),
    _entry("convnext_small", (3, 3, 27, 3), 96, 50_223_688, 8_683_712_256, 83.616),
    _entry("convnext_base", (3, 3, 27, 3), 128, 88_591_464, 15_354_729_472, 84.062),
)
