"""Packing and unpacking go tensor by tensor, and the files are those that whole networks gave."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pack_networks import saved
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenfold.compress import pack, save, unpack
from tenfold.compress.packing import blocks, networks, tensor_files
from tenfold.compress.packing.container import SIZES, Entry
from tenfold.compress.packing.tensor_files import DTYPES, stored_shapes, stored_tensors, write_tensors
from tenfold.compress.quantize import PerGroup, QuantizeWeights
from tenfold.errors import PackError, RecipeError

pytest.importorskip("constriction")


def entry_of(name: str, tensor: Tensor) -> Entry:
    return Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), "numbers")


def test_every_type_of_a_pack_has_its_place_in_a_file() -> None:
    assert {str(dtype).removeprefix("torch.") for dtype in DTYPES.values()} == set(SIZES)


NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=6).filter(lambda n: n != "__metadata__")


@given(
    st.dictionaries(
        NAMES,
        st.tuples(st.sampled_from(list(DTYPES.values())), st.lists(st.integers(0, 3), max_size=3)),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_a_file_written_in_any_order_is_the_library_s_own(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, Any], random: Any
) -> None:
    folder = tmp_path_factory.mktemp("files")
    tensors = {
        name: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(len(name))).to(dtype)
        for name, (dtype, shape) in told.items()
    }
    save_file(tensors, folder / "whole", metadata={"format": "pt"})
    order = list(tensors.items())
    random.shuffle(order)
    write_tensors(folder / "parts", [entry_of(name, tensor) for name, tensor in tensors.items()], order)
    assert (folder / "parts").read_bytes() == (folder / "whole").read_bytes()
    shapes = stored_shapes(folder / "parts")
    assert shapes.keys() == tensors.keys()
    held = [name for name, tensor in load_file(folder / "whole").items() if tensor.numel()]
    assert [name for name, tensor in shapes.items() if tensor.numel()] == held  # the order that packs have
    for name, tensor in stored_tensors(folder / "parts", tensors):
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])


def test_a_tensor_that_is_not_what_was_told_is_refused(tmp_path: Path) -> None:
    entry = entry_of("a", torch.zeros(2, 3))
    for wrong in (torch.zeros(3, 2), torch.zeros(6), torch.zeros(2, 3, dtype=torch.int32)):
        with pytest.raises(PackError, match=r"'a': it is torch\..*, not float32 \(2, 3\)"):
            write_tensors(tmp_path / "x", [entry], [("a", wrong)])
    with pytest.raises(PackError, match="'a': the file has no code of it"):
        write_tensors(tmp_path / "x", [entry], [])


def test_more_names_than_a_reader_takes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "a")
    pack(folder, tmp_path / "a.pack")
    monkeypatch.setattr(tensor_files, "LARGEST_HEADER", 100)
    with pytest.raises(PackError, match=r"a\.pack.*which no reader takes"):
        unpack(tmp_path / "a.pack", tmp_path / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "a.pack"}


def test_types_that_no_pack_knows_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    class Eight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("odd", torch.zeros(3).to(torch.float8_e4m3fn))

    folder = save(tmp_path / "a", Eight(), [], inputs=torch.zeros(1))
    with pytest.raises(PackError, match="odd: tensors of the type F8_E4M3 cannot be packed"):
        pack(folder, tmp_path / "a.pack")
    (folder / "weights.safetensors").write_bytes(b"no file of tensors")
    with pytest.raises(RecipeError, match="cannot be read"):
        pack(folder, tmp_path / "a.pack")
    assert not (tmp_path / "a.pack").exists()


class Alive:
    """How many of the tensors that went by are still held by anyone."""

    def __init__(self) -> None:
        self.most = self.passed = 0
        self._seen: list[weakref.ref[Tensor]] = []

    def note(self, tensor: Tensor) -> None:
        self._seen.append(weakref.ref(tensor))
        self.passed += 1
        self.most = max(self.most, sum(each() is not None for each in self._seen))


def test_one_tensor_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "a", QuantizeWeights(3, PerGroup(7)))
    read, decoded = Alive(), Alive()

    def tensors(path: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in stored_tensors(path, names):
            read.note(tensor)
            yield name, tensor
            del tensor

    whole = blocks.decoded

    def noted(*arguments: Any) -> Tensor:
        tensor = whole(*arguments)
        decoded.note(tensor)
        return tensor

    monkeypatch.setattr(networks, "stored_tensors", tensors)
    monkeypatch.setattr(blocks, "decoded", noted)
    pack(folder, tmp_path / "a.pack")
    unpack(tmp_path / "a.pack", tmp_path / "b")
    stored = load_file(folder / "weights.safetensors")
    assert read.passed == decoded.passed == len(stored) > 5
    assert read.most == decoded.most == 1
    assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "b/weights.safetensors").read_bytes()


def test_a_file_opened_anew_for_every_tensor_packs_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "a")
    pack(folder, tmp_path / "once.pack")
    monkeypatch.setattr(tensor_files, "MAPPED", 1)
    pack(folder, tmp_path / "often.pack")
    assert (tmp_path / "once.pack").read_bytes() == (tmp_path / "often.pack").read_bytes()


def test_what_fails_at_the_last_tensor_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "a")
    pack(folder, tmp_path / "a.pack")
    monkeypatch.setattr(blocks, "bytes_of", lambda tensor: b"")  # so that no block's CRC holds
    with pytest.raises(PackError, match="is not what was packed"):
        unpack(tmp_path / "a.pack", tmp_path / "b")
    monkeypatch.setattr(networks, "write_container", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pack(folder, tmp_path / "b.pack")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "a.pack"}
