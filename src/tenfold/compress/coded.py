"""Weights in coded form within safetensors: zeros left out, few values as indices into a table. Lossless, bit by bit.

A tensor whose coded form is clearly smaller is kept as
- `sparse`: a bitmap of what is not zero, and those values in order;
- `table`: a table of K vectors of D values, and for each vector of the tensor its row, in ⌈log₂ K⌉ bits;
- `sparse-table`: a bitmap, and the values that are not zero by a table of single values.
It goes by the values alone, so what any technique leaves sparse or shared is stored so. Structure tells the form of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.errors import RecipeError

FORMS = ("sparse", "table", "sparse-table")
SMALLEST = 1024  # bytes of a dense tensor worth a look
WORTH = 0.9  # of the dense bytes that a coded form may take at most
WORTH_INT8 = (
    0.55  # the same for matrices of int8: any holds few values, and `pack` codes them better as they are
)
SAMPLE = 2048  # vectors that are looked at first
VECTORS = (1, 2, 4, 8, 9, 16)  # lengths of shared vectors that are looked for
MOST_BITS = 16
CHUNK = 1 << 14  # codes spread out into bits at a time; a multiple of 8, so that chunks end on whole bytes
_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
_BITS[torch.int8] = torch.int8

Coded = dict[str, dict[str, Any]]


def encoded(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Coded]:
    """The tensors with some of them in coded form, and for each of those its form as plain JSON."""
    stored: dict[str, Tensor] = {}
    coded: Coded = {}
    for name, tensor in tensors.items():
        best: tuple[dict[str, Any], dict[str, Tensor]] | None = None
        if tensor.dtype in _BITS and tensor.nbytes >= SMALLEST:
            options = [
                option for option in (_sparse(tensor), *(_table(tensor, d) for d in VECTORS)) if option
            ]
            best = min(options, key=lambda option: _bytes(option[1]), default=None)
        worth = WORTH_INT8 if tensor.dtype == torch.int8 and tensor.dim() > 1 else WORTH
        if best is None or _bytes(best[1]) > worth * tensor.nbytes:
            stored[name] = tensor
            continue
        form, parts = best
        coded[name] = form
        stored.update({f"{name}::{part}": value for part, value in parts.items()})
    return stored, coded


def decoded(
    stored: Mapping[str, Tensor], coded: Coded, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """The tensors as they were. `shapes` are those of the network, so that no file says how much to allocate.

    Raises `RecipeError` where parts are missing, left over or do not go together.
    """
    left = dict(stored)
    made: dict[str, Tensor] = {}
    for name, form in coded.items():
        if name not in shapes:
            raise RecipeError(f"the network has no tensor {name!r}, which is stored in coded form")
        parts = {
            part: left.pop(f"{name}::{part}") for part in _parts(form["form"]) if f"{name}::{part}" in left
        }
        if len(parts) < len(_parts(form["form"])):
            raise RecipeError(f"{name}: a part of its coded form is missing")
        try:
            made[name] = _decode(form, parts, shapes[name])
        except (ValueError, IndexError, RuntimeError, TypeError) as error:
            raise RecipeError(f"{name}: its coded form is damaged: {error}") from error
    return {**left, **made}


def check_forms(value: Any) -> Coded:
    """`value` from a file as forms by name; `RecipeError` where it is none."""
    if not isinstance(value, dict):
        raise RecipeError("coded must map names of tensors to their forms")
    for name, form in value.items():
        if not isinstance(form, dict) or form.keys() != {"form", "bits"} or form["form"] not in FORMS:
            raise RecipeError(f"coded: {name!r:.60} must have a form (one of {', '.join(FORMS)}) and bits")
        if type(form["bits"]) is not int or not 0 <= form["bits"] <= MOST_BITS:
            raise RecipeError(f"coded: {name!r:.60}: bits must be a whole number from 0 to {MOST_BITS}")
    return value


def _sparse(tensor: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """A bitmap and the values; by a table of them where they are few. None where less than an eighth is zero."""
    flat = tensor.flatten()
    present = flat.view(_BITS[tensor.dtype]) != 0
    values = flat[present]
    if len(values) > 0.875 * len(flat):
        return None
    bitmap = torch.from_numpy(np.packbits(present.numpy(), bitorder="little"))
    shared = _table(values, 1) if len(values) else None
    if shared is not None and _bytes(shared[1]) < values.nbytes:
        form, parts = shared
        return {**form, "form": "sparse-table"}, {"bitmap": bitmap, **parts}
    return {"form": "sparse", "bits": 0}, {"bitmap": bitmap, "values": values.clone()}


def _table(tensor: Tensor, length: int) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """A table of the different vectors of `length` values in a row, and their codes; None where they are many."""
    if tensor.numel() % length:
        return None
    rows = tensor.reshape(-1, length).view(_BITS[tensor.dtype])
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    if len(torch.unique(sample, dim=0)) > max(len(sample) // 2, 1):
        return None
    table, codes = torch.unique(rows, dim=0, return_inverse=True)
    bits = max(1, math.ceil(math.log2(len(table))))
    if bits > MOST_BITS:
        return None
    packed = torch.from_numpy(pack_bits(codes.numpy(), bits))
    return {"form": "table", "bits": bits}, {"table": table.view(tensor.dtype), "codes": packed}


def pack_bits(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Whole numbers below 2^bits, one after the other, least bit first."""
    flat, shifts = codes.reshape(-1, 1).astype(np.uint32), np.arange(bits, dtype=np.uint32)
    parts = [
        np.packbits(((flat[start : start + CHUNK] >> shifts) & 1).astype(np.uint8), bitorder="little")
        for start in range(0, len(flat), CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)


def unpack_bits(packed: NDArray[np.uint8], bits: int, number: int) -> NDArray[np.int64]:
    """What `pack_bits` packed; `ValueError` where the length is not that of `number` codes."""
    if len(packed) != (number * bits + 7) // 8:
        raise ValueError(f"{len(packed)} bytes do not hold {number} codes of {bits} bits")
    codes, shifts = np.zeros(number, dtype=np.int64), np.arange(bits, dtype=np.uint32)
    for start in range(0, number, CHUNK):
        count = min(CHUNK, number - start)
        part = np.unpackbits(packed[start * bits // 8 :], count=count * bits, bitorder="little")
        codes[start : start + count] = (part.reshape(count, bits).astype(np.uint32) << shifts).sum(1)
    return codes


def _decode(form: dict[str, Any], parts: dict[str, Tensor], shape: torch.Size) -> Tensor:
    number = math.prod(shape)
    if form["form"] == "table":
        table = parts["table"]
        if table.ndim != 2 or table.shape[1] < 1 or number % table.shape[1]:
            raise ValueError(f"a table of shape {tuple(table.shape)} does not go with {number} values")
        return _looked_up(table, parts["codes"], form["bits"], number // table.shape[1]).reshape(shape)
    bitmap = parts["bitmap"].numpy()
    if bitmap.dtype != np.uint8 or len(bitmap) != (number + 7) // 8:
        raise ValueError(f"a bitmap of {len(bitmap)} bytes does not go with {number} values")
    present = torch.from_numpy(np.unpackbits(bitmap, count=number, bitorder="little").astype(bool))
    held = int(present.sum())
    if form["form"] == "sparse":
        values = parts["values"]
    else:
        values = _looked_up(parts["table"], parts["codes"], form["bits"], held).flatten()
    if values.shape != (held,):
        raise ValueError(f"{tuple(values.shape)} values for {held} places")
    flat = torch.zeros(number, dtype=values.dtype)
    flat[present] = values
    return flat.reshape(shape)


def _looked_up(table: Tensor, codes: Tensor, bits: int, number: int) -> Tensor:
    if codes.dtype != torch.uint8 or table.ndim != 2:
        raise ValueError("its codes are no bytes, or its table is none")
    index = unpack_bits(codes.numpy(), bits, number)
    if number and int(index.max()) >= len(table):
        raise ValueError(f"a code points at row {int(index.max())} of a table of {len(table)}")
    return table[torch.from_numpy(index)]


def _parts(form: str) -> tuple[str, ...]:
    return {"sparse": ("bitmap", "values"), "table": ("table", "codes")}.get(
        form, ("bitmap", "table", "codes")
    )


def _bytes(parts: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in parts.values())
