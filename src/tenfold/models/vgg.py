"""VGG-16 (Simonyan and Zisserman, 2015, "Very Deep Convolutional Networks", table 1, column D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.models.images import check_ends, check_resolution, has_small_stem

PAPER = (
    "Simonyan and Zisserman, 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition, "
    "arXiv:1409.1556"
)

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
POOLED = 7  # the side of the map that the classifier reads


class VGG(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes) logits, for H and W of about 224.

    3×3 convolutions with a max pool after each stage, then three linear layers with `hidden` units on a 7×7 map.
    A resolution of 28 or 32 has no such map: `small_stem`, unless said otherwise for a `resolution` below 96,
    leaves out the last max pool and the hidden layers, and classifies the mean of the last map.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        resolution: int = 224,
        small_stem: bool | None = None,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        small = has_small_stem(resolution, small_stem)
        check_ends(num_classes, in_channels)
        check_resolution("VGG", resolution, 16 if small else 32)
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in STAGES:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        if small:
            layers.pop()
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1 if small else POOLED)
        if small:
            self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        else:
            self.classifier = nn.Sequential(
                nn.Linear(channels * POOLED**2, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, num_classes),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    def namings(self) -> dict[str, dict[str, str]]:
        """timm holds the hidden layers as convolutions; torchvision's names are ours."""
        head = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
        return {"timm": head}


NETWORKS = catalogued(
    Entry(
        VGG,
        Description(
            name="vgg16",
            family="VGG",
            paper=PAPER,
            resolution=224,
            params=138_357_544,
            macs=15_470_264_320,
            top1=71.592,
            top1_source="torchvision, IMAGENET1K_V1",
        ),
    )
)
