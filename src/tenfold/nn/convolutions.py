"""Convolution with batch norm and activation, and the depthwise separable convolution made of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.nn.activations import Activation
from tenfold.nn.squeeze_excite import Squeeze
from tenfold.nn.stochastic_depth import StochasticDepth


@dataclass(frozen=True)
class ConvStyle:
    """What the convolutions of a network have in common.

    `same_padding` pads as TensorFlow does: at stride 2 an even side gets its extra row below and right, where
    PyTorch's symmetric padding has it above and left. The output has the same shape either way.
    """

    activation: Activation = Activation.RELU
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    same_padding: bool = False


PLAIN = ConvStyle()


class SamePadding(nn.Module):
    """Zeros around (N, C, H, W) such that a convolution gives ⌈H / stride⌉ × ⌈W / stride⌉, the odd one at the end."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        below, right = self._total(x.shape[-2]), self._total(x.shape[-1])
        return F.pad(x, [right // 2, right - right // 2, below // 2, below - below // 2])

    def _total(self, side: int) -> int:
        return max(0, ((side - 1) // self.stride) * self.stride + self.kernel - side)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, activation: (N, Cin, H, W) -> (N, Cout, ⌈H / stride⌉, ⌈W / stride⌉).

    At kernel K and G groups, for each output pixel: K²·Cin·Cout / G multiply-adds; as many weights, and 2·Cout
    parameters of the norm. `activation` False leaves the output linear.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        *,
        style: ConvStyle = PLAIN,
        activation: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel's side must be odd, not {kernel}")
        uneven = style.same_padding and stride > 1 and kernel > 1
        if uneven:
            self.pad = SamePadding(kernel, stride)
        padding = 0 if uneven else kernel // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=style.norm_eps, momentum=style.norm_momentum)
        if activation:
            self.act = style.activation.layer()


class DepthwiseSeparableConv(nn.Module):
    """A K×K convolution of each channel, then a 1×1 convolution across channels.

    (N, Cin, H, W) -> (N, Cout, H', W') with H' = ⌈H / stride⌉. Multiply-adds: (K²·Cin + Cin·Cout)·H'·W', against
    K²·Cin·Cout·H'·W' of a standard convolution: K²·Cout / (K² + Cout) times fewer. Howard et al., 2017
    (MobileNets), arXiv:1704.04861, section 3.1.

    `linear` leaves out the last activation and adds the input where shapes agree (and `shortcut` allows it): the
    inverted residual that does not expand (Sandler et al., 2018, arXiv:1801.04381).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        linear: bool = False,
        shortcut: bool = True,
        squeeze: Squeeze | None = None,
        style: ConvStyle = PLAIN,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(in_channels, in_channels, kernel, stride, in_channels, style=style)
        self.squeeze = squeeze.layer(in_channels, in_channels, style.activation) if squeeze else nn.Identity()
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, style=style, activation=not linear)
        self.shortcut = linear and shortcut and stride == 1 and in_channels == out_channels
        self.drop_path = StochasticDepth(drop_path) if drop_path and self.shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(self.squeeze(self.depthwise(x)))
        return x + self.drop_path(y) if self.shortcut else y
