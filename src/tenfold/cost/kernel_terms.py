"""The terms of a kernel's time on a processor: what each parameter of the kernel model multiplies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.cost.workload import FAMILIES, PRODUCTS, Kernel

Array = NDArray[Any]

SCALES = (16.0, 64.0, 256.0, 1024.0)  # of rows, columns and depth
ROW = 64.0  # elements of a row: norms and softmaxes of shorter ones cost more for each
WINDOWS = (9, 25, 49)
LARGEST_KEPT = (
    31 << 20
)  # bytes of a block that the C library's allocator keeps when it is freed (glibc: under 32 MB)
SIZE_KNOTS = tuple(2.0**power for power in (14, 17, 20, 22, 24, 26, 28))  # bytes
CALLS = ("call", "view", "module")


@dataclass(frozen=True)
class Reference:
    """The roofs that the parameters are relative to: MAC/s, bytes/s, seconds a kernel, seconds a call."""

    macs_per_s: float
    bytes_per_s: float
    kernel_s: float
    call_s: float
    block: int = 16  # channels that a vector holds
    floor_s: float = 0.0  # of any kernel on the device itself, where it runs apart from the processor
    dtype: str = "fp32"  # what networks are counted and run in
    asynchronous: bool = False  # launching goes on while kernels run: the longer of the two counts
    view_s: float = 1e-6  # of a call that touches no data
    module_s: float = 1e-6  # of entering and leaving a module
    plain_macs_per_s: float = 0.0  # of the units that multiply no matrices, where there are others that do
    clock_s: float = 0.0  # that the clock adds to a kernel timed alone

    @property
    def calls_s(self) -> Array:
        """Seconds of a call, a view and a module."""
        return np.array([self.call_s, self.view_s, self.module_s])


@cache
def processor_names() -> tuple[str, ...]:
    """One name for each parameter, in the order of the vector."""
    names = list(CALLS)
    names += [f"overhead/{family}" for family in FAMILIES]
    for family in PRODUCTS:
        names += [f"compute/{family}/{feature}" for feature in _product_features()]
    names += [f"memory/{family}" for family in FAMILIES]
    names += [f"memory/{family}/row" for family in FAMILIES]
    names += [f"memory/size/{knot:g}" for knot in SIZE_KNOTS]
    names.append("memory/fresh")
    names += [f"memory/{family}/size/{knot:g}" for family in FAMILIES for knot in SIZE_KNOTS[::2]]
    names += [f"weights/size/{knot:g}" for knot in SIZE_KNOTS]
    names += [f"weights/{family}" for family in FAMILIES]
    return tuple(names)


@cache
def processor_spread() -> Array:
    """The standard deviation around 0 that each parameter is expected to have."""
    spreads = []
    for name in processor_names():
        kind, _, rest = name.partition("/")
        if kind in (*CALLS, "overhead"):
            spreads.append(1.0)
        elif kind == "compute":
            spreads.append(1.0 if rest.endswith("/1") else 0.6)
        else:
            spreads.append(0.4 if "/size/" in rest and rest.split("/")[0] in FAMILIES else 0.8)
    return np.array(spreads)


@cache
def _positions() -> dict[str, int]:
    return {name: position for position, name in enumerate(processor_names())}


@cache
def _product_features() -> tuple[str, ...]:
    sides = [f"{side}/{scale:g}" for side in ("rows", "columns", "depth") for scale in SCALES]
    return ("1", *sides, *(f"window/{window}" for window in WINDOWS), "stride", "batch")


@dataclass(frozen=True)
class Terms:
    """Kernels as four sets of terms, each `base · e^{design · parameters}`, gathered into rows that were timed.

    `base` (kernels, 4) holds the seconds of overhead, compute, activations and weights at the roofs, `row` the row of
    each kernel, `calls` (rows, 3) how often a row pays for a call, a view and a module at the reference's seconds, and
    `parts` (rows, 2) whether launching and work are in a row's time.
    """

    base: Array
    columns: tuple[NDArray[np.int64], ...]  # for each of the four, (kernels, width) parameter numbers
    values: tuple[Array, ...]  # (kernels, width)
    row: NDArray[np.int64]
    calls: Array
    parts: Array

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.calls)

    def taken(self, kept: NDArray[np.bool_]) -> Terms:
        """The rows that are to be kept."""
        chosen = kept[self.row]
        numbers = np.cumsum(kept) - 1
        return Terms(
            self.base[chosen],
            tuple(column[chosen] for column in self.columns),
            tuple(value[chosen] for value in self.values),
            numbers[self.row[chosen]],
            self.calls[kept],
            self.parts[kept],
        )


def stacked(found: Sequence[Terms]) -> Terms:
    """The rows of all, one after another."""
    starts = np.cumsum([0, *(one.rows for one in found)])
    return Terms(
        np.concatenate([one.base for one in found]),
        tuple(np.concatenate([one.columns[part] for one in found]) for part in range(4)),
        tuple(np.concatenate([one.values[part] for one in found]) for part in range(4)),
        np.concatenate([one.row + start for one, start in zip(found, starts, strict=False)]),
        np.concatenate([one.calls for one in found]),
        np.concatenate([one.parts for one in found]),
    )


def processor_terms(
    kernels: Sequence[Kernel], reference: Reference, row: NDArray[np.int64], calls: Array, parts: Array
) -> Terms:
    """The terms of overhead, compute, activations and weights of every kernel."""
    position = _positions()
    footprint = float(sum(kernel.weight_bytes for kernel in kernels))
    base = np.zeros((len(kernels), 4))
    columns: list[list[list[int]]] = [[], [], [], []]
    values: list[list[list[float]]] = [[], [], [], []]
    start = {family: position[f"compute/{family}/1"] for family in PRODUCTS}
    size_at = position[f"memory/size/{SIZE_KNOTS[0]:g}"]
    weights_at = position[f"weights/size/{SIZE_KNOTS[0]:g}"]
    width = len(_product_features())
    weight_hats = hats(footprint)
    for number, kernel in enumerate(kernels):
        family = kernel.family
        base[number, 0] = reference.kernel_s
        columns[0].append([position[f"overhead/{family}"]])
        values[0].append([1.0])
        if family in start:
            base[number, 1] = padded_macs(kernel, reference.block) / reference.macs_per_s
            columns[1].append(list(range(start[family], start[family] + width)))
            values[1].append(product_features(kernel))
        else:
            columns[1].append([0] * width)
            values[1].append([0.0] * width)
        base[number, 2] = kernel.activation_bytes / reference.bytes_per_s + reference.floor_s
        spread = hats(kernel.activation_bytes)
        own = position[f"memory/{family}/size/{SIZE_KNOTS[0]:g}"]
        columns[2].append(
            [
                position[f"memory/{family}"],
                position[f"memory/{family}/row"],
                *range(size_at, size_at + len(spread)),
                *range(own, own + len(spread[::2])),
                position["memory/fresh"],
            ]
        )
        coarse = hats(kernel.activation_bytes, SIZE_KNOTS[::2])
        values[2].append([1.0, 1 / (1 + kernel.depth / ROW), *spread, *coarse, float(is_fresh(kernel))])
        base[number, 3] = kernel.weight_bytes / reference.bytes_per_s
        columns[3].append([*range(weights_at, weights_at + len(weight_hats)), position[f"weights/{family}"]])
        values[3].append([*weight_hats, 1.0])
    return Terms(
        base,
        tuple(np.array(column, dtype=np.int64).reshape(len(kernels), -1) for column in columns),
        tuple(np.array(value, dtype=np.float64).reshape(len(kernels), -1) for value in values),
        row,
        calls,
        parts,
    )


def is_fresh(kernel: Kernel) -> bool:
    """Whether the output's memory is asked of the system anew at every call, page by page: a step in the time."""
    return kernel.written_bytes > LARGEST_KEPT and not kernel.op.endswith(
        "_"
    )  # in place nothing is asked for


def padded_macs(kernel: Kernel, block: int) -> float:
    """Multiply-adds with columns (output channels) rounded up to whole vectors."""
    if kernel.family in ("depthwise convolution", "attention") or not kernel.columns:
        channels = kernel.groups if kernel.family == "depthwise convolution" else block
        return kernel.macs * (-(-channels // block) * block / channels)
    return kernel.macs * (-(-kernel.columns // block) * block / kernel.columns)


def product_features(kernel: Kernel) -> list[float]:
    """φ: 1, the saturations of rows (of one example), columns and depth, the window, the stride, the batch."""
    columns = kernel.groups if kernel.family == "depthwise convolution" else kernel.columns
    rows = (
        kernel.rows / kernel.batch if kernel.family not in ("linear", "product", "attention") else kernel.rows
    )
    sides = [1 / (1 + side / scale) for side in (rows, columns, kernel.depth) for scale in SCALES]
    windows = [float(kernel.window == window) for window in WINDOWS]
    return [1.0, *sides, *windows, float(kernel.stride > 1), 1 / kernel.batch]


def hats(size: float, knots: Sequence[float] = SIZE_KNOTS) -> list[float]:
    """Linear interpolation in log size: weights of the knots, which sum to 1."""
    places = np.log2(knots)
    at = float(np.clip(math.log2(max(size, 1.0)), places[0], places[-1]))
    right = int(np.clip(np.searchsorted(places, at), 1, len(places) - 1))
    share = (at - places[right - 1]) / (places[right] - places[right - 1])
    weights = [0.0] * len(places)
    weights[right - 1], weights[right] = 1 - share, share
    return weights
