"""MLP-Mixer S/32 (Tolstikhin et al., 2021, "MLP-Mixer: An all-MLP Architecture for Vision", table 1)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.models.images import check_ends, has_small_stem
from tenfold.nn.mixer import MixerBlock
from tenfold.nn.patches import PatchEmbedding
from tenfold.nn.stochastic_depth import depth_rates

PAPER = "Tolstikhin et al., 2021, MLP-Mixer: An all-MLP Architecture for Vision, arXiv:2105.01601"
SMALL_PATCH = 4


class MlpMixer(nn.Module):
    """(N, in_channels, R, R) -> (N, num_classes) logits, from the mean of the tokens; R is `resolution`.

    `token_hidden` and `channel_hidden` are the hidden units of the MLPs across tokens and across features.
    `resolution` must be a multiple of `patch_size`; `small_stem`, unless said otherwise for a `resolution` below
    96, makes patches of 4×4.
    """

    def __init__(
        self,
        features: int,
        depth: int,
        token_hidden: int,
        channel_hidden: int,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        resolution: int = 224,
        small_stem: bool | None = None,
        patch_size: int = 32,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"a mixer of {depth} blocks is none")
        if has_small_stem(resolution, small_stem):
            patch_size = SMALL_PATCH
        check_ends(num_classes, in_channels)
        self.embed = PatchEmbedding(resolution, patch_size, in_channels, features)
        self.blocks = nn.Sequential(
            *(
                MixerBlock(self.embed.side**2, features, token_hidden, channel_hidden, drop_path=rate)
                for rate in depth_rates(drop_path, depth)
            )
        )
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.head = nn.Linear(features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))).mean(1))

    def namings(self) -> dict[str, dict[str, str]]:
        """What timm calls our modules."""
        return {"timm": {"embed": "stem"}}


NETWORKS = catalogued(
    Entry(
        partial(MlpMixer, 512, 8, 256, 2048),
        Description(
            name="mixer_s_32",
            family="MLP-Mixer",
            paper=PAPER,
            resolution=224,
            params=19_104_624,
            macs=1_002_426_368,
        ),
    )
)
