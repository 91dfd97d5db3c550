"""Codes of 2 to 8 bits packed into bytes without gaps: what a quantised weight occupies in a file and in memory.

Code i holds the bits i·b … i·b + b − 1 of the stream, lowest bit first; bit j of the stream is bit j mod 8 of byte
j // 8. So eight codes fill b bytes. The last byte is filled up with zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return (count * bits + 7) // 8


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes 0 … 2^bits − 1 of any integer type and shape -> uint8 (packed_bytes,)."""
    flat = codes.reshape(-1).to(torch.uint8)
    eights = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).reshape(-1, 8).to(torch.int16)
    packed = eights.new_zeros(len(eights), bits + 1)  # a byte more, for what the last shift carries over
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        moved = eights[:, place] << shift
        packed[:, byte] |= moved & 255
        packed[:, byte + 1] |= moved >> 8
    return packed[:, :bits].to(torch.uint8).reshape(-1)[: packed_bytes(len(flat), bits)].clone()


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of a packed stream: uint8 (count,)."""
    bytes_ = torch.nn.functional.pad(packed, (0, -len(packed) % bits)).reshape(-1, bits).to(torch.int16)
    bytes_ = torch.nn.functional.pad(bytes_, (0, 1))
    codes = packed.new_empty(len(bytes_), 8)
    for place in range(8):
        byte, shift = divmod(place * bits, 8)
        both = bytes_[:, byte] | (bytes_[:, byte + 1] << 8)
        # The sign of int16 would be drawn in from the left, but only 8 of its 16 bits are asked for below.
        codes[:, place] = ((both >> shift) & (2**bits - 1)).to(torch.uint8)
    return codes.reshape(-1)[:count]
