"""`Share`: every layer's weights, or short vectors of them, take few values, which are then fine-tuned together."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from tenfold.compress.coded import MOST_BITS, VECTORS
from tenfold.compress.healing import heal
from tenfold.compress.layers import Weighted, not_finite, parametrized, unmatched, weighted_layers
from tenfold.compress.share.kmeans import kmeans
from tenfold.compress.technique import Applied, Json, Problem, Run, quantized, unrunnable
from tenfold.cost import Device, Inputs
from tenfold.data import Task
from tenfold.errors import NetworkError, OutOfTime

CLUSTERING = 0.2  # share of the work, as it is told, where tables are fine-tuned
SPARSE_FROM = 0.2  # share of zeros from which they are kept beside the table; fewer are not worth a bitmap
PINNED_FROM = 0.01  # share of zeros from which zero is a value of the table
FILLED = "vectors shared by sparse weights would fill their zeros; use the codebook Scalar"


@dataclass(frozen=True)
class Scalar:
    """2^bits values for each layer; zeros of a sparse layer stay zero beside them.

    Where less than a fifth are zero, zero is one of the values; less than one in a hundred count as any other weight.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise ValueError(f"Scalar: bits must be a whole number from 1 to 8, not {self.bits!r}")

    @property
    def length(self) -> int:
        return 1

    @property
    def entries(self) -> int:
        return int(2**self.bits)


@dataclass(frozen=True)
class Product:
    """`entries` vectors of `length` weights in a row for each layer (product quantisation).

    Gong et al. (2014), "Compressing Deep Convolutional Networks using Vector Quantization". A weight then takes
    log₂(entries) / length bits; 9 is a 3×3 kernel at a time.
    """

    length: int = 4
    entries: int = 256

    def __post_init__(self) -> None:
        if self.length not in VECTORS[1:]:
            known = ", ".join(map(str, VECTORS[1:]))
            raise ValueError(f"Product: length must be one of {known}, not {self.length!r}")
        if not isinstance(self.entries, int) or not 2 <= self.entries <= 2**MOST_BITS:
            raise ValueError(f"Product: entries must be from 2 to {2**MOST_BITS}, not {self.entries!r}")


@dataclass(frozen=True)
class Share:
    """Let the weights of each linear layer and convolution share few values: small as a file, not faster.

    k-means chooses the values (Han, Mao and Dally, 2016, "Deep Compression", section 3); with `epochs` they are
    fine-tuned by distillation, each moved by the sum of its weights' gradients, and biases and norms with them. A
    saved network holds indices and a table for each layer. `layers` are patterns of names.
    """

    codebook: Scalar | Product = Scalar()
    epochs: float = 0.0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not (self.epochs >= 0 and math.isfinite(self.epochs)):
            raise ValueError(f"Share: epochs must be at least 0, not {self.epochs!r}")

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """Patterns that match nothing, vectors that do not divide a layer, weights that are not finite."""
        if already := quantized(model):
            return already
        problems = unmatched(model, self.layers)
        chosen, skipped = self._chosen(model)
        problems += [Problem(name, skipped[name]) for name in self.layers if name in skipped]
        if self.codebook.length > 1:
            problems += [Problem(name, FILLED) for name, layer in chosen.items() if _sparse(layer)]
        if not chosen and not problems:
            why = next((f" ({name}: {reason})" for name, reason in skipped.items()), "")
            problems.append(Problem("", f"no layer has weights that could share values{why}"))
        return problems + not_finite(chosen) or unrunnable(model, task)

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """Cluster each layer's weights, fine-tune the tables if asked, and write the values into the weights."""
        model = copy.deepcopy(model).eval()
        chosen, skipped = self._chosen(model)
        if not chosen:
            raise NetworkError("no layer has weights that could share values")
        tables: dict[str, Looked] = {}
        errors: dict[str, float] = {}
        share = CLUSTERING if self.epochs else 1.0
        clustering = run.part(0.0, share)
        for done, (name, layer) in enumerate(chosen.items()):
            if run.seconds_left() <= 0:
                raise OutOfTime(f"Share ran out of time at {name}: give it fewer layers or more time")
            clustering.progress(done / len(chosen), f"values of {name}")
            weight = layer.weight.detach()
            tables[name] = Looked.of(name, weight, self.codebook, run.seed)
            lost = (tables[name](weight) - weight).square().sum() / weight.square().sum().clamp_min(1e-30)
            errors[name] = float(lost.detach())
        healed = None
        with looked_up(model, chosen, tables):
            if self.epochs:
                healed = asdict(heal(model, task, run.part(share, 1.0), self.epochs))
        return Applied(
            model.eval(),
            {
                "entries": {name: len(table.table) for name, table in tables.items()},
                "relative_errors": errors,
                "skipped": skipped,
                "healed": healed,
            },
        )

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """Shared values are values, no structure: a copy as it is."""
        return copy.deepcopy(model).eval()

    def foresee(self, model: nn.Module, task: Task) -> nn.Module:
        """The network as it is: shared values are values."""
        return model

    def _chosen(self, model: nn.Module) -> tuple[dict[str, Weighted], dict[str, str]]:
        chosen, skipped = {}, {}
        for name, layer in weighted_layers(model, self.layers).items():
            size, length = layer.weight.numel(), self.codebook.length
            if size % length:
                skipped[name] = f"its {size} weights do not divide into vectors of {length}"
            elif size // length < 2 * self.codebook.entries:
                skipped[name] = f"its {size} weights are too few for a table of {self.codebook.entries}"
            else:
                chosen[name] = layer
        return chosen, skipped


def _sparse(layer: Weighted) -> bool:
    """Whether its zeros are worth a bitmap; a layer that is zero throughout is not shared by values."""
    zeros = float((layer.weight == 0).float().mean())
    return SPARSE_FROM <= zeros < 1


class Looked(nn.Module):
    """A parametrisation of a weight by a table (K, D) and codes; where `gone`, it is zero whatever the table says."""

    codes: Tensor
    gone: Tensor

    def __init__(self, table_KD: Tensor, codes: Tensor, gone: Tensor, shape: torch.Size) -> None:
        super().__init__()
        self.table = nn.Parameter(table_KD)
        self.register_buffer("codes", codes)
        self.register_buffer("gone", gone)
        self.shape = shape

    @classmethod
    def of(cls, name: str, weight: Tensor, codebook: Scalar | Product, seed: int) -> Looked:
        """The best table for a weight."""
        flat = weight.reshape(-1, codebook.length)
        if not bool(weight.any()):  # all zero, and so it stays
            codes, gone = torch.zeros(len(flat), dtype=torch.long), torch.ones(len(flat), dtype=torch.bool)
            return cls(weight.new_zeros(1, codebook.length), codes, gone, weight.shape)
        gone = torch.zeros(0, dtype=torch.bool)
        points, entries, zeros = flat, codebook.entries, float((weight == 0).float().mean())
        if codebook.length > 1:
            if zeros >= SPARSE_FROM:
                raise NetworkError(f"{name}: {FILLED}")
        elif zeros >= PINNED_FROM:
            gone = flat[:, 0] == 0
            points = flat[~gone]
            entries -= zeros < SPARSE_FROM  # without a bitmap zero takes one of the values
        table, found = kmeans(points, entries, seed=seed)
        codes = torch.zeros(len(flat), dtype=torch.long)
        codes[~gone if len(gone) else slice(None)] = found
        return cls(table.to(weight.dtype), codes, gone, weight.shape)

    def forward(self, weight: Tensor) -> Tensor:
        values = self.table[self.codes]
        if len(self.gone):
            values = values.masked_fill(self.gone[:, None], 0.0)
        return values.reshape(self.shape)


@contextmanager
def looked_up(
    model: nn.Module, layers: Mapping[str, Weighted], tables: Mapping[str, Looked]
) -> Iterator[None]:
    """Let these layers look their weights up for a while; afterwards the weights are plain again, with those values."""
    trainable = {name: layer.weight.requires_grad for name, layer in layers.items()}
    for layer in layers.values():
        layer.weight.requires_grad_(False)
    try:
        with parametrized(model, layers, tables):
            yield
    finally:
        for name, layer in layers.items():
            with torch.no_grad():
                layer.weight.copy_(tables[name](layer.weight))
            layer.weight.requires_grad_(trainable[name])
