"""Files of safetensors read and written one tensor after the other: in memory is one, however large the file."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tenfold.compress.packing.container import Entry
from tenfold.compress.packing.tensors import bytes_of
from tenfold.errors import PackError, RecipeError
from tenfold.naming import described

# By the order in which a file holds them: the widest first, so that each lies at a multiple of its own bytes.
DTYPES = {
    "I64": torch.int64, "F64": torch.float64, "F32": torch.float32, "I32": torch.int32, "BF16": torch.bfloat16,
    "F16": torch.float16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
FORMAT = {"format": "pt"}
LARGEST_HEADER = 100_000_000  # bytes: above, no reader takes the file
MAPPED = 1 << 24  # bytes that are read before the file is opened anew


def stored_shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in the order of their places, without their values (on the device meta).

    Raises `RecipeError` for a file that cannot be read, `PackError` for a type of numbers that no pack knows.
    """
    found = {}
    with _opened(path) as file:
        for name in file.offset_keys() if hasattr(file, "offset_keys") else file.keys():
            part = file.get_slice(name)
            kind = str(part.get_dtype())
            if kind not in DTYPES:
                raise PackError(f"{name}: tensors of the type {kind} cannot be packed")
            found[name] = torch.empty(tuple(part.get_shape()), dtype=DTYPES[kind], device="meta")
    return found


def stored_tensors(path: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """These tensors of the file one by one; each is to be dropped before the next is asked for.

    What was read of a file stays mapped while it is open, so it is opened anew every `MAPPED` bytes.
    """
    with ExitStack() as stack:
        file, left = stack.enter_context(_opened(path)), MAPPED
        for name in names:
            if left <= 0:
                stack.close()
                file, left = stack.enter_context(_opened(path)), MAPPED
            try:
                tensor = file.get_tensor(name)
            except (OSError, SafetensorError, ValueError) as error:
                raise RecipeError(f"{path} cannot be read: {described(error)}") from error
            left -= tensor.nbytes
            yield name, tensor
            del tensor


def write_tensors(path: Path, entries: Iterable[Entry], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write the file that `safetensors.torch.save_file` would write, each tensor at its place when it comes.

    `entries` tell all shapes in advance. Raises `PackError` where what comes is not what they tell.
    """
    by_name = {entry.name: entry for entry in entries}
    head, places = _head(by_name)
    with open(path, "wb") as file:
        file.write(head)
        for name, tensor in tensors:
            entry = by_name[name]
            if tuple(tensor.shape) != entry.shape or tensor.dtype != getattr(torch, entry.dtype):
                told = f"{entry.dtype} {entry.shape}"
                raise PackError(f"{name!r:.60}: it is {tensor.dtype} {tuple(tensor.shape)}, not {told}")
            file.seek(places.pop(name))
            file.write(bytes_of(tensor))
            del tensor
    if places:
        raise PackError(f"{next(iter(places))!r:.60}: the file has no code of it")


def _head(entries: dict[str, Entry]) -> tuple[bytes, dict[str, int]]:
    """The file up to its first tensor, and where in the file each tensor begins."""
    kinds = {str(dtype).removeprefix("torch."): kind for kind, dtype in DTYPES.items()}
    order = {kind: place for place, kind in enumerate(DTYPES)}
    listed: dict[str, Any] = {"__metadata__": FORMAT}
    end = 0
    for name in sorted(entries, key=lambda name: (order[kinds[entries[name].dtype]], name)):
        entry, start = entries[name], end
        end += entry.size
        listed[name] = {
            "dtype": kinds[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise PackError(
            f"its {len(entries):,} tensors have a header of {len(text):,} bytes, which no reader takes"
        )
    head = struct.pack("<Q", len(text)) + text
    return head, {name: len(head) + listed[name]["data_offsets"][0] for name in entries}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise RecipeError(f"{path} does not exist: the saved network is incomplete") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {described(error)}") from error
