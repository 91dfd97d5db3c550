"""Numbers kept to the last bit: their bytes in planes, each under a table that learns.

A float is turned so that its exponent fills the highest byte (fp16: with three bits of mantissa) and its sign ends as
the lowest bit. Exponents of weights take 2 to 3 of their 8 bits; mantissas are noise and stay 8 bits a byte, but for
floats that were narrower once, whose lower bytes are zeros and cost nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tenfold.compress.pack.coder import Decoder, Encoder, Table

FIRST, LARGEST = 256, 1 << 14  # bytes coded under one state of a table: at first, and in the end
MEMORY = 1 << 16

Bytes = NDArray[np.uint8]


class PlaneTables:
    """The table of each plane of each kind of number, for a whole file."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], Table] = {}

    def of(self, kind: str, plane: int) -> Table:
        """The weights of the 256 values of a byte, learnt so far."""
        return self._tables.setdefault((kind, plane), np.ones(256))

    def learn(self, kind: str, plane: int, values: NDArray[np.int32]) -> None:
        """Count what came, in steps that outweigh the even beginning."""
        table = self.of(kind, plane)
        table += 8.0 * np.bincount(values, minlength=256)
        if table.sum() > 8 * MEMORY:
            self._tables[kind, plane] = np.floor(table / 2) + 1.0


def encode_numbers(
    encoder: Encoder, tables: PlaneTables, kind: str, data: bytes, size: int, is_float: bool
) -> None:
    """Code numbers of `size` bytes each, little-endian."""
    for plane, values in enumerate(_planes(data, size, is_float)):
        done, step = 0, FIRST
        while done < len(values):
            part = values[done : done + step].astype(np.int32)
            encoder.encode(part, tables.of(kind, plane))
            tables.learn(kind, plane, part)
            done, step = done + step, min(2 * step, LARGEST)


def decode_numbers(
    decoder: Decoder, tables: PlaneTables, kind: str, count: int, size: int, is_float: bool
) -> bytes:
    """The `count` numbers that `encode_numbers` coded."""
    planes = np.empty((size, count), dtype=np.uint8)
    for plane in range(size):
        done, step = 0, FIRST
        while done < count:
            part = decoder.decode(min(step, count - done), tables.of(kind, plane))
            tables.learn(kind, plane, part)
            planes[plane, done : done + step] = part
            done, step = done + step, min(2 * step, LARGEST)
    words = np.ascontiguousarray(planes.T).view(f"<u{size}").reshape(-1)
    return (_turned_back(words) if is_float else words).tobytes()


def _planes(data: bytes, size: int, is_float: bool) -> Bytes:
    """(size, count): the bytes of each number, the lowest first, in rows."""
    words = np.frombuffer(data, dtype=f"<u{size}")
    if is_float:
        words = _turned(words)
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, size).T)


def _turned(words: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:  # type: ignore[type-arg]
    one, top = words.dtype.type(1), words.dtype.type(8 * words.dtype.itemsize - 1)
    return (words << one) | (words >> top)


def _turned_back(words: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:  # type: ignore[type-arg]
    one, top = words.dtype.type(1), words.dtype.type(8 * words.dtype.itemsize - 1)
    return (words >> one) | (words << top)
