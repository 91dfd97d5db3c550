"""A tensor to its code and back, in each of the forms that a packed file knows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.compress.coded import MOST_BITS, pack_bits, unpack_bits
from tenfold.compress.packing.coder import Decoder, Encoder
from tenfold.compress.packing.container import SIZES, Entry
from tenfold.compress.packing.contexts import LIMIT, Tables, decode_matrix, encode_matrix
from tenfold.compress.packing.parts import parts
from tenfold.compress.packing.planes import (
    PlaneTables,
    decode_indices,
    decode_numbers,
    encode_indices,
    encode_numbers,
)
from tenfold.compress.packing.uniform import Uniform, rounded
from tenfold.compress.quantize import pack_codes, packed_bytes, unpack_codes
from tenfold.errors import PackError
from tenfold.naming import described

QUANTISED = "int8."  # how the names of integer weights and their scales begin, by whatever technique


@dataclass
class Learnt:
    """What the models have learnt from the tensors before."""

    integers: Tables = field(default_factory=Tables)
    numbers: PlaneTables = field(default_factory=PlaneTables)


@dataclass(frozen=True)
class Coded:
    """A tensor's entry and the bytes by which it made the block's code longer, with what the report needs: how many
    numbers of the network it stands for, its order-0 and model bits, and whether it holds weights (else scales,
    biases, tables of shared values)."""

    entry: Entry
    code: int
    numbers: int
    order0_bits: float
    model_bits: float
    is_weight: bool


def code_numbers(name: str, tensor: Tensor, learnt: Learnt, encoder: Encoder) -> Coded:
    """Any tensor, kept to the last bit."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in SIZES:
        raise PackError(f"{name}: tensors of the type {dtype} cannot be packed")
    data, size, bits = bytes_of(tensor), encoder.size, encoder.bits
    encode_numbers(encoder, learnt.numbers, dtype, data, SIZES[dtype], tensor.is_floating_point())
    entry = Entry(name, dtype, tuple(tensor.shape), "numbers")
    is_weight = tensor.dim() > 1 and not name.startswith(QUANTISED)
    order0, bits, size = _byte_entropy(data, SIZES[dtype]), encoder.bits - bits, encoder.size - size
    return Coded(entry, size, tensor.numel(), order0, bits, is_weight)


def code_packed(
    name: str, tensor: Tensor, bits: int, rows: int, width: int, learnt: Learnt, encoder: Encoder
) -> Coded:
    """Packed codes of `bits` bits, as the matrix (rows, width) that they are."""
    middle = 2 ** (bits - 1)
    values = unpack_codes(tensor, bits, rows * width).numpy().astype(np.int32).reshape(rows, width) - middle
    entry = Entry(name, "uint8", tuple(tensor.shape), "codes", rows, bits)
    return _code_matrix(entry, values, learnt, encoder)


def code_integers(name: str, tensor: Tensor, learnt: Learnt, encoder: Encoder) -> Coded:
    """An int8 weight."""
    rows = tensor.shape[0] if tensor.dim() > 1 else 1
    values = tensor.numpy().astype(np.int32).reshape(rows, -1)
    entry = Entry(name, "int8", tuple(tensor.shape), "integers", rows)
    return _code_matrix(entry, values, learnt, encoder)


def code_indices(name: str, tensor: Tensor, bits: int, learnt: Learnt, encoder: Encoder) -> Coded:
    """Places of `bits` bits in a table of shared values, packed as `compress.coded` packs them."""
    number = 8 * tensor.numel() // bits  # as many as there is room for: the last byte may hold some too many
    indices = unpack_bits(tensor.numpy()[: (number * bits + 7) // 8], bits, number).astype(np.uint16)
    if not np.array_equal(pack_bits(indices, bits), tensor.numpy()):
        return code_numbers(
            name, tensor, learnt, encoder
        )  # bits that no place has, and that must come back too
    before = encoder.size, encoder.bits
    encode_indices(encoder, indices, bits)
    entry = Entry(name, "uint8", tuple(tensor.shape), "indices", bits=bits)
    size, model = encoder.size - before[0], encoder.bits - before[1]
    return Coded(entry, size, number, entropy(indices) * number, model, True)


def code_uniform(
    name: str, tensor: Tensor, step: float, learnt: Learnt, encoder: Encoder
) -> tuple[Coded, Tensor]:
    """A float weight rounded to a grid of this step; also what it has become."""
    values, grid = rounded(tensor.double().numpy().reshape(tensor.shape[0], -1), step, LIMIT)
    made = torch.from_numpy(grid.points(values).reshape(tuple(tensor.shape))).to(tensor.dtype)
    dtype = str(tensor.dtype).removeprefix("torch.")
    entry = Entry(
        name, dtype, tuple(tensor.shape), "uniform", tensor.shape[0], step=grid.step, shifts=grid.shifts
    )
    return _code_matrix(entry, values, learnt, encoder), made


def decoded(entry: Entry, decoder: Decoder, learnt: Learnt) -> Tensor:
    """The tensor of an entry, next in the decoder's code. `PackError` where they do not go together."""
    try:
        return _decoded(entry, decoder, learnt)
    except (ValueError, TypeError, RuntimeError, OverflowError, IndexError) as error:
        raise PackError(f"{entry.name!r:.60}: it cannot be decoded ({described(error)})") from error


def _decoded(entry: Entry, decoder: Decoder, learnt: Learnt) -> Tensor:
    if not entry.count and entry.form != "numbers":
        raise PackError(f"{entry.name!r:.60}: an empty tensor cannot have the form {entry.form!r:.20}")
    if entry.form == "numbers":
        is_float = "float" in entry.dtype
        words = decode_numbers(
            decoder, learnt.numbers, entry.dtype, entry.count, SIZES[entry.dtype], is_float
        )
        tensor = _tensor(words, entry)
    elif entry.form == "codes":
        tensor = _packed(entry, decoder, learnt)
    elif entry.form == "indices":
        tensor = _indices(entry, decoder)
    elif entry.form == "integers" and entry.dtype == "int8":
        tensor = torch.from_numpy(_matrix(entry, entry.count, decoder, learnt).astype(np.int8)).reshape(
            entry.shape
        )
    elif entry.form == "uniform" and len(entry.shifts) == 3 and "float" in entry.dtype:
        a, b, c = entry.shifts
        points = Uniform(entry.step, (a, b, c)).points(_matrix(entry, entry.count, decoder, learnt))
        tensor = torch.from_numpy(points).reshape(entry.shape).to(getattr(torch, entry.dtype))
    else:
        raise PackError(f"{entry.name!r:.60}: there is no form {entry.form!r:.20} for {entry.dtype}")
    return tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's memory, little-endian."""
    if not tensor.numel():
        return memoryview(b"")
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def entropy(values: NDArray[np.integer[Any]]) -> float:
    """H₀ in bits a value: of the values' own histogram, whatever their order."""
    return _entropy_of(np.unique(values, return_counts=True)[1])


def _entropy_of(counts: NDArray[Any]) -> float:
    """H₀ of values that came so often each, in bits a value."""
    if not counts.size:
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _code_matrix(entry: Entry, values: NDArray[np.int32], learnt: Learnt, encoder: Encoder) -> Coded:
    low, high, mean = int(values.min()), int(values.max()), float(np.abs(values).mean())
    entry = replace(entry, low=low, high=high, mean=float(np.float32(max(mean, 1e-3))))
    before = encoder.size, encoder.bits
    encode_matrix(encoder, learnt.integers, values, low, high, entry.mean)
    size, model = encoder.size - before[0], encoder.bits - before[1]
    return Coded(entry, size, values.size, entropy(values) * values.size, model, True)


def _matrix(entry: Entry, count: int, decoder: Decoder, learnt: Learnt) -> NDArray[np.int32]:
    if entry.rows < 1 or count % entry.rows:
        raise PackError(f"{entry.name!r:.60}: {count} weights do not make {entry.rows} rows")
    return decode_matrix(
        decoder, learnt.integers, entry.rows, count // entry.rows, entry.low, entry.high, entry.mean
    )


def _packed(entry: Entry, decoder: Decoder, learnt: Learnt) -> Tensor:
    """Packed codes; how many there are follows from the bytes, since less than one row is ever missing."""
    if not 2 <= entry.bits <= 8 or entry.rows < 1 or entry.dtype != "uint8" or len(entry.shape) != 1:
        raise PackError(f"{entry.name!r:.60}: packed codes need 2 to 8 bits, rows and bytes")
    width = entry.count * 8 // (entry.bits * entry.rows)
    if packed_bytes(width * entry.rows, entry.bits) != entry.count:
        raise PackError(
            f"{entry.name!r:.60}: {entry.count} bytes are no {entry.rows} rows of {entry.bits} bits"
        )
    values = _matrix(entry, width * entry.rows, decoder, learnt) + 2 ** (entry.bits - 1)
    return pack_codes(torch.from_numpy(values), entry.bits)


def _indices(entry: Entry, decoder: Decoder) -> Tensor:
    if not 1 <= entry.bits <= MOST_BITS or entry.dtype != "uint8" or len(entry.shape) != 1:
        raise PackError(f"{entry.name!r:.60}: places in a table need 1 to {MOST_BITS} bits and bytes")
    return torch.from_numpy(
        pack_bits(decode_indices(decoder, 8 * entry.count // entry.bits, entry.bits), entry.bits)
    )


def _tensor(words: NDArray[Any], entry: Entry) -> Tensor:
    dtype = getattr(torch, entry.dtype)
    if not len(words):
        return torch.empty(entry.shape, dtype=dtype)
    return torch.from_numpy(words.view(np.uint8)).view(dtype).reshape(entry.shape)


def _byte_entropy(data: memoryview, size: int) -> float:
    """The order-0 entropy of all numbers, plane by plane: in bits."""
    numbers = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    counts = np.zeros((size, 256), dtype=np.int64)
    for part in parts(len(numbers)):
        for plane, found in enumerate(counts):
            found += np.bincount(numbers[part, plane], minlength=256)
    return math.fsum(_entropy_of(found[found > 0]) * len(numbers) for found in counts)
