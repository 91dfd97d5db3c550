"""SqueezeNet 1.1 (Iandola et al., 2016, "SqueezeNet"; the version is the authors' later release)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.models.images import check_ends, check_resolution, has_small_stem
from tenfold.nn.fire import Fire

PAPER = "Iandola et al., 2016, SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, arXiv:1602.07360"

# (squeeze, expand) of each fire module; None is a max pool.
TABLE = ((16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256))


class SqueezeNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes) logits, for H and W of about 224.

    The stem is a 3×3 convolution of stride 2 without padding and a max pool; `small_stem`, unless said otherwise
    for a `resolution` below 96, makes it one padded 3×3 convolution of stride 1.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        resolution: int = 224,
        small_stem: bool | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        small = has_small_stem(resolution, small_stem)
        check_ends(num_classes, in_channels)
        check_resolution("SqueezeNet", resolution, 8 if small else 17)
        channels = 64
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, 3, 1 if small else 2, padding=int(small)),
            nn.ReLU(inplace=True),
            nn.Identity() if small else nn.MaxPool2d(3, 2, ceil_mode=True),
        ]
        for row in TABLE:
            if row is None:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
                continue
            squeeze, expand = row
            layers.append(Fire(channels, squeeze, expand))
            channels = 2 * expand
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv2d(channels, num_classes, 1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if name.startswith("classifier"):
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


NETWORKS = catalogued(
    Entry(
        SqueezeNet,
        Description(
            name="squeezenet1_1",
            family="SqueezeNet",
            paper=PAPER,
            resolution=224,
            params=1_235_496,
            macs=349_151_936,
            top1=58.178,
            top1_source="torchvision, IMAGENET1K_V1",
        ),
    )
)
