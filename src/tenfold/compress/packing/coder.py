"""Range coding by the package constriction: symbols and their probabilities in, bytes out, and back.

The only file that knows the package. It is an extra (`pip install 'tenfold[pack]'`), imported when it is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.errors import PackError

Table = NDArray[np.float64]  # of weights above 0, one a symbol; they need not add up to 1
Symbols = NDArray[np.int32]
WORD = 4  # bytes of the coder's words


class Encoder:
    """Gathers symbols; `bytes` gives the code of all."""

    def __init__(self) -> None:
        self._package = _constriction()
        self._encoder = self._package.stream.queue.RangeEncoder()
        self.bits = 0.0  # Σ −log2 p of all symbols so far: what no coder of these tables can go below

    def encode(self, symbols: Symbols, table: Table) -> None:
        """Append symbols 0 … len(table) − 1, all under one table."""
        if len(table) < 2 or not len(symbols):
            return  # the only symbol there is takes no bits
        counts = np.bincount(symbols, minlength=len(table))
        self.bits += float(counts @ (np.log2(table.sum()) - np.log2(table)))
        model = self._package.stream.model.Categorical(table, perfect=False)
        self._encoder.encode(np.ascontiguousarray(symbols, dtype=np.int32), model)

    @property
    def size(self) -> int:
        """Bytes of the code so far."""
        return WORD * int(self._encoder.num_words())

    def bytes(self) -> memoryview:
        """The code so far, a whole number of words."""
        words: NDArray[np.uint32] = self._encoder.get_compressed().astype("<u4", copy=False)
        return words.data.cast("B") if len(words) else memoryview(b"")


class Decoder:
    """Gives the symbols back in the order in which they went in, if it is asked with the same tables."""

    def __init__(self, code: bytes | memoryview) -> None:
        if len(code) % WORD:
            raise PackError(f"a code of {len(code)} bytes is no whole number of words")
        self._package = _constriction()
        words = np.frombuffer(code, dtype="<u4").astype(np.uint32, copy=False)
        self._decoder = self._package.stream.queue.RangeDecoder(words)

    def decode(self, count: int, table: Table) -> Symbols:
        """The next `count` symbols."""
        if len(table) < 2 or not count:
            return np.zeros(count, dtype=np.int32)
        model = self._package.stream.model.Categorical(table, perfect=False)
        try:
            return np.asarray(self._decoder.decode(model, count), dtype=np.int32)
        except (AssertionError, ValueError) as error:
            raise PackError("a code does not go with its model") from error


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise PackError("packing needs the package constriction: pip install 'tenfold[pack]'") from error
    return constriction
