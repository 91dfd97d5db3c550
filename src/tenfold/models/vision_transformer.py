"""Vision transformers: ViT (Dosovitskiy et al., 2021) and DeiT (Touvron et al., 2021), optionally merging tokens."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.models.images import check_ends, has_small_stem
from tenfold.nn.attention import TransformerBlock
from tenfold.nn.patches import PatchEmbedding
from tenfold.nn.stochastic_depth import depth_rates
from tenfold.nn.token_merging import MergingBlock

VIT = "Dosovitskiy et al., 2021, An Image is Worth 16x16 Words, arXiv:2010.11929"
DEIT = "Touvron et al., 2021, Training data-efficient image transformers, arXiv:2012.12877"
SMALL_PATCH = 4


class VisionTransformer(nn.Module):
    """(N, in_channels, R, R) -> (N, num_classes) logits, read from the class token; R is `resolution`.

    `resolution` must be a multiple of `patch_size`; `small_stem`, unless said otherwise for a `resolution` below
    96, makes patches of 4×4. With `token_merging` = r > 0 every block merges r tokens (Bolya et al., 2022); the
    parameters stay the same, so that the weights of a plain network fit, and r = 0 is the plain network.
    """

    def __init__(
        self,
        features: int,
        depth: int,
        num_heads: int,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        resolution: int = 224,
        small_stem: bool | None = None,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        token_merging: int = 0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"a transformer of {depth} blocks is none")
        if token_merging < 0:
            raise ValueError(
                f"token_merging is the tokens merged in each block, at least 0, not {token_merging}"
            )
        self.token_merging = token_merging
        if has_small_stem(resolution, small_stem):
            patch_size = SMALL_PATCH
        check_ends(num_classes, in_channels)
        self.embed = PatchEmbedding(resolution, patch_size, in_channels, features)
        self.class_token = nn.Parameter(torch.zeros(1, 1, features))
        self.positions = nn.Parameter(torch.zeros(1, self.embed.side**2 + 1, features))
        block = partial(MergingBlock, r=token_merging) if token_merging else TransformerBlock
        self.blocks = nn.ModuleList(
            block(features, num_heads, mlp_ratio=mlp_ratio, drop_path=rate)
            for rate in depth_rates(drop_path, depth)
        )
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.head = nn.Linear(features, num_classes)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        if self.token_merging:
            sizes = torch.ones_like(x[..., :1])
            for block in self.blocks:
                x, sizes = block(x, sizes)
        else:
            for block in self.blocks:
                x = block(x)
        return self.head(self.norm(x[:, 0]))

    def namings(self) -> dict[str, dict[str, str]]:
        """What timm and torchvision call our modules and parameters."""
        timm = {"embed": "patch_embed", "class_token": "cls_token", "positions": "pos_embed"}
        vision = {
            "embed.proj": "conv_proj",
            "positions": "encoder.pos_embedding",
            "norm": "encoder.ln",
            "head": "heads.head",
        }
        for index in range(len(self.blocks)):
            ours, theirs = f"blocks.{index}", f"encoder.layers.encoder_layer_{index}"
            vision[f"{ours}.norm1"] = f"{theirs}.ln_1"
            vision[f"{ours}.attn.qkv.weight"] = f"{theirs}.self_attention.in_proj_weight"
            vision[f"{ours}.attn.qkv.bias"] = f"{theirs}.self_attention.in_proj_bias"
            vision[f"{ours}.attn.proj"] = f"{theirs}.self_attention.out_proj"
            vision[f"{ours}.norm2"] = f"{theirs}.ln_2"
            vision[f"{ours}.mlp.fc1"] = f"{theirs}.mlp.0"
            vision[f"{ours}.mlp.fc2"] = f"{theirs}.mlp.3"
        return {"timm": timm, "torchvision": vision}


# Size: features and heads; every size has twelve blocks.
SIZES = {"ti": (192, 3), "s": (384, 6), "b": (768, 12)}
DEPTH = 12
TORCHVISION = "torchvision, IMAGENET1K_V1"
DEIT_TABLE = "the paper, table 5"


def _entry(
    family: str, size: str, patch: int, params: int, macs: int, top1: float | None = None, source: str = ""
) -> Entry:
    features, heads = SIZES[size]
    paper = DEIT if family == "DeiT" else VIT
    name = f"{family.lower()}_{size}_{patch}"
    description = Description(name, family, paper, 224, params, macs, top1, source)
    return Entry(partial(VisionTransformer, features, DEPTH, heads, patch_size=patch), description)


NETWORKS = catalogued(
    _entry("ViT", "ti", 16, 5_717_416, 1_253_683_200),
    _entry("ViT", "s", 16, 22_050_664, 4_598_882_304),
    _entry("ViT", "s", 32, 22_878_952, 1_142_909_952),
    _entry("ViT", "b", 16, 86_567_656, 17_563_828_224, 81.072, TORCHVISION),
    _entry("ViT", "b", 32, 88_224_232, 4_409_186_304, 75.912, TORCHVISION),
    _entry("DeiT", "ti", 16, 5_717_416, 1_253_683_200, 72.2, DEIT_TABLE),
    _entry("DeiT", "s", 16, 22_050_664, 4_598_882_304, 79.9, DEIT_TABLE),
    _entry("DeiT", "b", 16, 86_567_656, 17_563_828_224, 81.8, DEIT_TABLE),
)
