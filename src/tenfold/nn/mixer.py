"""The MLP-Mixer block (Tolstikhin et al., 2021, "MLP-Mixer: An all-MLP Architecture for Vision")."""

from __future__ import annotations

from torch import Tensor, nn

from tenfold.nn.mlp import Mlp
from tenfold.nn.stochastic_depth import StochasticDepth


class MixerBlock(nn.Module):
    """An MLP across the tokens, then one across the features, each with norm and shortcut: (N, T, C) -> (N, T, C).

    (eq. 1.) Multiply-accumulates an example, with t and c the hidden units of the two: 2·T·t·C + 2·T·C·c.
    """

    def __init__(
        self, tokens: int, features: int, token_hidden: int, channel_hidden: int, *, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=1e-6)
        self.mlp_tokens = Mlp(tokens, token_hidden)
        self.norm2 = nn.LayerNorm(features, eps=1e-6)
        self.mlp_channels = Mlp(features, channel_hidden)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp_channels(self.norm2(x)))
