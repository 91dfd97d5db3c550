"""The inverted residual with linear bottleneck, and its fused form."""

from __future__ import annotations

from torch import Tensor, nn

from tenfold.nn.convolutions import PLAIN, ConvNormAct, ConvStyle
from tenfold.nn.squeeze_excite import Squeeze
from tenfold.nn.stochastic_depth import StochasticDepth


class InvertedResidual(nn.Module):
    """Expand to `hidden` channels, convolve each, project back without activation; a shortcut between the narrow ends.

    (N, Cin, H, W) -> (N, Cout, H', W') with H' = ⌈H / stride⌉. With E = `hidden`, multiply-adds:
    Cin·E·H·W + (K²·E + E·Cout)·H'·W', and 2·E·S of a squeeze to S channels. Sandler et al., 2018 (MobileNetV2),
    arXiv:1801.04381, section 3.3; with squeeze-and-excitation Tan et al., 2019 (MnasNet), arXiv:1807.11626.

    `hidden` equal to Cin still has its 1×1 convolution (FBNet has such blocks); without one, take
    `DepthwiseSeparableConv(linear=True)`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        shortcut: bool = True,
        squeeze: Squeeze | None = None,
        style: ConvStyle = PLAIN,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.expand = ConvNormAct(in_channels, hidden, 1, style=style)
        self.depthwise = ConvNormAct(hidden, hidden, kernel, stride, hidden, style=style)
        self.squeeze = squeeze.layer(in_channels, hidden, style.activation) if squeeze else nn.Identity()
        self.project = ConvNormAct(hidden, out_channels, 1, style=style, activation=False)
        self.shortcut = shortcut and stride == 1 and in_channels == out_channels
        self.drop_path = StochasticDepth(drop_path) if drop_path and self.shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + self.drop_path(y) if self.shortcut else y


class FusedInvertedResidual(nn.Module):
    """The expansion and the depthwise convolution as one standard K×K convolution, then the linear projection.

    (N, Cin, H, W) -> (N, Cout, H', W') with H' = ⌈H / stride⌉. With E = `hidden`, multiply-adds:
    (K²·Cin·E + E·Cout)·H'·W'. Without expansion (E = Cin) one K×K convolution with activation remains:
    K²·Cin·Cout·H'·W'. Tan and Le, 2021 (EfficientNetV2), arXiv:2104.00298, section 3.2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        shortcut: bool = True,
        style: ConvStyle = PLAIN,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        expands = hidden != in_channels
        self.expand = ConvNormAct(
            in_channels, hidden if expands else out_channels, kernel, stride, style=style
        )
        self.project = (
            ConvNormAct(hidden, out_channels, 1, style=style, activation=False) if expands else nn.Identity()
        )
        self.shortcut = shortcut and stride == 1 and in_channels == out_channels
        self.drop_path = StochasticDepth(drop_path) if drop_path and self.shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.expand(x))
        return x + self.drop_path(y) if self.shortcut else y
