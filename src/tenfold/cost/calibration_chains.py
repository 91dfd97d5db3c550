"""Chains of one kind of layer, drawn at random: their kernels have the shapes that networks' kernels have."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from torch import nn

from tenfold.cost.calibration_blocks import Moved, Scaled, Shortcut

SIDES = (112, 56, 28, 14, 7)
WIDTHS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192, 256, 320, 384, 480, 512, 640, 768, 960)
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU)

# (module, shape of one example, its multiply-adds)
Chain = tuple[nn.Module, tuple[int, ...], float]


def convolutions(random: Random) -> Chain:
    """Two dense convolutions, there and back."""
    side, kernel = random.choice(SIDES), random.choice((3, 3, 3, 5, 2))
    a, b = (random.choice([width for width in WIDTHS if width * side <= 4000]) for _ in range(2))
    stride = random.choice((1, 1, 2))
    layers = nn.Sequential(
        nn.Conv2d(a, b, kernel, stride, kernel // 2), nn.ReLU(), nn.Conv2d(b, a, kernel, 1, kernel // 2)
    )
    return layers, (a, side, side), 2.0 * a * b * (kernel * side / stride) ** 2


def pointwise(random: Random) -> Chain:
    """A narrow and a wide convolution of 1×1."""
    side = random.choice(SIDES)
    a = random.choice([width for width in WIDTHS if width * side <= 6000])
    b = random.choice((a, 2 * a, 4 * a, 6 * a, max(8, a // 4)))
    layers = nn.Sequential(nn.Conv2d(a, b, 1), nn.ReLU(), nn.Conv2d(b, a, 1))
    return layers, (a, side, side), 2.0 * a * b * side**2


def depthwise(random: Random) -> Chain:
    """Three depthwise convolutions."""
    side, kernel, stride = random.choice(SIDES), random.choice((3, 3, 5, 7)), random.choice((1, 1, 2))
    channels = random.choice([width for width in (*WIDTHS, 1152, 1536) if width * side <= 12000])
    layers = nn.Sequential(
        nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels),
        nn.ReLU6(),
        nn.Conv2d(channels, channels, 3, 1, 1, groups=channels),
    )
    return layers, (channels, side, side), 3.0 * channels * (kernel * side) ** 2


def grouped(random: Random) -> Chain:
    """A grouped convolution between two of 1×1."""
    side, size = random.choice(SIDES), random.choice((4, 8, 16, 24, 32, 48, 64))
    channels = size * random.choice((2, 4, 8, 16, 32))
    layers = nn.Sequential(
        nn.Conv2d(channels, channels, 3, 1, 1, groups=channels // size),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, 1, 1, groups=channels // size),
    )
    return layers, (channels, side, side), 18.0 * channels * size * side**2


def stem(random: Random) -> Chain:
    """The first convolution of a network, and a pooling."""
    side, (kernel, stride) = (
        random.choice((128, 160, 224)),
        random.choice(((7, 2), (3, 2), (3, 1), (4, 4), (16, 16))),
    )
    channels = random.choice((16, 24, 32, 48, 64, 96))
    layers = nn.Sequential(
        nn.Conv2d(3, channels, kernel, stride, kernel // 2 if kernel % 2 else 0),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )
    return layers, (3, side, side), 3.0 * channels * (kernel * side / stride) ** 2


def whole_windows(random: Random) -> Chain:
    """A convolution whose window is the whole map, as heads have: hardly any use of very many weights."""
    side = random.choice((4, 5, 7))
    a, b = random.choice((96, 128, 192, 256)), random.choice((256, 512, 1024))
    layers = nn.Sequential(nn.Conv2d(a, b, side), nn.ReLU(), nn.Conv2d(b, b, 1))
    return layers, (a, side, side), 1.0 * a * b * side**2


def linear(random: Random) -> Chain:
    """A perceptron of one hidden layer on each of many tokens, or on one."""
    rows = random.choice((1, 1, 16, 49, 64, 144, 196, 784))
    width = random.choice(
        (64, 96, 128, 192, 256, 384, 512, 768, 1024) if rows > 1 else (128, 512, 1280, 2048, 4096)
    )
    hidden = random.choice((width, 2 * width, 4 * width)) if width < 2048 else 4096
    layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
    shape = (rows, width) if rows > 1 else (width,)
    return layers, shape, 2.0 * rows * width * hidden


def norms(random: Random) -> Chain:
    """Norms and activations over tokens."""
    rows, width = random.choice((16, 49, 196, 784, 3136)), random.choice((64, 96, 192, 384, 768))
    layers = nn.Sequential(
        nn.LayerNorm(width), random.choice(ACTIVATIONS)(), nn.LayerNorm(width), nn.Softmax(-1)
    )
    return layers, (rows, width), 4.0 * rows * width


def pointwise_functions(random: Random) -> Chain:
    """Batch norm, activations and a shortcut over maps."""
    side = random.choice(SIDES)
    channels = random.choice([width for width in WIDTHS if width * side <= 8000])
    layers = nn.Sequential(
        nn.BatchNorm2d(channels),
        random.choice(ACTIVATIONS)(),
        Shortcut(nn.BatchNorm2d(channels), activation=nn.ReLU()),
        nn.MaxPool2d(2),
    )
    return layers, (channels, side, side), 6.0 * channels * side**2


def movements(random: Random) -> Chain:
    """Maps moved about, normalised all together and scaled."""
    side = random.choice(SIDES)
    channels = random.choice([width for width in WIDTHS if width * side <= 4000])
    layers = nn.Sequential(Moved(), nn.GroupNorm(1, 2 * channels), Scaled(2 * channels))
    return layers, (channels, side, side), 4.0 * channels * side**2


CHAINS = [
    convolutions,
    pointwise,
    depthwise,
    grouped,
    stem,
    whole_windows,
    linear,
    norms,
    pointwise_functions,
    movements,
    pointwise,
    depthwise,
]
