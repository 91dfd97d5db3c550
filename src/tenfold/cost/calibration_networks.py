"""What calibration times: chains of one kind of layer, and small networks of every usual family, drawn at random.

They are made here and are nobody's published networks, so that an error on published ones is an error on networks
that were never used. A seed gives the same sequence everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.cost.calibration_blocks import (
    Concatenated,
    MeanOfTokens,
    Scaled,
    SelfAttention,
    Shortcut,
    SqueezeExcite,
    Tokens,
    Transposed,
    WindowAttention,
    convolution,
)
from tenfold.cost.calibration_chains import CHAINS


@dataclass(frozen=True)
class Sample:
    """A module to be timed on random inputs of `shape`, batch included."""

    kind: str
    module: nn.Module
    shape: tuple[int, ...]
    network: bool = False  # a whole network, and not a chain of a few layers

    def inputs(self) -> Tensor:
        """Random inputs, the same each time; one example repeated, because drawing them all would take longer."""
        one = torch.randn((1, *self.shape[1:]), generator=torch.Generator().manual_seed(0))
        return one.expand(self.shape).contiguous()


def samples(seed: int, batches: tuple[int, ...], work: float) -> Iterator[Sample]:
    """An endless sequence: a network after every two chains. `work` is the most MACs that a chain may have."""
    random = Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chains, networks = _turns(CHAINS, random), _turns(NETWORKS, random)
        while True:
            for _ in range(2):
                yield _chain(next(chains), random, random.choice(batches), work)
            make_network = next(networks)
            module, side = make_network(random)
            shape = (random.choice(batches), 3, side, side)
            yield Sample(make_network.__name__, module.eval(), shape, True)


def _turns(kinds: Sequence[Any], random: Random) -> Iterator[Any]:
    """All kinds in a random order, again and again."""
    while True:
        yield from random.sample(kinds, len(kinds))


def _chain(
    make: Callable[[Random], tuple[nn.Module, tuple[int, ...], float]],
    random: Random,
    batch: int,
    work: float,
) -> Sample:
    """A chain small enough for `work`, at this batch."""
    while True:
        module, shape, macs = make(random)
        if macs * batch <= work:
            return Sample(make.__name__, module.eval(), (batch, *shape))


# ---- networks: (module, side of the image) -----------------------------------------------------------------------

Network = tuple[nn.Module, int]


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]


def _side(random: Random) -> int:
    return random.choice((96, 128, 160, 192, 224))


def residual_network(random: Random) -> Network:
    """Basic or bottleneck blocks, plain or grouped, sometimes with squeeze and excitation."""
    bottleneck, gate = random.random() < 0.6, random.random() < 0.3
    width, size = random.choice((24, 32, 48, 64)), random.choice((0, 0, 8, 16, 24, 32))
    stages: list[nn.Module] = [
        convolution(3, width, random.choice((3, 7)), 2, activation=nn.ReLU()),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = width
    for stage in range(4):
        inner = width * 2**stage
        outer = inner * (random.choice((1, 2, 4)) if bottleneck else 1)
        groups = inner // size if bottleneck and size and inner % size == 0 else 1
        for block in range(random.choice((1, 1, 2, 3))):
            stride = 2 if block == 0 and stage else 1
            if bottleneck:
                body = [
                    convolution(channels, inner, activation=nn.ReLU()),
                    convolution(inner, inner, 3, stride, groups, nn.ReLU()),
                    convolution(inner, outer),
                ]
            else:
                body = [
                    convolution(channels, inner, 3, stride, activation=nn.ReLU()),
                    convolution(inner, outer, 3),
                ]
            if gate:
                body.append(nn.Sequential(SqueezeExcite(outer, max(8, outer // 16))))
            shortcut = convolution(channels, outer, 1, stride) if stride > 1 or channels != outer else None
            stages.append(Shortcut(nn.Sequential(*body), shortcut, nn.ReLU()))
            channels = outer
    return nn.Sequential(*stages, *_head(channels)), _side(random)


def mobile_network(random: Random) -> Network:
    """Inverted residuals, with or without squeeze and excitation."""
    activation = random.choice((nn.ReLU6, nn.ReLU, nn.Hardswish, nn.SiLU))
    gate, scale = random.choice((0, 0, 4, 16)), random.choice((0.5, 0.75, 1.0, 1.25))
    channels = _rounded(32 * scale)
    stages: list[nn.Module] = [convolution(3, channels, 3, 2, activation=activation())]
    for width, stride in ((16, 1), (24, 2), (40, 2), (80, 2), (112, 1), (192, 2)):
        outer, expand, kernel = _rounded(width * scale), random.choice((1, 3, 4, 6)), random.choice((3, 3, 5))
        for block in range(random.choice((1, 2, 3))):
            inner, step = channels * expand, stride if block == 0 else 1
            body: list[nn.Module] = (
                [convolution(channels, inner, activation=activation())] if expand > 1 else []
            )
            body.append(convolution(inner, inner, kernel, step, inner, activation()))
            if gate:
                body.append(
                    SqueezeExcite(inner, max(4, inner // gate), random.choice((nn.Sigmoid, nn.Hardsigmoid)))
                )
            body.append(convolution(inner, outer))
            layers = nn.Sequential(*body)
            stages.append(Shortcut(layers) if step == 1 and channels == outer else layers)
            channels = outer
    last = _rounded(random.choice((640, 960, 1280)) * scale)
    stages.append(convolution(channels, last, activation=activation()))
    return nn.Sequential(*stages, *_head(last)), _side(random)


def plain_network(random: Random) -> Network:
    """Dense convolutions and poolings."""
    channels, width = 3, random.choice((16, 32, 48))
    stages: list[nn.Module] = []
    for stage in range(4):
        for _ in range(random.choice((1, 2))):
            stages.append(convolution(channels, width * 2**stage, 3, activation=nn.ReLU()))
            channels = width * 2**stage
        stages.append(nn.MaxPool2d(2))
    side = random.choice((64, 96, 128, 160, 224))
    if random.random() < 0.5:
        return nn.Sequential(*stages, *_head(channels)), side
    hidden = random.choice((512, 1024, 2048))
    places = (side // 16) ** 2
    head = [nn.Flatten(), nn.Linear(channels * places, hidden), nn.ReLU(), nn.Linear(hidden, 1000)]
    return nn.Sequential(*stages, *head), side


def dense_network(random: Random) -> Network:
    """Blocks that keep all earlier maps beside their own."""
    growth, channels = random.choice((16, 24, 32)), random.choice((32, 48, 64))
    stages: list[nn.Module] = [convolution(3, channels, 7, 2, activation=nn.ReLU()), nn.MaxPool2d(3, 2, 1)]
    for _stage in range(3):
        for _ in range(random.choice((2, 3, 4))):
            body = nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(), convolution(channels, 4 * growth, activation=nn.ReLU()),
                nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
            )  # fmt: skip
            stages.append(Concatenated(body))
            channels += growth
        half = channels // 16 * 8
        stages += [
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, half, 1, bias=False),
            nn.AvgPool2d(2),
        ]
        channels = half
    return nn.Sequential(*stages, *_head(channels)), _side(random)


def modern_network(random: Random) -> Network:
    """Large depthwise windows, layer norm over channels and a wide perceptron."""
    width, channels, pointwise_convolutions = random.choice((24, 32, 40, 64)), 3, random.random() < 0.4
    stages: list[nn.Module] = []
    for stage in range(4):
        outer = width * 2**stage
        stages.append(nn.Conv2d(channels, outer, 4 if stage == 0 else 2, 4 if stage == 0 else 2))
        for _ in range(random.choice((1, 1, 2))):
            window = nn.Conv2d(outer, outer, 7, 1, 3, groups=outer)
            if pointwise_convolutions:
                perceptron: list[nn.Module] = [
                    Transposed(nn.LayerNorm(outer)), nn.Conv2d(outer, 4 * outer, 1), nn.GELU(), nn.Conv2d(4 * outer, outer, 1)
                ]  # fmt: skip
            else:
                perceptron = [
                    Transposed(
                        nn.Sequential(
                            nn.LayerNorm(outer),
                            nn.Linear(outer, 4 * outer),
                            nn.GELU(),
                            nn.Linear(4 * outer, outer),
                        )
                    )
                ]
            scale = [Scaled(outer)] if random.random() < 0.5 else []
            stages.append(Shortcut(nn.Sequential(window, *perceptron, *scale)))
        channels = outer
    return nn.Sequential(*stages, *_head(channels)), _side(random)


def transformer(random: Random) -> Network:
    """Attention over patches."""
    width, head, patch = (
        random.choice((96, 128, 192, 256, 384)),
        random.choice((32, 64)),
        random.choice((16, 16, 32)),
    )
    side = random.choice((96, 128, 160, 192, 224))
    stages: list[nn.Module] = [nn.Conv2d(3, width, patch, patch), Tokens(width, (side // patch) ** 2)]
    for _ in range(random.choice((2, 3, 4))):
        mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        stages += [
            Shortcut(nn.Sequential(nn.LayerNorm(width), SelfAttention(width, max(1, width // head)))),
            Shortcut(mlp),
        ]
    return nn.Sequential(*stages, nn.LayerNorm(width), MeanOfTokens(), nn.Linear(width, 1000)), side


def windowed_transformer(random: Random) -> Network:
    """Attention within windows of 7×7 patches."""
    head = 32
    width, patch, side = random.choice((64, 96, 128, 192)), random.choice((4, 8)), random.choice((112, 224))
    stages: list[nn.Module] = [nn.Conv2d(3, width, patch, patch), Tokens(width, (side // patch) ** 2)]
    for _ in range(random.choice((1, 2))):
        mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        stages += [
            Shortcut(nn.Sequential(nn.LayerNorm(width), WindowAttention(width, width // head, 49))),
            Shortcut(mlp),
        ]
    return nn.Sequential(*stages, nn.LayerNorm(width), MeanOfTokens(), nn.Linear(width, 1000)), side


def mixer(random: Random) -> Network:
    """Perceptrons over places and over channels in turn."""
    width, patch, side = (
        random.choice((128, 192, 256, 384)),
        random.choice((16, 32)),
        random.choice((128, 160, 192, 224)),
    )
    length = (side // patch) ** 2
    stages: list[nn.Module] = [nn.Conv2d(3, width, patch, patch), Tokens(width, length)]
    for _ in range(random.choice((2, 3))):
        places = nn.Sequential(nn.Linear(length, width // 2), nn.GELU(), nn.Linear(width // 2, length))
        channels = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        stages += [Shortcut(nn.Sequential(nn.LayerNorm(width), Transposed(places, 3))), Shortcut(channels)]
    return nn.Sequential(*stages, nn.LayerNorm(width), MeanOfTokens(), nn.Linear(width, 1000)), side


def _rounded(channels: float) -> int:
    return max(8, int(channels + 4) // 8 * 8)


NETWORKS = [
    residual_network, mobile_network, plain_network, dense_network, modern_network, transformer, windowed_transformer, mixer,
    residual_network, mobile_network,
]  # fmt: skip
