"""Numbers kept to the last bit: their bytes in planes, each under a table that learns.

A float is turned so that its exponent fills the highest byte (fp16: with three bits of mantissa) and its sign ends as
the lowest bit. Exponents of weights take 2 to 3 of their 8 bits; mantissas are noise and stay 8 bits a byte, but for
floats that were narrower once, whose lower bytes are zeros and cost nothing.

Places in a table of shared values, whole numbers of up to 16 bits, are coded the same way: first their highest 8 bits,
then the rest of each, under a table for each value of the highest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.compress.packing.coder import Decoder, Encoder, Symbols, Table
from tenfold.compress.packing.parts import parts

FIRST, LARGEST = 16, 1 << 14  # bytes coded under one state of a table: at first, and in the end
MEMORY = 1 << 16
UNEVEN, EVEN = (
    8.0,
    2.0,
)  # what a value counts when it came; the even beginning counts 1 (2: Krichevsky–Trofimov)

Bytes = NDArray[np.uint8]
Words = NDArray[Any]  # unsigned, of any width
Indices = NDArray[np.uint16]


class PlaneTables:
    """The table of each plane of each kind of number: of bytes for a whole file, of places for one tensor."""

    def __init__(self, count: float = UNEVEN) -> None:
        self._count = count
        self._tables: dict[tuple[str, int], Table] = {}

    def of(self, kind: str, plane: int, bits: int) -> Table:
        """The weights of the 2^bits values of a plane, learnt so far."""
        return self._tables.setdefault((kind, plane), np.ones(1 << bits))

    def learn(self, kind: str, plane: int, values: Symbols) -> None:
        """Count what came, in steps that outweigh the even beginning."""
        table = self._tables[kind, plane]
        table += self._count * np.bincount(values, minlength=len(table))
        if table.sum() > self._count * MEMORY:
            self._tables[kind, plane] = np.floor(table / 2) + 1.0


def encode_numbers(
    encoder: Encoder, tables: PlaneTables, kind: str, data: bytes | memoryview, size: int, is_float: bool
) -> None:
    """Code numbers of `size` bytes each, little-endian."""
    words = np.frombuffer(data, dtype=f"<u{size}")
    for plane in range(size):
        _encode_plane(encoder, tables, kind, plane, 8, _plane(words, plane, is_float))


def decode_numbers(
    decoder: Decoder, tables: PlaneTables, kind: str, count: int, size: int, is_float: bool
) -> Words:
    """The `count` numbers that `encode_numbers` coded, as unsigned words of `size` bytes."""
    words = np.empty(count, dtype=f"<u{size}")
    planes = words.view(np.uint8).reshape(count, size)
    for plane in range(size):
        planes[:, plane] = _decode_plane(decoder, tables, kind, plane, 8, count)
    for part in parts(len(words)) if is_float else ():
        words[part] = _turned_back(words[part])
    return words


def encode_indices(encoder: Encoder, indices: Indices, bits: int) -> None:
    """Code whole numbers below 2^bits that mean something to one tensor alone."""
    tables, low = PlaneTables(EVEN), max(bits - 8, 0)
    high = indices >> low
    _encode_plane(encoder, tables, "high", 0, bits - low, high)
    for value in np.unique(high) if low else ():
        rest = indices[high == value] & ((1 << low) - 1)
        _encode_plane(encoder, tables, "low", int(value), low, rest)


def decode_indices(decoder: Decoder, count: int, bits: int) -> Indices:
    """The `count` numbers that `encode_indices` coded."""
    tables, low = PlaneTables(EVEN), max(bits - 8, 0)
    high = _decode_plane(decoder, tables, "high", 0, bits - low, count)
    indices: Indices = high << np.uint16(low)
    for value in np.unique(high) if low else ():
        chosen = high == value
        indices[chosen] |= _decode_plane(decoder, tables, "low", int(value), low, int(chosen.sum()))
    return indices


def _encode_plane(
    encoder: Encoder, tables: PlaneTables, kind: str, plane: int, bits: int, values: Words
) -> None:
    done, step = 0, FIRST
    while done < len(values):
        part = values[done : done + step].astype(np.int32)
        encoder.encode(part, tables.of(kind, plane, bits))
        tables.learn(kind, plane, part)
        done, step = done + step, min(2 * step, LARGEST)


def _decode_plane(
    decoder: Decoder, tables: PlaneTables, kind: str, plane: int, bits: int, count: int
) -> Indices:
    values = np.empty(count, dtype=np.uint16)
    done, step = 0, FIRST
    while done < count:
        part = decoder.decode(min(step, count - done), tables.of(kind, plane, bits))
        tables.learn(kind, plane, part)
        values[done : done + step] = part
        done, step = done + step, min(2 * step, LARGEST)
    return values


def _plane(words: Words, plane: int, is_float: bool) -> Bytes:
    """One byte of each number, the lowest for plane 0."""
    size, found = words.dtype.itemsize, np.empty(len(words), dtype=np.uint8)
    for part in parts(len(words)):
        turned = _turned(words[part]) if is_float else words[part]
        found[part] = turned.view(np.uint8).reshape(-1, size)[:, plane]
    return found


def _turned(words: Words) -> Words:
    one, top = words.dtype.type(1), words.dtype.type(8 * words.dtype.itemsize - 1)
    return (words << one) | (words >> top)


def _turned_back(words: Words) -> Words:
    one, top = words.dtype.type(1), words.dtype.type(8 * words.dtype.itemsize - 1)
    return (words >> one) | (words << top)
