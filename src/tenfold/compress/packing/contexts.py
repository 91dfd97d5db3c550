"""A model of quantised weights that learns while it codes: how large was what stood in the same row and column?

A matrix (R, K) of integers s around 0 is coded in tiles, from left to right and from the top down. For each integer
the mean magnitude is predicted from those before it, as (mean of its row so far) · (mean of its column so far) /
(mean of the matrix), and the prediction, rounded to a third of an octave, is the context. Each context has a table
of how often each value came. It begins as the two-sided geometric distribution of that mean magnitude (of all
distributions over the integers the one of greatest entropy) and is the same for all matrices of a file, so that what
the first taught serves the next.

The decoder must come to the same tables to the last bit: they are made of integers by sums, products and quotients
of float64 alone, which IEEE 754 rounds alike everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tenfold.compress.packing.coder import Decoder, Encoder, Symbols, Table

LIMIT = 512  # magnitudes of integers end here
TILE = 2048  # integers that are coded under one state of the tables
TILE_WIDTH = 64
FAITH = 8.0  # a row or column counts as if it had shown the matrix's mean so many times before
PRIOR = 24.0  # weight of a table's beginning, in integers seen
MEMORY = 1 << 16  # counts of a table are halved when they add up to more
SMALLEST, CONTEXTS = (
    1 / 32,
    36,
)  # the first context's mean magnitude; each next is a third of an octave higher
THIRD = 1.259921  # ∛2


class Tables:
    """What was counted so far in each context: one for a whole file."""

    def __init__(self) -> None:
        centres = [SMALLEST]
        while len(centres) < CONTEXTS:
            centres.append(centres[-1] * THIRD)
        self.edges = np.array([centre * 1.1224620 for centre in centres[:-1]])  # half a step up: ⁶√2
        self.prior = np.stack([PRIOR * _geometric(mean) for mean in centres])
        self.counts = np.zeros((CONTEXTS, 2 * LIMIT + 1))

    def table(self, context: int, low: int, high: int) -> Table:
        """The weights of the values low … high."""
        window = slice(low + LIMIT, high + LIMIT + 1)
        return self.prior[context, window] + self.counts[context, window]

    def learn(self, context: int, values: Symbols) -> None:
        """Count what came."""
        counts = self.counts[context]
        counts += np.bincount(values + LIMIT, minlength=len(counts))
        if counts.sum() > MEMORY:
            counts //= 2


def encode_matrix(
    encoder: Encoder, tables: Tables, values: NDArray[np.int32], low: int, high: int, mean: float
) -> None:
    """Code the matrix (R, K) of integers low … high; `mean` is about their mean magnitude."""
    for place, contexts in _tiles(tables, values, mean):
        tile = values[place].reshape(-1)
        for context in np.unique(contexts):
            chosen = tile[contexts == context]
            encoder.encode((chosen - low).astype(np.int32), tables.table(context, low, high))
            tables.learn(context, chosen)


def decode_matrix(
    decoder: Decoder, tables: Tables, rows: int, width: int, low: int, high: int, mean: float
) -> NDArray[np.int32]:
    """The matrix that `encode_matrix` coded with the same numbers."""
    values = np.zeros((rows, width), dtype=np.int32)
    for place, contexts in _tiles(tables, values, mean):
        tile = np.empty(len(contexts), dtype=np.int32)
        for context in np.unique(contexts):
            chosen = contexts == context
            decoded = decoder.decode(int(chosen.sum()), tables.table(context, low, high)) + np.int32(low)
            tile[chosen] = decoded
            tables.learn(context, decoded)
        values[place] = tile.reshape(values[place].shape)
    return values


def _tiles(
    tables: Tables, values: NDArray[np.int32], mean: float
) -> Iterator[tuple[tuple[slice, slice], NDArray[np.intp]]]:
    """Each tile's place and the contexts of its integers, flat. Reads a tile of `values` only after yielding it."""
    rows, width = values.shape
    across = min(width, TILE_WIDTH)
    down = max(1, TILE // max(across, 1))
    column_sums, rows_done = np.zeros(width), 0
    for top in range(0, rows, down):
        high = slice(top, min(top + down, rows))
        row_sums, columns_done = np.zeros(high.stop - top), 0
        for left in range(0, width, across):
            wide = slice(left, min(left + across, width))
            by_row = (row_sums + FAITH * mean) / (columns_done + FAITH)
            by_column = (column_sums[wide] + FAITH * mean) / (rows_done + FAITH)
            predicted = (by_row[:, None] * by_column[None, :]) / mean
            yield (high, wide), np.searchsorted(tables.edges, predicted.reshape(-1))
            magnitudes = np.abs(values[high, wide])
            row_sums += magnitudes.sum(1)
            column_sums[wide] += magnitudes.sum(0)
            columns_done += wide.stop - left
        rows_done += high.stop - top


def _geometric(mean: float) -> Table:
    """The two-sided geometric distribution of this mean magnitude over −LIMIT … LIMIT: p(s) ∝ ρ^|s|.

    E|s| = 2ρ / (1 − ρ²) gives ρ = (√(1 + m²) − 1) / m; a floor keeps every value possible.
    """
    ratio = (np.sqrt(1.0 + mean * mean) - 1.0) / mean
    powers = [1.0]
    while len(powers) <= LIMIT:
        powers.append(powers[-1] * float(ratio))
    side = np.array(powers)
    both = np.concatenate([side[:0:-1], side])
    total = 0.0
    for value in both:  # one after the other, so that the sum is the same everywhere
        total += float(value)
    return both / total + 1e-6
