"""Many numbers in parts, so that what is made of them on the way takes little memory."""

PART = 1 << 16  # numbers at a time


def parts(number: int) -> list[slice]:
    """So many numbers in parts of `PART`, the last of which may be shorter."""
    return [slice(start, start + PART) for start in range(0, number, PART)]
