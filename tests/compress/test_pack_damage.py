"""Damaged and hostile packed files: a clear error, no crash, and no allocation above what the file may claim."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from tenfold.compress import pack, save, unpack
from tenfold.compress.packing import blocks
from tenfold.compress.packing.container import DIGEST, HEAD, SIZES, VERSION, WORKING
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


def entries(header: dict) -> list[dict]:  # type: ignore[type-arg]
    """The tensors of the first block, which is the only one of so small a network."""
    return header["blocks"][0]["tensors"]


def added(**entry: object) -> Callable[[dict], object]:  # type: ignore[type-arg]
    return lambda h: entries(h).append({"name": "added", **entry})


HOSTILE: dict[str, Callable[[dict], object]] = {  # type: ignore[type-arg]
    "absurd shape": lambda h: entries(h)[0].update(shape=[2**40]),
    "many shapes": lambda h: entries(h)[0].update(shape=[2**10] * 16),
    "negative": lambda h: entries(h)[0].update(shape=[-5]),
    "true": lambda h: entries(h)[0].update(shape=[True]),
    "huge number": lambda h: entries(h)[0].update(shape=[10**400]),
    "code": lambda h: h["blocks"][0].update(code=10**9),
    "form": lambda h: entries(h)[0].update(form="pickle"),
    "dtype": lambda h: entries(h)[0].update(dtype="object"),
    "rows": lambda h: [e.update(rows=0) for e in entries(h) if e["form"] == "codes"],
    "bits": lambda h: [e.update(bits=64) for e in entries(h) if e["form"] == "codes"],
    "range": lambda h: [e.update(low=-(10**6)) for e in entries(h) if e["form"] == "codes"],
    "mean": lambda h: [e.update(mean=0.0) for e in entries(h) if e["form"] == "codes"],
    "infinite": lambda h: [e.update(mean=float("inf")) for e in entries(h)],
    "key": lambda h: entries(h)[0].update(extra=1),
    "crc": lambda h: h["blocks"][0].update(crc=1),
    "twice": lambda h: entries(h).append(entries(h)[0]),
    "none": lambda h: h.update(blocks=7),
    "structure": lambda h: h.update(structure={}),
    "technique": lambda h: h["structure"]["steps"][0]["technique"].update(technique="os.system"),
    "shorter": lambda h: entries(h).pop(),
    "name of the metadata": lambda h: entries(h)[0].update(name="__metadata__"),
    "name that is no text": lambda h: entries(h)[0].update(name="\ud800"),
    "rows of nothing": added(dtype="int8", shape=[0], form="integers", rows=10**15),
    "one row of nothing": added(dtype="int8", shape=[0], form="integers", rows=1),
    "a grid of nothing": added(dtype="float32", shape=[0], form="uniform", step=1.0, shifts=[0.0] * 3),
    "codes of nothing": added(dtype="uint8", shape=[0], form="codes", bits=4),
    "places of nothing": added(dtype="uint8", shape=[0], form="indices", bits=4),
    "nothing, far away": added(dtype="float32", shape=[0, 2**70], form="numbers"),
    "nothing, twice as far": added(dtype="float32", shape=[0, 2**40, 2**40], form="numbers"),
    "rows beyond all": added(dtype="int8", shape=[3], form="integers", rows=2**70),
    "a grid beyond all": added(
        dtype="bfloat16", shape=[4], form="uniform", step=1e308, shifts=[0.0] * 3, low=9, high=9
    ),
    "form that is no text": lambda h: entries(h)[0].update(form=[]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused(packed: bytes, name: str, tmp_path: Path) -> None:
    refused(forged(packed, HOSTILE[name]), tmp_path)


def test_a_block_that_is_not_what_was_packed_is_named_by_its_tensors(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(256, 64, bias=False) for _ in range(6)))
    pack(save(tmp_path / "a", model, [], inputs=torch.zeros(1, 256)), tmp_path / "a.pack")
    held: list[list[str]] = []

    def change(header: dict) -> None:  # type: ignore[type-arg]
        held.extend([entry["name"] for entry in block["tensors"]] for block in header["blocks"])
        header["blocks"][1]["crc"] ^= 1

    data = forged((tmp_path / "a.pack").read_bytes(), change)
    assert [len(names) for names in held] == [2, 2, 2]  # of 50,000 bytes each
    assert f"{held[1][0]!r} to {held[1][1]!r}: what the code says" in refused(data, tmp_path)


def test_an_older_file_is_refused_by_its_version(packed: bytes, tmp_path: Path) -> None:
    assert "has version 1 and this" in refused(packed[:8] + bytes([1]) + packed[9:], tmp_path)


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
        head = HEAD.pack(b"TENFOLDP", VERSION, len(bomb), claim, 0)
        refused(head + hashlib.sha256(head + bomb).digest() + bomb, tmp_path)


def test_claims_are_refused_before_anything_is_decoded(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what the file is small enough to say in no bytes at all: constant codes, and entries without contents."""
    monkeypatch.setattr(blocks, "decoded", lambda *_: pytest.fail("it was decoded"))
    codes = added(dtype="uint8", shape=[60 << 20], form="codes", rows=16384, bits=2)
    assert "would unpack in" in refused(forged(packed, codes), tmp_path)
    places = added(dtype="uint8", shape=[60 << 17], form="indices", bits=1)
    assert "would unpack in" in refused(forged(packed, places), tmp_path)
    text = b'{"structure":{},"blocks":[' + b"{}," * 5_000_000 + b"{}]}"
    small = zlib.compress(text)
    head = HEAD.pack(b"TENFOLDP", VERSION, len(small), len(text), 0)
    message = refused(head + hashlib.sha256(head + small).digest() + small, tmp_path)
    assert "a header of 15,000,030" in message


@pytest.mark.parametrize(
    ("form", "dtype", "count", "rest"),
    [
        ("numbers", "float64", 1 << 19, {}),
        ("codes", "uint8", 1 << 19, {"rows": 64, "bits": 2, "low": -2, "high": 1}),
        ("indices", "uint8", 1 << 19, {"bits": 1}),
        ("indices", "uint8", 1 << 21, {"bits": 13}),
        ("integers", "int8", 1 << 21, {"rows": 64, "low": -2, "high": 1}),
        ("uniform", "float32", 1 << 21, {"rows": 64, "step": 1.0, "shifts": [0.0] * 3, "high": 1}),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its peak so")
def test_decoding_takes_no_more_memory_than_is_claimed_for_it(
    form: str, dtype: str, count: int, rest: dict[str, Any]
) -> None:
    """What is allocated in a fresh process, by its own account: no Python counter sees what PyTorch takes."""
    script = (
        "import json, sys, torch\n"
        "from tenfold.compress.packing.coder import Decoder\n"
        "from tenfold.compress.packing.container import Entry\n"
        "from tenfold.compress.packing.tensors import Learnt, decoded\n"
        "def peak():\n"
        "    return 1024 * int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "def decode(count):\n"
        "    entry = Entry('x', dtype, (count,), form, **rest)\n"
        "    decoded(entry, Decoder(code), Learnt())\n"
        "    return entry.size + entry.working\n"
        "form, dtype, count, rest = json.loads(sys.argv[1])\n"
        "code = bytes(1 << 23)\n"
        "decode(1 << 10)\n"
        "before = peak()\n"
        "claim = decode(count)\n"
        "print((peak() - before) / claim)\n"
    )
    arguments = [sys.executable, "-c", script, json.dumps([form, dtype, count, rest])]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert 0.1 < float(run.stdout) < 1.3  # the words of the code, twice 8 MiB, are not in the claim


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
            entry = data.draw(st.sampled_from(entries(header)))
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


SOUND: dict[str, dict[str, Any]] = {
    form: {"name": "a", "dtype": dtype, "form": form, **rest}
    for form, dtype, rest in (
        ("numbers", "float32", {}),
        ("codes", "uint8", {"bits": 4}),
        ("indices", "uint8", {"bits": 3}),
        ("integers", "int8", {"low": -3, "high": 3}),
        ("uniform", "float32", {"high": 2, "step": 1.0, "shifts": [0.0] * 3}),
    )
}
SIDES = st.sampled_from([0, 0, 1, 2, 3, 16, 33, 2**40, 2**70])
ENTRY = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "", "__metadata__", "\ud800"]),
        "dtype": st.sampled_from(list(SIZES)),
        "shape": st.lists(SIDES, max_size=3),
        "form": st.sampled_from(list(WORKING)),
        "rows": st.sampled_from([0, 1, 1, 2, 3, 16, 10**15, 2**70]),
        "bits": st.integers(0, 17),
        "low": st.sampled_from([-512, -8, -1, 0]),
        "high": st.sampled_from([0, 7, 512]),
        "mean": st.sampled_from([1e-6, 0.01, 1.0, 1e6]),
        "step": st.sampled_from([0.0, -1.0, 1e-300, 1.0, 1e30, 1e300]),
        "shifts": st.lists(st.sampled_from([0.0, 1e30, -1.0, 1e300]), min_size=3, max_size=3),
    }
)


@settings(max_examples=300, deadline=None)
@given(entry=ENTRY | ENTRY.map(lambda entry: SOUND[entry["form"]] | {"shape": entry["shape"]}))
def test_any_entry_with_a_right_checksum_is_decoded_or_refused_by_name(
    packed: bytes, tmp_path_factory: pytest.TempPathFactory, entry: dict[str, Any]
) -> None:
    """No tensor's checksum is held against it, so that what decodes goes all the way to the saved folder."""
    folder, refusal = tmp_path_factory.mktemp("entry"), None
    (folder / "bad.pack").write_bytes(
        forged(packed, lambda h: h.update(blocks=[{"code": 0, "crc": 0, "tensors": [entry]}]), lambda _: b"")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "zlib", SimpleNamespace(crc32=lambda data, crc: 0))
        try:
            unpack(folder / "bad.pack", folder / "out")
        except PackError as error:
            refusal = str(error)
    if refusal is not None:
        assert refusal.startswith(str(folder / "bad.pack"))
        return
    made = load_file(folder / "out" / "weights.safetensors")
    assert [list(value.shape) for value in made.values()] == [entry["shape"]]
