"""What images a network is for: checks of channels, classes and resolution, and when a stem keeps the resolution."""

from __future__ import annotations

from typing import Any

from tenfold.errors import NetworkError

# Networks are published for sides of 96 and more; smaller images get a stem that keeps more of their resolution.
SMALL = 96


def has_small_stem(resolution: int, chosen: bool | None) -> bool:
    """What the caller chose, and without a choice True for images below 96 pixels."""
    return resolution < SMALL if chosen is None else chosen


def check_ends(num_classes: int, in_channels: int) -> None:
    """Raise `NetworkError` for no classes or no channels."""
    check_count("num_classes", num_classes)
    check_count("in_channels", in_channels)


def check_count(option: str, value: Any) -> None:
    """Raise `NetworkError` for anything but a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise NetworkError(f"{option} must be a whole number of at least 1, not {value!r}")


def check_resolution(family: str, resolution: int, least: int) -> None:
    """Raise `NetworkError` if images of this side would leave nothing for the last layers of the `family`."""
    if resolution < least:
        raise NetworkError(f"resolution {resolution} is too small for {family}: take at least {least} pixels")
