"""What images a network is for: checks of channels, classes and resolution, and when a stem keeps the resolution."""

from __future__ import annotations

from tenfold.errors import NetworkError

# Networks are published for sides of 96 and more; smaller images get a stem that keeps more of their resolution.
SMALL = 96


def has_small_stem(resolution: int, chosen: bool | None) -> bool:
    """What the caller chose, and without a choice True for images below 96 pixels."""
    return resolution < SMALL if chosen is None else chosen


def check_ends(num_classes: int, in_channels: int) -> None:
    """Raise `NetworkError` for no classes or no channels."""
    for option, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise NetworkError(f"{option} must be at least 1, not {value}")


def check_resolution(family: str, resolution: int, least: int) -> None:
    """Raise `NetworkError` if images of this side would leave nothing for the last layers of the `family`."""
    if resolution < least:
        raise NetworkError(f"resolution {resolution} is too small for {family}: take at least {least} pixels")
