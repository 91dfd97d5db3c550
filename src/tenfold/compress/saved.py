"""Saving and loading changed networks: a folder with `structure.json` and `weights.safetensors`, and no pickle.

A file names its base as `zoo:`, `timm:`, `hf:` or an architecture of ours, or not at all; then the caller hands
it in:
`load(folder, base=factory)`. Loading repeats the structural change of every step and puts the weights in.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenfold.compress.coded import decoded, encoded
from tenfold.compress.recipe import Step
from tenfold.compress.registry import technique_name
from tenfold.compress.structure import Structure, read_structure, require_base, spec_of
from tenfold.compress.technique import Json, Technique
from tenfold.compress.weights import all_tensors, packed, put
from tenfold.cost import Inputs
from tenfold.errors import NetworkError, OutputError, RecipeError, TenfoldError
from tenfold.files import beside, write_json
from tenfold.models import is_named, named_network, names
from tenfold.naming import called, described, is_import_path, nearest

STRUCTURE = "structure.json"
WEIGHTS = "weights.safetensors"

Base = str | nn.Module | Callable[[], nn.Module]


def save(
    folder: Path | str,
    model: nn.Module,
    steps: Iterable[Step | tuple[Technique, Json]],
    *,
    inputs: Inputs,
    base: str | None = None,
    extra: Json | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `model`, made from `base` by `steps`, to `folder`; nothing is ever half written.

    `inputs` are example inputs (their shapes and types are kept, for techniques that trace); `extra` is plain JSON
    to keep beside. A folder that holds a saved network is refused unless `overwrite`; other files in it stay.
    Raises `RecipeError` for what cannot be described, `NetworkError` for what cannot be stored, `OutputError`.
    """
    folder = Path(folder)
    if base is not None:
        require_base(base)
    if (folder / STRUCTURE).exists() and not overwrite:
        raise OutputError(
            f"{folder} holds a saved network already: choose another folder, or overwrite it (--overwrite, or overwrite=True)"
        )
    tensors, shared = packed(model)
    tensors, coded = encoded(tensors)
    entries = tuple(step if isinstance(step, Step) else Step(*step) for step in steps)
    structure = Structure(base, entries, spec_of(inputs), shared, "", extra or {}, coded)
    return save_tensors(folder, tensors, structure)


def save_tensors(folder: Path, tensors: dict[str, Tensor], structure: Structure) -> Path:
    """Write a saved network from its tensors and its structure, whose digest is set to that of the new file."""
    return save_written(folder, lambda path: save_file(tensors, path, metadata={"format": "pt"}), structure)


def save_written(folder: Path, write: Callable[[Path], None], structure: Structure) -> Path:
    """The same with the file of weights that `write` puts at the path that it is given."""
    structure.to_json()  # what is not plain JSON fails here, before anything is written
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: it is there already and no folder; name another")
    with beside(folder) as working:
        try:
            write(working / WEIGHTS)
            structure = replace(structure, weights_sha256=_sha256(working / WEIGHTS))
            write_json(working / STRUCTURE, structure.to_json())
            _move(working, folder)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"cannot write {folder}: {described(error)}") from error
    return folder


def load(folder: Path | str, base: Base | None = None) -> nn.Module:
    """The saved network in eval mode, equal to what was saved.

    `base` is what it was made from, where the file cannot name it: a factory, a network (which is left as it is),
    or a name. Raises `RecipeError` for whatever is wrong with the folder.
    """
    folder = Path(folder)
    structure = read_structure(folder / STRUCTURE)
    weights = _read_weights(folder / WEIGHTS, structure.weights_sha256)
    model = _base_network(folder, structure, base)
    inputs = structure.inputs.zeros()
    for index, step in enumerate(structure.steps):
        name = technique_name(step.technique)
        try:
            model = step.technique.rebuild(model, step.resolved, inputs).eval()
        # The file's contents reach the technique here, so whatever they break is the file's fault.
        except Exception as error:
            text = f"step {index + 1} ({name}) does not go with the base: {described(error)}"
            raise RecipeError(f"{folder}: {text}") from error
    try:
        shapes = {name: tensor.shape for name, tensor in all_tensors(model).items()}
        put(model, decoded(weights, structure.coded, shapes), structure.shared)
    except TenfoldError as error:
        raise RecipeError(f"{folder / WEIGHTS}: {error}") from error
    return model.eval()


def is_saved(folder: Path | str) -> bool:
    """Whether the folder holds a saved network."""
    return (Path(folder) / STRUCTURE).is_file()


def load_network(
    spec: str, base_for_saved: Base | None = None, *, weights: bool = True
) -> tuple[nn.Module, str | None]:
    """The network that a user names, in eval mode, and its name if a file may hold it as a base.

    `spec` is `package.module:factory`, `timm:NAME`, `hf:NAME_OR_FOLDER`, `zoo:NAME`, a name of `models.names()` or
    the folder of a saved network (`./NAME` where a folder is called as one of those). With `weights` False the named ones have random weights, and none are fetched: enough for counting.
    Raises `NetworkError`, or `RecipeError` for a saved one that cannot be loaded.
    """
    if is_named(spec):
        return named_network(spec, weights=weights), spec
    path = Path(spec)
    if path.is_dir() or path.name == STRUCTURE:
        return load(path.parent if path.name == STRUCTURE else path, base_for_saved), None
    if is_import_path(spec):
        made = called(spec, NetworkError)
        if not isinstance(made, nn.Module):
            raise NetworkError(f"factory {spec} returned {type(made).__name__}, not a torch.nn.Module")
        return made.eval(), None
    offered = (
        nearest(path.name, (p.name for p in path.parent.iterdir() if is_saved(p)))
        if path.parent.is_dir()
        else ""
    )
    offered = offered or nearest(spec.partition("?")[0], names())
    raise NetworkError(
        f"no network {spec!r}{offered}; give package.module:factory, timm:NAME, hf:NAME_OR_FOLDER, zoo:NAME, a name "
        f"that `tenfold models` lists or the folder of a saved network"
    )


def _base_network(folder: Path, structure: Structure, base: Base | None) -> nn.Module:
    """The network that the steps are repeated on; what the caller gives comes before what the file names."""
    if base is None:
        if structure.base is None:
            raise RecipeError(
                f"{folder} does not name its base: give what it was made from (--base package.module:factory, or "
                "base= a factory or a network)"
            )
        try:
            return named_network(structure.base, weights=False)
        except NetworkError as error:
            raise RecipeError(f"{folder}: its base {structure.base} cannot be built: {error}") from error
    if isinstance(base, nn.Module):
        return copy.deepcopy(base).eval()
    if isinstance(base, str):
        return load_network(base, weights=False)[0]
    try:
        made = base()
    except Exception as error:
        raise RecipeError(f"{folder}: the base factory raised {described(error)}") from error
    if not isinstance(made, nn.Module):
        raise RecipeError(f"{folder}: the base factory returned {type(made).__name__}, not a torch.nn.Module")
    return made.eval()


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    try:
        if _sha256(path) != digest:
            raise RecipeError(f"{path} is not the file that was saved with its structure (its hash differs)")
        # Copied out of the file: its tensors lie at any multiple of 8 bytes, where the same kernels round
        # otherwise than on PyTorch's own allocations, and outputs would differ from the saved network's.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except FileNotFoundError as error:
        raise RecipeError(f"{path} does not exist: the saved network is incomplete") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {described(error)}") from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(working: Path, folder: Path) -> None:
    """Put the two files in place: as a whole folder if there is none, else one after the other.

    The structure comes last and holds the hash of the weights, so that no reader takes one with the other's.
    """
    working.chmod(0o755)
    for name in (WEIGHTS, STRUCTURE):
        (working / name).chmod(0o644)
    if not folder.exists():
        working.rename(folder)
        return
    for name in (WEIGHTS, STRUCTURE):
        (working / name).replace(folder / name)
