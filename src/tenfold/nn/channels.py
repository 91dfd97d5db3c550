"""Widths of layers: the rounding rule that every mobile network shares."""

from __future__ import annotations

DIVISOR = 8  # vector units work on whole groups of eight channels
TOLERATED = 0.9  # rounding down may cost a tenth of the width, no more


def round_channels(channels: float, divisor: int = DIVISOR) -> int:
    """The multiple of `divisor` nearest to `channels`, at least one, never below nine tenths of it.

    The rule of the MobileNet reference implementation: 19.2 (EfficientNet-B3's 16 · 1.2) would round to 16, which
    is below 17.28, and becomes 24.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= TOLERATED * channels else rounded + divisor
