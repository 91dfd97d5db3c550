"""Coded storage: bit for bit the same, smaller, and hostile files refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, apply_recipe, load, save
from tenfold.compress.coded import check_forms, decoded, encoded, pack_bits, unpack_bits
from tenfold.compress.prune import Free, Sparsify
from tenfold.data import Task
from tenfold.errors import RecipeError


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(40, 32), (16, 8, 3, 3), (1031,), (64, 12)]),
    zeros=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    values=st.sampled_from([None, 1, 2, 3, 16, 200]),
    vector=st.sampled_from([1, 4, 8]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8]),
)
def test_what_is_stored_comes_back_bit_by_bit(
    seed: int, shape: tuple[int, ...], zeros: float, values: int | None, vector: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(shape)
    flat = torch.randn(size, generator=generator) * 20
    if values is not None and size % vector == 0:
        table = torch.randn(values, vector, generator=generator) * 20
        flat = table[torch.randint(values, (size // vector,), generator=generator)].flatten()
    flat[torch.rand(size, generator=generator) < zeros] = 0.0
    flat[0] = -0.0
    tensor = flat.to(dtype).reshape(shape)
    stored, coded = encoded({"w": tensor})
    back = decoded(stored, check_forms(json.loads(json.dumps(coded))), {"w": tensor.shape})
    assert set(back) == {"w"}
    assert back["w"].dtype == dtype
    assert back["w"].shape == tensor.shape
    assert bits(back["w"]) == bits(tensor)
    assert sum(part.nbytes for part in stored.values()) <= tensor.nbytes


def test_sizes_are_what_the_forms_say() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(1000, 100, generator=generator)
    sparse = dense.masked_fill(torch.rand(1000, 100, generator=generator) < 0.9, 0.0)
    table = torch.randn(32, 1, generator=generator)[
        torch.randint(32, (100_000,), generator=generator)
    ].reshape(1000, 100)
    both = table.masked_fill(sparse == 0, 0.0)
    product = torch.randn(256, 4, generator=generator)[
        torch.randint(256, (25_000,), generator=generator)
    ].reshape(1000, 100)
    stored, coded = encoded(
        {"dense": dense, "sparse": sparse, "table": table, "both": both, "product": product}
    )
    held = {name: sum(v.nbytes for k, v in stored.items() if k.split("::")[0] == name) for name in ("dense", "sparse", "table", "both", "product")}  # fmt: skip
    present = int((sparse != 0).sum())
    assert {name: form["form"] for name, form in coded.items()} == {
        "sparse": "sparse", "table": "table", "both": "sparse-table", "product": "table",
    }  # fmt: skip
    assert held["dense"] == 400_000
    assert held["sparse"] == 12_500 + 4 * present
    assert held["table"] == 62_500 + 4 * 32
    assert held["both"] == 12_500 + (5 * present + 7) // 8 + 4 * 32
    assert held["product"] == 25_000 + 4 * 256 * 4


@given(st.lists(st.integers(0, 31), max_size=50))
def test_bits_pack_and_unpack(codes: list[int]) -> None:
    packed = pack_bits(np.array(codes, dtype=np.int64), 5)
    assert len(packed) == (5 * len(codes) + 7) // 8
    assert unpack_bits(packed, 5, len(codes)).tolist() == codes


def test_a_sparse_network_is_smaller_on_disk_and_loads_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
    x = torch.randn(32, 64)
    task = Task(model, (x, torch.arange(32) % 10), (x, torch.arange(32) % 10))
    made, steps = apply_recipe(Recipe((Sparsify(Free(0.9)),)), task, Run())
    save(tmp_path / "dense", model, (), inputs=x[:1])
    save(tmp_path / "sparse", made, steps, inputs=x[:1])
    dense, sparse = ((tmp_path / name / "weights.safetensors").stat().st_size for name in ("dense", "sparse"))
    assert sparse < dense / 5
    loaded = load(
        tmp_path / "sparse", base=lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    )
    with torch.no_grad():
        assert torch.equal(loaded(x), made(x))


def forms() -> tuple[dict[str, Tensor], dict[str, dict[str, object]], Tensor]:
    tensor = (torch.randint(4, (40, 40), generator=torch.Generator().manual_seed(0)) - 1).float().relu()
    stored, coded = encoded({"w": tensor})
    return stored, coded, tensor


def test_damaged_forms_are_refused() -> None:
    stored, coded, tensor = forms()
    shapes = {"w": tensor.shape}
    for broken in (
        {k: v for k, v in stored.items() if not k.endswith("codes")},
        {k: (v[:-1] if k.endswith("codes") else v) for k, v in stored.items()},
        {k: (v[:1] if k.endswith("table") else v) for k, v in stored.items()},
        {k: (v.float() if k.endswith("codes") else v) for k, v in stored.items()},
        {k: (v.flatten() if k.endswith("table") else v) for k, v in stored.items()},
    ):
        with pytest.raises(RecipeError, match="w: "):
            decoded(broken, coded, shapes)
    with pytest.raises(RecipeError, match="w: its coded form is damaged"):
        decoded(stored, coded, {"w": torch.Size([7, 3])})
    with pytest.raises(RecipeError, match="no tensor 'w'"):
        decoded(stored, coded, {})
    for value in (
        [],
        {"w": 3},
        {"w": {"form": "zip", "bits": 1}},
        {"w": {"form": "sparse", "bits": 99}},
        {"w": {"form": "sparse"}},
    ):
        with pytest.raises(RecipeError, match="coded"):
            check_forms(value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_give_a_tensor_of_the_shape_or_a_clear_error(data: st.DataObject) -> None:
    stored, coded, tensor = forms()
    name = data.draw(st.sampled_from(sorted(stored)))
    raw = bytearray(bits(stored[name]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = torch.frombuffer(raw, dtype=stored[name].dtype).reshape(stored[name].shape)
    try:
        back = decoded({**stored, name: damaged}, coded, {"w": tensor.shape})
    except RecipeError:
        return
    assert back["w"].shape == tensor.shape
