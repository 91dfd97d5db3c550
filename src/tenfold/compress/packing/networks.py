"""`pack` and `unpack`: a saved network as one entropy-coded file, and the same network back, to the last bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import Tensor

from tenfold.compress.packing.blocks import Blocks, opened
from tenfold.compress.packing.container import (
    LARGEST_STEP,
    Header,
    check_replaceable,
    read_container,
    write_container,
)
from tenfold.compress.packing.tensor_files import stored_shapes, stored_tensors, write_tensors
from tenfold.compress.packing.tensors import (
    QUANTISED,
    Coded,
    Learnt,
    code_indices,
    code_integers,
    code_numbers,
    code_packed,
    code_uniform,
)
from tenfold.compress.quantize import packed_bytes
from tenfold.compress.saved import STRUCTURE, WEIGHTS, save_written
from tenfold.compress.structure import Structure, read_structure, structure_from
from tenfold.errors import OutputError, PackError, RecipeError, TenfoldWarning
from tenfold.files import written

Progress = Callable[[float, str], None]
BESIDE = ("model.onnx", "recipe.yaml")  # what `tenfold apply` and `shrink` write beside a saved network
SMALL = 256  # a tensor of fewer numbers is never rounded


@dataclass(frozen=True)
class PackReport:
    """What a packed file holds and what it costs. Everything is charged: bits a weight come with the figure's name.

    `weights` are the numbers of all matrices and kernels, in whatever form the folder holds them, or, where there
    are none, all. `order0` is H₀, the entropy of their histograms, tensor by tensor; `model` the cross-entropy of
    the adaptive model; `achieved` the bits of their codes in the file; all in bits a weight. `charged` is the whole
    file over `weights`. `coder_bytes` is what all codes take above the models' cross-entropy. `rest_bytes` are the
    codes of all other tensors (scales, biases, tables of shared values), `header_bytes` what comes before the
    codes.
    """

    weights: int
    order0: float
    model: float
    achieved: float
    charged: float
    coder_bytes: float
    header_bytes: int
    rest_bytes: int
    file_bytes: int
    saved_bytes: int
    float_bytes: int

    @property
    def gap(self) -> float:
        """Bits a weight above H₀; below zero where the contexts tell more than the histogram costs."""
        return self.achieved - self.order0

    def to_json(self) -> dict[str, float]:
        return asdict(self) | {"gap": self.gap, "times_smaller": self.float_bytes / self.file_bytes}

    def __str__(self) -> str:
        return (
            f"{self.file_bytes:,} bytes: {self.saved_bytes / self.file_bytes:.2f} times smaller than saved, "
            f"{self.float_bytes / self.file_bytes:.2f} times smaller than its weights in fp32; "
            f"{self.weights:,} weights at {self.achieved:.3f} bits "
            f"(H0 {self.order0:.3f}, gap {self.gap:+.3f}, model {self.model:.3f}), "
            f"{self.charged:.3f} with everything charged (header {self.header_bytes:,}, other tensors "
            f"{self.rest_bytes:,} bytes)"
        )


def pack(
    folder: Path | str, file: Path | str, *, step: float | None = None, progress: Progress = lambda f, t: None
) -> PackReport:
    """Write the saved network in `folder` as one packed file, tensor by tensor; the folder stays as it is.

    Without `step` the file holds exactly the weights of the folder: packed codes and int8 weights under a model
    that learns from their neighbours, places in tables of shared values under one of their own, all else by bytes.
    With `step` each float weight of two dimensions or more is rounded to a grid of step · (its standard deviation),
    each rounding weighed against its bits; what is unpacked then equals the rounded network. Weights that the folder
    holds in coded form (`compress.coded`: sparse or shared), as integers or as packed codes stay as they are; a
    folder without others is refused. A packed file is replaced, another is not. Raises `RecipeError` for a folder that is
    no saved network, `OutputError` for a file that is none of ours, `PackError`.
    """
    folder, file = Path(folder), Path(file)
    check_replaceable(file)
    if step is not None and not 1e-3 <= step <= 10:
        raise PackError(f"step must be between 0.001 and 10 standard deviations, not {step}")
    structure = read_structure(folder / STRUCTURE)
    stored = stored_shapes(folder / WEIGHTS)
    matrices, parts = packed_matrices(structure, stored), stored_parts(structure, stored)
    if step is not None and not any(
        _may_be_rounded(name, value) for name, value in stored.items() if name not in parts
    ):
        raise PackError(
            f"{folder} holds no float weights that a step could round (they are integers, sparse or shared "
            f"already): pack it without a step"
        )
    coded: list[Coded] = []
    total, at = sum(tensor.nbytes for tensor in stored.values()), 0
    # The header comes first in the file and tells how long the codes are, so they wait in a file of their own.
    with written(file) as temporary, TemporaryFile(dir=temporary.parent) as codes:
        blocks = Blocks(codes)
        for name, tensor in stored_tensors(folder / WEIGHTS, stored):
            progress(at / max(total, 1), name)
            at += tensor.nbytes
            if name in parts:
                each, kept = _coded_part(name, tensor, parts[name], blocks), tensor
            else:
                each, kept = _coded(name, tensor, matrices.get(name), step, blocks)
            blocks.add(each.entry, kept)
            coded.append(each)
            del tensor, kept  # before the next is read
        blocks.close()
        with open(temporary, "wb") as stream:
            before = write_container(stream, Header(structure.to_json(), tuple(blocks.closed)), codes)
    progress(1.0, "packed")
    return _report(coded, before, file.stat().st_size, (folder / WEIGHTS).stat().st_size)


def unpack(
    file: Path | str, folder: Path | str, *, overwrite: bool = False, progress: Progress = lambda f, t: None
) -> Path:
    """Write the saved network that `file` holds to `folder`, tensor by tensor; nothing is ever half written.

    Other files in the folder stay; a `TenfoldWarning` names those that may belong to the network that was there.
    Raises `PackError` for whatever is wrong with the file, `OutputError` for a folder that holds a network already.
    """
    file, folder = Path(file), Path(folder)
    if (folder / STRUCTURE).exists() and not overwrite:
        raise OutputError(
            f"{folder} holds a saved network already: choose another folder, or overwrite it (--overwrite, or overwrite=True)"
        )
    try:
        stream = open(file, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise PackError(f"{file} cannot be read: {error.strerror or error}") from error
    with stream:
        header, codes = read_container(file, stream)
        try:
            structure = structure_from(header.structure)
        except RecipeError as error:
            raise PackError(f"{file} is malformed: {error}") from error
        tensors = _decoded(header, codes, progress)
        try:
            made = save_written(folder, lambda path: write_tensors(path, header.entries, tensors), structure)
        except PackError as error:
            raise PackError(f"{file} is malformed: {error}") from error
    stale = [name for name in BESIDE if (folder / name).exists()]
    if stale:
        warnings.warn(
            f"{folder}: {' and '.join(stale)} {'stays as it was' if len(stale) == 1 else 'stay as they were'}, which may be "
            "of another network",
            TenfoldWarning,
            stacklevel=2,
        )
    progress(1.0, "unpacked")
    return made


def _decoded(header: Header, codes: Iterator[bytes], progress: Progress) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a packed file one by one, as they are decoded."""
    learnt, number, done = Learnt(), len(header.entries), 0
    for block, code in zip(header.blocks, codes, strict=True):
        for name, tensor in opened(block, code, learnt):
            yield name, tensor
            del tensor
            done += 1
            progress(done / number, name)


def packed_matrices(structure: Structure, tensors: dict[str, Tensor]) -> dict[str, tuple[int, int, int]]:
    """For each tensor of packed codes, as the steps resolved them: its bits, rows and width."""
    found: dict[str, tuple[int, int, int]] = {}
    for step in structure.steps:
        layers = step.resolved.get("layers")
        for name, layer in layers.items() if isinstance(layers, dict) else ():
            key = f"int8.{name}.codes"
            if key not in tensors or not isinstance(layer, dict):
                continue
            bits, rows, width = layer["bits"], layer["rows"], layer["width"]
            # A code that the last byte has room for would not come back: its bits are zeros only by convention.
            if tensors[key].numel() == packed_bytes(rows * width, bits) and 8 * tensors[
                key
            ].numel() < bits * rows * (width + 1):
                found[key] = bits, rows, width
        held = step.resolved.get("stored")
        for name, layer in held.items() if isinstance(held, dict) else ():
            key, scale = f"int8.{name}.codes", tensors.get(f"int8.{name}.weight_scale")
            bits = layer.get("bits") if isinstance(layer, dict) else None
            if key not in tensors or scale is None or type(bits) is not int or not 2 <= bits <= 8:
                continue
            rows = max(scale.numel(), 1)
            width = 8 * tensors[key].numel() // (bits * rows)  # as many as there is room for
            if packed_bytes(rows * width, bits) == tensors[key].numel():
                found[key] = bits, rows, width
    return found


@dataclass(frozen=True)
class Part:
    """A tensor that holds a part of another one's coded form: the bits of its places in a table or of a bitmap, if
    it holds those, and the numbers of the other that it is counted as, so that all parts together are counted as
    many as there are. A table is no weights but what their codes mean.

    The last byte of places or of a bitmap may have room for up to 7 more, which are counted too: no file tells."""

    bits: int | None
    numbers: int
    is_weight: bool


def stored_parts(structure: Structure, tensors: dict[str, Tensor]) -> dict[str, Part]:
    """The parts of all tensors that are stored in coded form."""
    found: dict[str, Part] = {}
    for name, form in structure.coded.items():
        held = {part: tensors.get(f"{name}::{part}") for part in ("bitmap", "values", "table", "codes")}
        bits = max(form["bits"], 1)
        widths = {"bitmap": 1, "codes": bits}  # a bit of a bitmap is a place, too
        for part, tensor in held.items():
            if tensor is None:
                continue
            numbers = 0
            if part == "bitmap":
                numbers = 8 * tensor.numel()
            elif part == "codes" and form["form"] == "table" and held["table"] is not None:
                numbers = 8 * tensor.numel() // bits * held["table"].shape[-1]
            places = part in widths and tensor.dtype == torch.uint8 and tensor.dim() == 1
            found[f"{name}::{part}"] = Part(widths[part] if places else None, numbers, part != "table")
    return found


def _coded_part(name: str, tensor: Tensor, part: Part, blocks: Blocks) -> Coded:
    if part.bits is None or not tensor.numel():
        made = code_numbers(name, tensor, blocks.learnt, blocks.encoder)
    else:
        made = code_indices(name, tensor, part.bits, blocks.learnt, blocks.encoder)
    return replace(made, numbers=part.numbers, is_weight=part.is_weight)


def _coded(
    name: str, tensor: Tensor, matrix: tuple[int, int, int] | None, step: float | None, blocks: Blocks
) -> tuple[Coded, Tensor]:
    """A tensor that is a part of no other, coded, and as it will be unpacked."""
    learnt, encoder = blocks.learnt, blocks.encoder
    if not tensor.numel():
        return code_numbers(name, tensor, learnt, encoder), tensor  # no rows, no mean: only its shape
    if matrix is not None:
        return code_packed(name, tensor, *matrix, learnt, encoder), tensor
    if tensor.dtype == torch.int8 and tensor.dim() > 1:
        return code_integers(name, tensor, learnt, encoder), tensor
    if step is not None and _may_be_rounded(name, tensor):
        deviation = float(tensor.double().square().mean().sqrt())
        if not 0 < step * deviation <= LARGEST_STEP:
            raise PackError(f"{name}: its values are all zero, huge or not finite: there is no grid for them")
        return code_uniform(name, tensor, step * deviation, learnt, encoder)
    return code_numbers(name, tensor, learnt, encoder), tensor


def _may_be_rounded(name: str, tensor: Tensor) -> bool:
    """Whether it is a float weight; the scales of integers, which may be matrices too, are none."""
    large = tensor.dim() > 1 and tensor.numel() >= SMALL
    return large and tensor.is_floating_point() and not name.startswith(QUANTISED)


def _report(coded: list[Coded], header: int, size: int, saved: int) -> PackReport:
    weights = [each for each in coded if each.is_weight] or coded
    number = max(sum(each.numbers for each in weights), 1)
    code, codes = sum(each.code for each in weights), sum(each.code for each in coded)
    return PackReport(
        number,
        sum(each.order0_bits for each in weights) / number,
        sum(each.model_bits for each in weights) / number,
        8 * code / number,
        8 * size / number,
        codes - sum(each.model_bits for each in coded) / 8,
        header,
        codes - code,
        size,
        saved,
        4 * sum(each.numbers for each in coded),
    )
