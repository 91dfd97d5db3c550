"""Damaged and hostile packed files: a clear error, no crash, and no allocation above what the file may claim."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tenfold.compress import unpack
from tenfold.compress.pack.container import DIGEST, HEAD
from tenfold.errors import PackError

pytest.importorskip("constriction")


def refused(data: bytes, folder: Path) -> str:
    """The error of unpacking `data`, which must not allocate more than such a file may claim."""
    (folder / "bad.pack").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(PackError) as caught:
            unpack(folder / "bad.pack", folder / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert not (folder / "out").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(
    packed: bytes, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    data = bytearray(packed)
    data[int(place * len(data))] ^= 1 << bit
    refused(bytes(data), tmp_path_factory.mktemp("flip"))


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), more=st.binary(min_size=0, max_size=8))
def test_any_cut_or_longer_file_is_found(
    packed: bytes, tmp_path_factory: pytest.TempPathFactory, share: float, more: bytes
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    refused(packed[: int(share * len(packed))], folder)
    if more:
        assert "has grown" in refused(packed + more, folder)


def forged(
    packed: bytes, change: Callable[[dict], object], codes: Callable[[bytes], bytes] = lambda c: c
) -> bytes:  # type: ignore[type-arg]
    """The file with its header changed and every length and checksum made right again: a hostile one."""
    magic, version, compressed, _, _ = HEAD.unpack(packed[: HEAD.size])
    start = HEAD.size + DIGEST
    header = json.loads(zlib.decompress(packed[start : start + compressed]))
    change(header)
    text, body = json.dumps(header).encode(), codes(packed[start + compressed :])
    small = zlib.compress(text)
    head = HEAD.pack(magic, version, len(small), len(text), len(body))
    return head + hashlib.sha256(head + small + body).digest() + small + body


HOSTILE: dict[str, Callable[[dict], object]] = {  # type: ignore[type-arg]
    "absurd shape": lambda h: h["entries"][0].update(shape=[2**40]),
    "many shapes": lambda h: h["entries"][0].update(shape=[2**10] * 16),
    "negative": lambda h: h["entries"][0].update(shape=[-5]),
    "true": lambda h: h["entries"][0].update(shape=[True]),
    "huge number": lambda h: h["entries"][0].update(shape=[10**400]),
    "code": lambda h: h["entries"][0].update(code=10**9),
    "form": lambda h: h["entries"][0].update(form="pickle"),
    "dtype": lambda h: h["entries"][0].update(dtype="object"),
    "rows": lambda h: [e.update(rows=0) for e in h["entries"] if e["form"] == "codes"],
    "bits": lambda h: [e.update(bits=64) for e in h["entries"] if e["form"] == "codes"],
    "range": lambda h: [e.update(low=-(10**6)) for e in h["entries"] if e["form"] == "codes"],
    "mean": lambda h: [e.update(mean=0.0) for e in h["entries"] if e["form"] == "codes"],
    "infinite": lambda h: [e.update(mean=float("inf")) for e in h["entries"]],
    "key": lambda h: h["entries"][0].update(extra=1),
    "crc": lambda h: h["entries"][0].update(crc=1),
    "twice": lambda h: h["entries"].append(h["entries"][0]),
    "none": lambda h: h.update(entries=7),
    "structure": lambda h: h.update(structure={}),
    "technique": lambda h: h["structure"]["steps"][0]["technique"].update(technique="os.system"),
    "shorter": lambda h: h["entries"].pop(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused(packed: bytes, name: str, tmp_path: Path) -> None:
    refused(forged(packed, HOSTILE[name]), tmp_path)


def test_codes_that_mean_something_else_and_headers_that_expand_are_refused(
    packed: bytes, tmp_path: Path
) -> None:
    def turned(codes: bytes) -> bytes:
        return codes[::-1]

    refused(forged(packed, lambda h: None, turned), tmp_path)
    refused(forged(packed, lambda h: None, lambda codes: bytes(len(codes))), tmp_path)
    refused(forged(packed, lambda h: None, lambda codes: b"\xff" * len(codes)), tmp_path)
    bomb = zlib.compress(bytes(50 << 20))
    for claim in (len(bomb), 2**31):
        head = HEAD.pack(b"TENFOLDP", 1, len(bomb), claim, 0)
        refused(head + hashlib.sha256(head + bomb).digest() + bomb, tmp_path)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["codes", "numbers", "integers", "indices", "uniform", "float32", "uint8", "int8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_header_is_refused_or_says_the_same_as_before(
    packed: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Fields of tensors replaced, removed and added, with every length and checksum made right again."""

    def change(header: dict) -> None:  # type: ignore[type-arg]
        for _ in range(data.draw(st.integers(1, 3))):
            entry = data.draw(st.sampled_from(header["entries"]))
            key = data.draw(
                st.sampled_from([*entry, "rows", "bits", "low", "high", "mean", "step", "shifts", "none"])
            )
            if data.draw(st.integers(0, 4)):
                value = entry.get(key)
                near = [value + 1, 2 * value, -value] if type(value) is int else []
                entry[key] = data.draw(st.sampled_from(near) | ANY if near else ANY)
            else:
                entry.pop(key, None)

    folder = tmp_path_factory.mktemp("header")
    (folder / "bad.pack").write_bytes(forged(packed, change))
    refusal = None
    tracemalloc.start()
    try:
        unpack(folder / "bad.pack", folder / "out")
    except PackError as error:
        refusal = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    if refusal is not None:
        assert refusal.startswith(str(folder / "bad.pack"))
        assert not (folder / "out").exists()
        return
    (folder / "good.pack").write_bytes(packed)
    unpack(folder / "good.pack", folder / "good")
    wanted, found = (
        sorted(value.numpy().tobytes() for value in load_file(folder / name / "weights.safetensors").values())
        for name in ("good", "out")
    )
    assert wanted == found  # under other names at most
