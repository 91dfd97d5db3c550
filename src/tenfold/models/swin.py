"""Swin-T, -S and -B (Liu et al., 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows")."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.models.images import check_ends, has_small_stem
from tenfold.nn.patches import PatchEmbedding, PatchMerging
from tenfold.nn.stochastic_depth import depth_rates
from tenfold.nn.windows import WindowBlock

PAPER = "Liu et al., 2021, Swin Transformer, arXiv:2103.14030"
SMALL_PATCH = 2
LEAST_WINDOW = 4  # a window of fewer tokens mixes too little


class Stage(nn.Module):
    """Patch merging but in the first stage, then blocks whose windows are shifted in every other one.

    (N, S, S, C) -> (N, S, S, C), or from (N, 2·S, 2·S, C / 2) where patches merge; `side` is S.
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        side: int,
        window: int,
        drop_paths: Sequence[float],
        *,
        merge: bool,
    ) -> None:
        super().__init__()
        self.downsample = PatchMerging(features // 2) if merge else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                WindowBlock(
                    features, num_heads, side, window=window, shift=place % 2 * (window // 2), drop_path=rate
                )
                for place, rate in enumerate(drop_paths)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class SwinTransformer(nn.Module):
    """(N, in_channels, R, R) -> (N, num_classes) logits, from the mean of the last map; R is `resolution`.

    `features` is the width of the first stage, and doubles with each of the `depths`; `num_heads` are those of each
    stage. `small_stem`, unless said otherwise for a `resolution` below 96, makes patches of 2×2, and windows of the
    largest side from 4 to `window` that divides the map (4 at 32×32, 7 at 28×28), if there is one.
    """

    def __init__(
        self,
        features: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        resolution: int = 224,
        small_stem: bool | None = None,
        patch_size: int = 4,
        window: int = 7,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads) or min(depths) < 1:
            raise ValueError(
                f"depths {tuple(depths)} and num_heads {tuple(num_heads)} must be as many, at least 1"
            )
        if has_small_stem(resolution, small_stem):
            patch_size = SMALL_PATCH
            side = resolution // patch_size
            window = max(
                (size for size in range(LEAST_WINDOW, window + 1) if side % size == 0), default=window
            )
        check_ends(num_classes, in_channels)
        self.embed = PatchEmbedding(resolution, patch_size, in_channels, features)
        self.embed_norm = nn.LayerNorm(features)
        rates = depth_rates(drop_path, sum(depths))
        stages: list[nn.Module] = []
        side = self.embed.side
        for index, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            done = sum(depths[:index])
            stages.append(Stage(features, heads, side, window, rates[done : done + depth], merge=index > 0))
            if index < len(depths) - 1:
                features, side = 2 * features, (side + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        side = self.embed.side
        x = self.embed_norm(self.embed(x)).unflatten(1, (side, side))
        return self.head(self.norm(self.stages(x)).mean((1, 2)))

    def namings(self) -> dict[str, dict[str, str]]:
        """What timm and torchvision call our modules and the tables."""
        timm = {"embed": "patch_embed", "embed_norm": "patch_embed.norm", "head": "head.fc"}
        vision = {"embed.proj": "features.0.0", "embed_norm": "features.0.2"}
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            timm[f"stages.{index}"] = f"layers.{index}"
            vision[f"stages.{index}.downsample"] = f"features.{2 * index}"
            for place in range(len(stage.blocks)):
                ours = f"stages.{index}.blocks.{place}"
                theirs = f"features.{2 * index + 1}.{place}"
                vision[ours] = theirs
                vision[f"{ours}.mlp.fc1"] = f"{theirs}.mlp.0"
                vision[f"{ours}.mlp.fc2"] = f"{theirs}.mlp.3"
                vision[f"{ours}.attn.bias_table"] = f"{theirs}.attn.relative_position_bias_table"
                timm[f"{ours}.attn.bias_table"] = (
                    f"layers.{index}.blocks.{place}.attn.relative_position_bias_table"
                )
        return {"timm": timm, "torchvision": vision}


def _entry(
    name: str, features: int, depth: int, heads: tuple[int, ...], params: int, macs: int, top1: float
) -> Entry:
    description = Description(name, "Swin", PAPER, 224, params, macs, top1, "torchvision, IMAGENET1K_V1")
    return Entry(partial(SwinTransformer, features, (2, 2, depth, 2), heads), description)


NETWORKS = catalogued(
    _entry("swin_t", 96, 6, (3, 6, 12, 24), 28_288_354, 4_490_566_656, 81.474),
    _entry("swin_s", 96, 18, (3, 6, 12, 24), 49_606_258, 8_740_875_264, 83.196),
    _entry("swin_b", 128, 18, (4, 8, 16, 32), 87_768_224, 15_430_946_816, 83.582),
)
