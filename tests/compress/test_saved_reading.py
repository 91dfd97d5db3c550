"""Reading a saved network: files can do no harm, and what is wrong with them is told."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from fake_techniques import Small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_networks import edited, shrunk
from torch import nn

from tenfold.compress import load
from tenfold.errors import RecipeError


class TestReading:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        shrunk(tmp_path / "a")
        return tmp_path / "a"

    def refused(self, folder: Path, message: str, base: Any = None) -> None:
        with pytest.raises(RecipeError, match=message):
            load(folder, base=base or (lambda: Small(hidden=16)))

    def test_missing_files(self, folder: Path) -> None:
        (folder / "weights.safetensors").rename(folder / "elsewhere")
        self.refused(folder, r"weights\.safetensors does not exist")
        (folder / "structure.json").unlink()
        self.refused(folder, r"structure\.json does not exist: .* holds no saved network")

    def test_no_base(self, folder: Path) -> None:
        with pytest.raises(RecipeError, match=r"does not name its base: give what it was made from \(--base"):
            load(folder)

    @pytest.mark.parametrize("base", ["os:getcwd", "my.module:factory", "/etc/passwd", "zoo", 3, ["zoo:x"]])
    def test_bases_that_no_file_may_name(self, folder: Path, base: Any) -> None:
        edited(folder, base=base)
        self.refused(folder, "not one that a file may name .*base=factory")

    def test_a_base_that_does_not_exist(self, folder: Path) -> None:
        edited(folder, base="zoo:../../secret")
        with pytest.raises(RecipeError, match="cannot be built: no network zoo"):
            load(folder)

    def test_bases_that_fail(self, folder: Path) -> None:
        self.refused(folder, "the base factory raised ZeroDivisionError", lambda: 1 / 0)
        self.refused(folder, "the base factory returned int", lambda: 1)

    def test_another_base(self, folder: Path) -> None:
        self.refused(
            folder, r"step 1 \(narrow\) does not go with the base: \w+Error", lambda: nn.Linear(6, 3)
        )
        self.refused(folder, r"step 1 \(narrow\) does not go with the base", lambda: Small(hidden=4))

    def test_a_version_to_come(self, folder: Path) -> None:
        edited(folder, version=2)
        self.refused(folder, "it has version 2; this Tenfold reads version 1")

    def test_weights_of_another_network(self, folder: Path) -> None:
        edited(folder, steps=[])
        self.refused(
            folder, r"do not match the network: 1 unexpected \(last\.step\); 3 differing \(first\.bias is float32 \(8,\), wanted float32 \(16,\)"
        )  # fmt: skip

    def test_damaged_weights(self, folder: Path) -> None:
        path = folder / "weights.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        self.refused(folder, "is not the file that was saved with its structure")
        import hashlib

        for cut in (0, 4, 9, 60, len(content) - 3):
            path.write_bytes(content[:cut])
            edited(folder, weights_sha256=hashlib.sha256(content[:cut]).hexdigest())
            self.refused(folder, "cannot be read")

    def test_a_technique_that_is_not_registered_is_not_imported(self, folder: Path) -> None:
        for name in ("os:system", "tenfold.compress.distill:Distill", "nonsense"):
            edited(folder, steps=[{"technique": {"technique": name}, "resolved": {}}])
            self.refused(folder, "step 1: no technique")

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ([{"name": "0", "shape": [10**9, 10**9], "dtype": "float32"}], "is too large"),
            ([{"name": "0", "shape": [-1], "dtype": "float32"}], "a shape is a list of whole numbers"),
            ([{"name": "0", "shape": [True], "dtype": "float32"}], "a shape is a list of whole numbers"),
            ([{"name": "0", "shape": [1], "dtype": "nn"}], "unknown type 'nn'"),
            ([], "0 tensors do not go with the kind tensor"),
        ],
    )
    def test_hostile_inputs(self, folder: Path, tensors: Any, message: str) -> None:
        edited(folder, inputs={"kind": "tensor", "tensors": tensors})
        self.refused(folder, message)

    @pytest.mark.parametrize("text", ["", "{", "[]", "NaN", "1" * 5000, "[" * 100_000, '"\\ud800"', "\x00"])
    def test_malformed_json(self, folder: Path, text: str) -> None:
        (folder / "structure.json").write_text(text)
        self.refused(folder, r"structure\.json")
        (folder / "structure.json").write_bytes(b"\xff\xfe")
        self.refused(folder, "is not valid JSON")


KEYS = ("format", "version", "base", "steps", "inputs", "shared", "weights_sha256", "technique", "resolved",
        "kept", "kind", "tensors", "name", "shape", "dtype", "share", "extra")  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["tenfold", "narrow", "round", "tensor", "float32", "zoo:x", "first.weight"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_structure_loads_or_is_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Values put at any place of a good file, keys removed and added: a RecipeError, or the network."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        shrunk(folder)
        (folder / "good.json").write_text((folder / "structure.json").read_text())
    value: Any = json.loads((folder / "good.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        _change(value, data)
    (folder / "structure.json").write_text(json.dumps(value))
    with contextlib.suppress(RecipeError):
        load(folder, base=lambda: Small(hidden=16))


def _change(value: Any, data: st.DataObject) -> None:
    """Replace, remove or add something at a random depth."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if keys and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(keys))
        if isinstance(value[key], (dict, list)) and data.draw(st.booleans()):
            _change(value[key], data)
        elif data.draw(st.integers(0, 3)):
            value[key] = data.draw(ANY)
        else:
            del value[key]
    elif isinstance(value, dict):
        value[data.draw(st.sampled_from(KEYS))] = data.draw(ANY)
    else:
        value.append(data.draw(ANY))
