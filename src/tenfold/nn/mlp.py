"""The position-wise network of transformers, mixers and ConvNeXt."""

from __future__ import annotations

from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear, GELU, linear over the last axis: (…, features) -> (…, features).

    2·features·hidden multiply-accumulates for each place of the leading axes.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"a hidden layer of {hidden} units (for {features} features) is none")
        self.fc1 = nn.Linear(features, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
