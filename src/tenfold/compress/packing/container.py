"""The packed file: a fixed head, a compressed header that says what follows, and the codes of the tensors in
blocks.

    8 bytes   b"TENFOLDP"
    4         version (all numbers are unsigned and little-endian)
    4         bytes of the header as it stands, compressed by zlib
    4         bytes of the header's JSON
    8         bytes of the codes, all together
    32        SHA-256 of everything after this head, with the first 28 bytes before it
    …         the header, then the codes

A block is some tensors under one coder, since ending a code costs words that a small tensor must not pay alone. Its
CRC tells whether what was decoded is what was packed; that the file is whole its checksum tells already.

A file is not believed: lengths must add up to the file's, the checksum must hold, and each claim is held against
what the file can hold before anything is allocated for it.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tenfold.errors import OutputError, PackError

MAGIC = b"TENFOLDP"
VERSION = 2
HEAD = struct.Struct("<8sIIIQ")
DIGEST = 32
LARGEST_EXPANSION = 1 << 12  # a file whose reading would take more bytes for each of its own is refused
ALWAYS_ALLOWED = 1 << 24  # bytes
LARGEST_TEXT = (
    32  # bytes of the header's JSON for each byte of the file, with as many as follow always allowed
)
SHORT_TEXT = 1 << 20
LARGEST_COUNT = 1 << 48  # numbers of a tensor, sides of 0 taken for 1: below what a stride can hold
LARGEST_STEP = 1e30  # of a grid of floats: 512 steps are a float32 still
READ = 1 << 20  # bytes at a time
SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
# Bytes that decoding takes for a while beside the tensor, rounded up from measurements: for each byte of plain numbers,
# for each number of another form.
WORKING = {"numbers": 5, "codes": 16, "indices": 12, "integers": 8, "uniform": 36}


@dataclass(frozen=True)
class Entry:
    """One tensor: its name, type and shape, and how its code is to be read.

    `form` is "numbers" (kept to the last bit), "codes" (packed codes of `bits` bits, a matrix of `rows`),
    "integers" (int8), "indices" (places of `bits` bits in a table of values) or "uniform" (floats on a uniform
    grid). `low`, `high`, `mean` belong to the model of integers, `step` and `shifts` to the grid.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    form: str
    rows: int = 1
    bits: int = 0
    low: int = 0
    high: int = 0
    mean: float = 1.0
    step: float = 0.0
    shifts: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.count * SIZES[self.dtype]

    @property
    def working(self) -> int:
        """Bytes that its decoding takes besides, at most."""
        each = WORKING[self.form]
        if self.form in ("codes", "indices"):
            return each * (8 * self.count // max(self.bits, 1))
        return each * (self.size if self.form == "numbers" else self.count)


@dataclass(frozen=True)
class Block:
    """Tensors that share a code, the bytes of that, and the CRC-32 of the tensors' own bytes, one after the other."""

    tensors: tuple[Entry, ...]
    code: int
    crc: int


@dataclass(frozen=True)
class Header:
    """What a packed file says of itself: the saved network's structure (as JSON) and its tensors, in order."""

    structure: dict[str, Any]
    blocks: tuple[Block, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(entry for block in self.blocks for entry in block.tensors)


def write_container(file: BinaryIO, header: Header, codes: BinaryIO) -> int:
    """Write the whole file; returns how many bytes come before the codes. `PackError` for what could not be read.

    `codes` holds the blocks' codes one after the other, from its beginning; they come through in parts.
    """
    blocks = [
        {"code": block.code, "crc": block.crc, "tensors": [_short(entry) for entry in block.tensors]}
        for block in header.blocks
    ]
    plain = {"structure": header.structure, "blocks": blocks}
    text = json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()
    compressed = zlib.compress(text, 9)
    total = sum(block.code for block in header.blocks)
    size = HEAD.size + DIGEST + len(compressed) + total
    _require_likely("this network", size, len(text), header.entries)
    head = HEAD.pack(MAGIC, VERSION, len(compressed), len(text), total)
    digest = hashlib.sha256(head + compressed)
    file.write(head + bytes(DIGEST) + compressed)
    codes.seek(0)
    while part := codes.read(READ):
        digest.update(part)
        file.write(part)
    file.seek(len(head))
    file.write(digest.digest())
    return len(head) + DIGEST + len(compressed)


def check_replaceable(path: Path) -> None:
    """Raise an `OutputError` where there is a file that is no packed network: it may be all that there is of something."""
    if not path.is_file() or not path.stat().st_size:
        return
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise OutputError(
                f"{path} is a file that is no packed network: choose another name, or remove it"
            )


def read_container(path: Path, file: BinaryIO) -> tuple[Header, Iterator[bytes]]:
    """The header and the blocks' codes, read one by one. `PackError` for whatever is wrong with the file."""
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or head[:8] != MAGIC:
        raise PackError(f"{path} is no packed network of Tenfold's")
    _, version, compressed, text, codes = HEAD.unpack(head)
    if version != VERSION:
        raise PackError(
            f"{path} has version {version} and this Tenfold reads version {VERSION}: pack the network again"
        )
    size = path.stat().st_size
    if HEAD.size + DIGEST + compressed + codes != size:
        raise PackError(
            f"{path} is cut short or has grown: it has {size:,} bytes, which its head does not expect"
        )
    _require_likely(path, size, text)
    expected, digest = file.read(DIGEST), hashlib.sha256(head)
    while block := file.read(READ):
        digest.update(block)
    if digest.digest() != expected:
        raise PackError(f"{path} is damaged: its checksum does not hold; copy or download it again")
    file.seek(HEAD.size + DIGEST)
    header = _header(path, file.read(compressed), text)
    if sum(block.code for block in header.blocks) != codes:
        raise PackError(f"{path} is malformed: its codes do not add up")
    _require_likely(path, size, text, header.entries)
    return header, (file.read(block.code) for block in header.blocks)


def _require_likely(file: Path | str, size: int, text: int, entries: Sequence[Entry] = ()) -> None:
    """Refuse claims beyond what a file of `size` bytes can mean: a header of `text` bytes, and these tensors."""
    if text > max(SHORT_TEXT, LARGEST_TEXT * size):
        raise PackError(f"{file} has {size:,} bytes and a header of {text:,}: more than any network needs")
    # Twice what all tensors take, though one at a time is in memory: what is written counts as well.
    claim = 2 * sum(entry.size for entry in entries) + max((entry.working for entry in entries), default=0)
    if claim > max(ALWAYS_ALLOWED, LARGEST_EXPANSION * size):
        raise PackError(f"{file} has {size:,} bytes and would unpack in {claim:,}: no network packs so well")


def _require_name(name: str) -> None:
    """`ValueError` for a name that a file of safetensors cannot give to a tensor."""
    name.encode()  # half a surrogate pair is none
    if name == "__metadata__":
        raise ValueError("a tensor cannot be called __metadata__")


def _header(path: Path, compressed: bytes, length: int) -> Header:
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(compressed, length + 1)  # never more than is claimed
        if len(text) != length or not reader.eof or reader.unused_data:
            raise ValueError("its length differs from its claim")
        values = json.loads(text)
        if not isinstance(values, dict) or not isinstance(values["structure"], dict):
            raise ValueError("it has no structure")
        header = Header(values["structure"], tuple(_block(value) for value in values["blocks"]))
        names = [entry.name for entry in header.entries]
        if len(set(names)) != len(names):
            raise ValueError("a name comes twice")
        return header
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise PackError(f"{path} is malformed: its header cannot be read ({error})") from error


def _short(entry: Entry) -> dict[str, Any]:
    """The fields of an entry that are not at their defaults."""
    plain = Entry("", "", (), "")
    return {
        key: value for key, value in asdict(entry).items() if key in _REQUIRED or value != getattr(plain, key)
    }


_REQUIRED = ("name", "dtype", "shape", "form")


def _block(value: Any) -> Block:
    """A block from JSON, as `_entry`."""
    if not isinstance(value, dict) or not isinstance(value.get("tensors"), list) or not value["tensors"]:
        raise ValueError("a block must be a mapping with tensors")
    block = Block(**{**value, "tensors": tuple(_entry(entry) for entry in value["tensors"])})
    if any(type(number) is not int or number < 0 for number in (block.code, block.crc)):
        raise ValueError("a block's numbers must be whole and not negative")
    return block


def _entry(value: Any) -> Entry:
    """An entry from JSON, every field of its type and in its range; `ValueError` else."""
    if not isinstance(value, dict) or not isinstance(value.get("shape"), list):
        raise ValueError("an entry must be a mapping with a shape")
    shape, shifts = tuple(value["shape"]), tuple(value.get("shifts", ()))
    if len(shape) > 16 or any(type(side) is not int or not 0 <= side <= LARGEST_COUNT for side in shape):
        raise ValueError("a shape must be whole numbers")
    if math.prod(side or 1 for side in shape) > LARGEST_COUNT:
        raise ValueError("a shape is too large")
    entry = Entry(**{**value, "shape": shape, "shifts": shifts})
    if not isinstance(entry.name, str) or entry.dtype not in SIZES or entry.form not in WORKING:
        raise ValueError("an entry needs a name, a known type and a known form")
    _require_name(entry.name)
    if any(type(number) is not int or number < 0 for number in (entry.rows, entry.bits)):
        raise ValueError(f"{entry.name!r:.60}: its numbers must be whole and not negative")
    if entry.rows > max(entry.count * 8, 1):
        raise ValueError(f"{entry.name!r:.60}: it has more rows than numbers")
    if (
        type(entry.low) is not int
        or type(entry.high) is not int
        or not -512 <= entry.low <= entry.high <= 512
    ):
        raise ValueError(f"{entry.name!r:.60}: its integers are out of range")
    if any(
        type(number) is not float or not math.isfinite(number) for number in (entry.mean, entry.step, *shifts)
    ):
        raise ValueError(f"{entry.name!r:.60}: its numbers must be finite")
    if not 0 <= entry.step <= LARGEST_STEP or any(abs(shift) > 1e3 * LARGEST_STEP for shift in shifts):
        raise ValueError(f"{entry.name!r:.60}: its grid is out of range")
    if not 1e-6 <= entry.mean <= 1e6:
        raise ValueError(f"{entry.name!r:.60}: its mean is out of range")
    return entry
