"""Tensors one after the other under one coder: the blocks of a packed file, as they are written and read."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from torch import Tensor

from tenfold.compress.packing.coder import Decoder, Encoder
from tenfold.compress.packing.container import Block, Entry
from tenfold.compress.packing.tensors import Learnt, bytes_of, decoded
from tenfold.errors import PackError

LEAST = 1 << 16  # bytes of code that end a block with the tensor at hand; its last words are 0.01% of that


class Blocks:
    """The blocks of a file that is being written. A tensor goes to `encoder`, then its entry to `add`.

    The code of a block that ends goes to `codes`.
    """

    def __init__(self, codes: BinaryIO) -> None:
        self.learnt = Learnt()
        self.closed: list[Block] = []
        self._codes = codes
        self.encoder = Encoder()
        self._entries: list[Entry] = []
        self._crc = 0

    def add(self, entry: Entry, tensor: Tensor) -> None:
        """Take in the entry of the tensor that was coded last; `tensor` is as it will be unpacked."""
        self._entries.append(entry)
        self._crc = zlib.crc32(bytes_of(tensor), self._crc)
        if self.encoder.size >= LEAST:
            self.close()

    def close(self) -> None:
        """End the block at hand, if anything is in it."""
        if self._entries:
            code = self.encoder.bytes()
            self._codes.write(code)
            self.closed.append(Block(tuple(self._entries), len(code), self._crc))
        self.encoder, self._entries, self._crc = Encoder(), [], 0


def opened(block: Block, code: bytes, learnt: Learnt) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a block by name; `PackError` after the last, at the latest, where one is not what was packed."""
    decoder, crc = Decoder(code), 0
    for entry in block.tensors:
        tensor = decoded(entry, decoder, learnt)
        crc = zlib.crc32(bytes_of(tensor), crc)
        yield entry.name, tensor
        del tensor  # before the next is decoded
    if crc != block.crc:
        first, last = block.tensors[0].name, block.tensors[-1].name
        names = f"{first!r:.60}" if len(block.tensors) == 1 else f"{first!r:.60} to {last!r:.60}"
        raise PackError(f"{names}: what the code says is not what was packed")
