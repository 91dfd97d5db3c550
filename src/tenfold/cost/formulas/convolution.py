"""Convolutions, the blocks made of them, and the scaling of whole networks. One MAC is one multiply-add, 2 FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


def convolution_macs(
    kernel: int, inputs: int, outputs: int, height: int, width: int, *, groups: int = 1
) -> int:
    """K²·Cin·Cout·H·W / groups, with H×W the size of the output."""
    return kernel**2 * (inputs // groups) * outputs * height * width


def convolution_params(kernel: int, inputs: int, outputs: int, *, groups: int = 1, bias: bool = False) -> int:
    """K²·Cin·Cout / groups, and a bias for each output channel."""
    return kernel**2 * (inputs // groups) * outputs + (outputs if bias else 0)


def transposed_convolution_macs(kernel: int, inputs: int, outputs: int, height: int, width: int) -> int:
    """K²·Cin·Cout·H·W, with H×W the size of the *input*: each of its elements is spread over a window."""
    return kernel**2 * inputs * outputs * height * width


def separable_macs(kernel: int, inputs: int, outputs: int, height: int, width: int) -> int:
    """Depthwise K×K, then pointwise 1×1: K²·Cin·H·W + Cin·Cout·H·W (Howard et al. 2017, MobileNets, section 3.1)."""
    return (kernel**2 * inputs + inputs * outputs) * height * width


def separable_params(kernel: int, inputs: int, outputs: int) -> int:
    """K²·Cin + Cin·Cout, without biases."""
    return kernel**2 * inputs + inputs * outputs


def separable_ratio(kernel: int, outputs: int) -> float:
    """How many times fewer MACs and parameters than a standard convolution: K²·Cout / (K² + Cout), below K²."""
    return kernel**2 * outputs / (kernel**2 + outputs)


def inverted_residual_macs(
    channels: int, expansion: float, height: int, width: int, *,
    kernel: int = 3, outputs: int | None = None, stride: int = 1,
) -> int:  # fmt: skip
    """Expand 1×1, depthwise K×K, project 1×1 (Sandler et al. 2018, MobileNetV2, table 1); H×W is the input's size.

    H·W·C·tC + H'·W'·(K²·tC + tC·C') with H' = ⌈H/stride⌉; without expansion (t = 1) the first product is not there.
    """
    hidden = round(channels * expansion)
    outputs = channels if outputs is None else outputs
    expand = channels * hidden * height * width if expansion != 1 else 0
    return expand + (kernel**2 + outputs) * hidden * ceil(height / stride) * ceil(width / stride)


def inverted_residual_ratio(channels: int, expansion: float, *, kernel: int = 3) -> float:
    """MACs of a standard K×K convolution at the expanded width, over those of the inverted residual."""
    hidden = round(channels * expansion)
    return kernel**2 * hidden**2 / (2 * channels * hidden + kernel**2 * hidden)


def squeeze_excitation_params(channels: int, squeezed: int) -> int:
    """Two 1×1 convolutions with biases on the pooled channels (Hu et al. 2018)."""
    return 2 * channels * squeezed + channels + squeezed


def rounded_width(channels: float, *, divisor: int = 8) -> int:
    """Channels to a multiple of `divisor`, at least one multiple, and never more than 10% below what was asked."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class CompoundScaling:
    """Depth α^φ, width β^φ and resolution γ^φ times the base (Tan & Le 2019, EfficientNet, equation 3)."""

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    @property
    def flops_factor(self) -> float:
        """α·β²·γ²: by how much one step of φ multiplies the arithmetic. The rule asks for about 2."""
        return self.alpha * self.beta**2 * self.gamma**2

    def scaled(self, phi: float, depth: float, width: float, resolution: float) -> tuple[int, int, int]:
        """(layers, channels, pixels) of a base network at φ, to the nearest whole numbers."""
        return (
            round(depth * self.alpha**phi),
            round(width * self.beta**phi),
            round(resolution * self.gamma**phi),
        )


# (width, depth, resolution) of B0 to B7: the published table, which the powers of φ only approach.
EFFICIENTNETS: tuple[tuple[float, float, int], ...] = (
    (1.0, 1.0, 224),
    (1.0, 1.1, 240),
    (1.1, 1.2, 260),
    (1.2, 1.4, 300),
    (1.4, 1.8, 380),
    (1.6, 2.2, 456),
    (1.8, 2.6, 528),
    (2.0, 3.1, 600),
)
