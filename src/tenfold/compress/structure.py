"""`structure.json`: what a saved network is made from. Its base by name, the steps with what they decided, and
the shapes of its inputs. Nothing in it is executed: techniques are looked up by name among those registered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.coding import CodingError, short
from tenfold.compress.coded import Coded, check_forms
from tenfold.compress.recipe import Recipe, Step
from tenfold.compress.registry import technique_from, technique_name, technique_to_dict
from tenfold.compress.technique import Json
from tenfold.cost import Inputs
from tenfold.errors import RecipeError
from tenfold.models import is_named
from tenfold.naming import described

VERSION = 1
LARGEST_FILE = 1 << 28  # bytes
LARGEST_INPUT = 1 << 28  # numbers in the inputs that a file may ask for
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
    )
}
_REQUIRED = {"format", "version", "base", "steps", "inputs", "shared", "weights_sha256"}


@dataclass(frozen=True)
class TensorSpec:
    """The shape (batch included) and type of one input."""

    shape: tuple[int, ...]
    dtype: str

    def zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=DTYPES[self.dtype])


@dataclass(frozen=True)
class InputSpec:
    """The inputs of a network: how they are passed (`tensor`, `tuple` or `dict`) and each by its name or place."""

    kind: str
    tensors: tuple[tuple[str, TensorSpec], ...]

    def zeros(self) -> Inputs:
        """Inputs of these shapes, all zero."""
        made = {name: spec.zeros() for name, spec in self.tensors}
        if self.kind == "dict":
            return made
        values = tuple(made.values())
        return values if self.kind == "tuple" else values[0]


@dataclass(frozen=True)
class Structure:
    """The contents of `structure.json`.

    `shared` maps further names of tied tensors to their first; `coded` says which tensors are stored in which form
    (`compress.coded`).
    """

    base: str | None
    steps: tuple[Step, ...]
    inputs: InputSpec
    shared: dict[str, str]
    weights_sha256: str
    extra: Json = field(default_factory=dict)
    coded: Coded = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The steps as a recipe."""
        return Recipe(tuple(step.technique for step in self.steps))

    def to_json(self) -> Json:
        """The file's contents; `RecipeError` for a step whose `resolved` is not plain JSON."""
        steps = []
        for index, step in enumerate(self.steps):
            _require_plain(step.resolved, f"step {index + 1} ({technique_name(step.technique)})")
            steps.append({"technique": technique_to_dict(step.technique), "resolved": step.resolved})
        _require_plain(self.extra, "extra")
        tensors = [{"name": n, "shape": list(s.shape), "dtype": s.dtype} for n, s in self.inputs.tensors]
        return {
            "format": "tenfold",
            "version": VERSION,
            "base": self.base,
            "steps": steps,
            "inputs": {"kind": self.inputs.kind, "tensors": tensors},
            "shared": self.shared,
            "weights_sha256": self.weights_sha256,
            "extra": self.extra,
            **({"coded": self.coded} if self.coded else {}),
        }


def spec_of(inputs: Inputs) -> InputSpec:
    """The specification of real inputs."""
    if isinstance(inputs, Tensor):
        kind, named = "tensor", {"0": inputs}
    elif isinstance(inputs, dict):
        kind, named = "dict", dict(inputs)
    else:
        kind, named = "tuple", {str(index): tensor for index, tensor in enumerate(inputs)}
    specs = []
    for name, tensor in named.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise RecipeError(f"inputs of the type {dtype} cannot be described in structure.json")
        specs.append((name, TensorSpec(tuple(tensor.shape), dtype)))
    return InputSpec(kind, tuple(specs))


def read_structure(path: Path | str) -> Structure:
    """The structure in a file; `RecipeError` for anything that is not one, and nothing else."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RecipeError(f"{path} is larger than {LARGEST_FILE} bytes: that is no structure")
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise RecipeError(f"{path} does not exist: {path.parent} holds no saved network") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not valid JSON: {described(error)}") from error
    try:
        return structure_from(values)
    except RecursionError as error:
        raise RecipeError(f"{path} is nested too deeply") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def structure_from(values: Any) -> Structure:
    """A structure from parsed JSON; `RecipeError` says what is wrong with it."""
    if not isinstance(values, dict) or values.get("format") != "tenfold":
        raise RecipeError('not a structure of Tenfold\'s: "format" must be "tenfold"')
    version = values.get("version")
    if type(version) is not int or version != VERSION:
        raise RecipeError(f"it has version {short(version)}; this Tenfold reads version {VERSION}")
    missing, unknown = _REQUIRED - values.keys(), values.keys() - _REQUIRED - {"extra", "coded"}
    if missing or unknown:
        parts = [
            f"{word} {', '.join(map(short, sorted(keys)[:4]))}"
            for word, keys in (("it lacks", missing), ("unknown key", unknown))
            if keys
        ]
        raise RecipeError("; ".join(parts))
    base, digest, extra = values["base"], values["weights_sha256"], values.get("extra", {})
    if base is not None:
        require_base(base)
    if not isinstance(digest, str):
        raise RecipeError(f"weights_sha256 must be text, not {short(digest)}")
    if not isinstance(extra, dict):
        raise RecipeError(f"extra must be a mapping, not {short(extra)}")
    if not isinstance(values["steps"], list):
        raise RecipeError(f"steps must be a list, not {short(values['steps'])}")
    steps = tuple(_step(step, index) for index, step in enumerate(values["steps"]))
    coded = check_forms(values.get("coded", {}))
    return Structure(base, steps, _inputs(values["inputs"]), _shared(values["shared"]), digest, extra, coded)


def require_base(base: Any) -> None:
    """Raise unless `base` is a name that a file may hold."""
    if not isinstance(base, str) or not is_named(base):
        raise RecipeError(
            f"the base {short(base)} is not one that a file may name (zoo:, timm:, hf: or an architecture of ours): save without it, and "
            f"load with tenfold.load(folder, base=factory)"
        )


def _step(value: Any, index: int) -> Step:
    if not isinstance(value, dict) or value.keys() != {"technique", "resolved"}:
        raise RecipeError(f"step {index + 1} must have exactly the keys technique and resolved")
    if not isinstance(value["resolved"], dict):
        raise RecipeError(f"step {index + 1}: resolved must be a mapping, not {short(value['resolved'])}")
    try:
        return Step(technique_from(value["technique"]), value["resolved"])
    except CodingError as error:
        raise RecipeError(f"step {index + 1}: {error}") from error


def _inputs(value: Any) -> InputSpec:
    if (
        not isinstance(value, dict)
        or value.keys() != {"kind", "tensors"}
        or not isinstance(value["tensors"], list)
    ):
        raise RecipeError("inputs must have exactly the keys kind and tensors (a list)")
    kind, tensors = value["kind"], value["tensors"]
    if kind not in ("tensor", "tuple", "dict"):
        raise RecipeError(f"inputs: kind must be tensor, tuple or dict, not {short(kind)}")
    if not tensors or (kind == "tensor" and len(tensors) != 1):
        raise RecipeError(f"inputs: {len(tensors)} tensors do not go with the kind {kind}")
    specs: dict[str, TensorSpec] = {}
    for entry in tensors:
        if not isinstance(entry, dict) or entry.keys() != {"name", "shape", "dtype"}:
            raise RecipeError("inputs: each tensor must have exactly the keys name, shape and dtype")
        name, shape, dtype = entry["name"], entry["shape"], entry["dtype"]
        if not isinstance(name, str) or name in specs:
            raise RecipeError(f"inputs: {short(name)} is not a name, or comes twice")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise RecipeError(f"inputs: unknown type {short(dtype)}")
        if not isinstance(shape, list) or any(type(side) is not int or side < 0 for side in shape):
            raise RecipeError(f"inputs: a shape is a list of whole numbers, not {short(shape)}")
        if len(shape) > 16 or max(shape, default=0) > LARGEST_INPUT or math.prod(shape) > LARGEST_INPUT:
            raise RecipeError(f"inputs: the shape {short(shape)} is too large")
        specs[name] = TensorSpec(tuple(shape), dtype)
    return InputSpec(kind, tuple(specs.items()))


def _shared(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(first, str) for first in value.values()):
        raise RecipeError("shared must map names to names")
    return value


def _require_plain(value: Any, where: str) -> None:
    """`value` is JSON that reads back as it was: text keys only, no NaN."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise RecipeError(
                    f"{where}: the key {short(key)} is not text, and would read back as another"
                )
            _require_plain(item, where)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _require_plain(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{where} holds {value}, which JSON has no word for")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise RecipeError(f"{where} holds a {type(value).__name__}, which is not plain JSON")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
