"""The terms of a kernel's time on a device that runs apart from the processor, as a GPU does.

For a kernel of family f (units: seconds, bytes, multiply-adds):

    launching = kernel · e^{o + o_f}                               of the processor
    work      = floor · e^{l + l_f} + longer(compute, memory)      of the device
    compute   = fill · macs'/peak · e^{c + c_f + (w + w_f)·φ + x·log fill}
    memory    = (activations + weights)/B · e^{m + m_f + v·ψ + u_f·ρ}

What a kernel costs however small it is lies in the floor, and `fill` says how many times the outputs of a product would
fit onto the device at once: fewer than fill it take as long as if they did, step by step in depth. So the efficiencies
are those of large kernels and hold for larger ones: c stays near the roof, and φ are saturating functions of the
columns of a product and of its depth (of a convolution: channels, as windows are walked place by place). ψ (hat
functions) tells a working set that a cache holds from one in memory; ρ is what makes some kernels of a family move more
than their bytes: short rows, windows, strides, few groups, another implementation. Every family has its own deviation
from what all share, so that one which calibration did not see is as fast as the others.
A product of single channels gives matrix units nothing to multiply: its peak is that of the ordinary ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tenfold.cost.kernel_terms import CALLS, Array, Reference, Terms, hats, padded_macs
from tenfold.cost.workload import FAMILIES, PRODUCTS, Kernel

ACCELERATOR_CALLS = (*CALLS, "clock")  # what watching a kernel adds to its time
# At which a side of a product fills half of a unit.
SIDES = {"columns": (32.0, 128.0), "depth": (32.0, 128.0)}
CACHE_KNOTS = tuple(2.0**power for power in (21, 23, 25, 27))  # bytes
# What fills a large device: outputs of a product (two tiles of 128×128 on each of 128 units), and blocks of threads.
FULL, BLOCKS = 1 << 22, 256
NESTED = 0.5  # of a launch, where an operator launches a second kernel
# Elements that are taken at once, however short a row is: by a block of threads, by a batch norm's (of which so many
# share one that is short), or in a line of memory.
ROWWISE = {"norm": 768.0, "softmax": 512.0, "batch norm": 128.0, "concat": 64.0}
SHARED = 4.0
# Operators whose kernels are not those of the rest of their family.
MAKES = {"group_norm": "norm/group", "avg_pool": "pool/average"}
DENSE = tuple(family for family in PRODUCTS if family != "depthwise convolution")
# Parameters that one kernel has at most in launching, compute, memory and the floor.
WIDTHS = (3, 3 + 2 * sum(map(len, SIDES.values())), 4 + len(CACHE_KNOTS), 2)
SPREADS = {
    "call": 1.0, "view": 1.0, "module": 0.3, "clock": 0.3,
    "overhead": 0.4, "overhead/all": 1.0,
    "floor": 0.7, "floor/all": 1.0,
    "compute": 0.4, "compute/all": 0.2, "compute/all/": 0.7, "compute/fill": 0.3,
    **{f"compute/{family}": 1.0 for family in ("stem", "grouped convolution", "depthwise convolution")},
    "memory": 0.5, "memory/all": 0.3, "memory/size": 0.4, "memory/pool/window": 0.5,
    **{f"memory/{family}/row": 0.7 for family in ROWWISE},
    **{f"memory/{make}": 1.0 for make in MAKES.values()}, "memory/norm/group/fill": 0.7,
}  # fmt: skip


@cache
def accelerator_names() -> tuple[str, ...]:
    """One name for each parameter, in the order of the vector."""
    names = list(ACCELERATOR_CALLS)
    families = {"overhead": FAMILIES, "floor": FAMILIES, "compute": PRODUCTS, "memory": FAMILIES}
    for kind, owners in families.items():
        names += [f"{kind}/{owner}" for owner in ("all", *owners)]
    for owner in ("all", *DENSE):
        names += [f"compute/{owner}/{side}/{scale:g}" for side, scales in SIDES.items() for scale in scales]
    names += ["compute/fill", "overhead/watched"]
    names += [f"memory/size/{knot:g}" for knot in CACHE_KNOTS]
    names += [f"memory/{family}/row" for family in ROWWISE]
    names += [*(f"memory/{make}" for make in MAKES.values()), "memory/norm/group/fill", "memory/pool/window"]
    return tuple(names)


@cache
def accelerator_spread() -> Array:
    """The standard deviation around 0 that each parameter is expected to have."""
    return np.array([_spread(name) for name in accelerator_names()])


def _spread(name: str) -> float:
    """That of the longest entry of `SPREADS` that the name starts with."""
    return SPREADS[max((prefix for prefix in SPREADS if name.startswith(prefix)), key=len)]


@cache
def _positions() -> dict[str, int]:
    return {name: position for position, name in enumerate(accelerator_names())}


def accelerator_terms(
    kernels: Sequence[Kernel], reference: Reference, row: NDArray[np.int64], calls: Array, parts: Array
) -> Terms:
    """The terms of launching, compute, memory and the floor of every kernel."""
    base = np.zeros((len(kernels), 4))
    designs: list[list[dict[str, float]]] = [[], [], [], []]
    for number, kernel in enumerate(kernels):
        family, moved = _family(kernel), _moved(kernel)
        launching = reference.kernel_s if kernel.operators else reference.kernel_s * NESTED
        base[number] = (
            launching, _compute_seconds(kernel, reference), moved / reference.bytes_per_s, reference.floor_s,
        )  # fmt: skip
        watched = float(parts[row[number], 1] == 0)
        designs[0].append({"overhead/all": 1.0, f"overhead/{family}": 1.0, "overhead/watched": watched})
        designs[1].append(_compute_design(kernel) if family in PRODUCTS else {})
        designs[2].append(_memory_design(kernel, moved))
        designs[3].append({"floor/all": 1.0, f"floor/{family}": 1.0})
    columns, values = zip(*map(_arrays, designs, WIDTHS), strict=True)
    return Terms(base, columns, values, row, calls, parts)


def _family(kernel: Kernel) -> str:
    """The family whose law a kernel follows here: padding streams as functions of single elements do."""
    return "light" if "pad" in kernel.op and kernel.family == "resize" else kernel.family


def _moved(kernel: Kernel) -> float:
    """Bytes from and to memory; a window smaller than its stride leaves inputs out."""
    read = kernel.read_bytes * min(1.0, kernel.window / kernel.stride**2)
    return read + kernel.written_bytes + kernel.weight_bytes


def _row(kernel: Kernel) -> int:
    """Elements that lie beside each other and are worked on together, where channels lie last."""
    return kernel.depth if kernel.family in ("norm", "softmax") else kernel.channels


def _compute_seconds(kernel: Kernel, reference: Reference) -> float:
    """At the peak; 0 of a kernel that multiplies nothing."""
    if kernel.family not in PRODUCTS:
        return 0.0
    if kernel.family not in DENSE:
        return kernel.macs / (reference.plain_macs_per_s or reference.macs_per_s)
    channels = kernel.depth / kernel.window
    filled = math.ceil(channels / reference.block) * reference.block / channels
    return _fill(kernel) * padded_macs(kernel, reference.block) * filled / reference.macs_per_s


def _fill(kernel: Kernel) -> float:
    """How many times the outputs of a product would fit onto the device, at least 1."""
    return max(1.0, FULL / (kernel.rows * kernel.columns * kernel.groups))


def _compute_design(kernel: Kernel) -> dict[str, float]:
    family = kernel.family
    found = {f"compute/{family}": 1.0}
    if family not in DENSE:
        return found
    found |= {"compute/all": 1.0, "compute/fill": math.log(_fill(kernel))}
    sides = {"columns": kernel.columns, "depth": kernel.depth / kernel.window}
    for side, scales in SIDES.items():
        for scale in scales:
            value = 1 / (1 + sides[side] / scale)
            found[f"compute/all/{side}/{scale:g}"] = found[f"compute/{family}/{side}/{scale:g}"] = value
    return found


def _memory_design(kernel: Kernel, moved: float) -> dict[str, float]:
    family = _family(kernel)
    found = {"memory/all": 1.0, f"memory/{family}": 1.0}
    found |= {
        f"memory/size/{knot:g}": share
        for knot, share in zip(CACHE_KNOTS, hats(moved, CACHE_KNOTS), strict=True)
    }
    make = next((make for part, make in MAKES.items() if part in kernel.op), None)
    if make is not None:
        found[f"memory/{make}"] = 1.0
        if make == "norm/group":
            # A block of threads takes a group of an example; a few leave most of the device idle.
            found["memory/norm/group/fill"] = math.log(max(1.0, BLOCKS / kernel.batch))
    elif family in ROWWISE:
        found[f"memory/{family}/row"] = _short_row(kernel)
    if family == "pool":
        found["memory/pool/window"] = math.log(max(1.0, kernel.other_flops / max(1, kernel.elements)))
    return found


def _short_row(kernel: Kernel) -> float:
    """The logarithm of what a kernel takes at once over its row."""
    row, taken = _row(kernel), ROWWISE[kernel.family]
    if kernel.family == "batch norm":
        return math.log(min(SHARED, math.ceil(row / taken) * taken / row))
    if kernel.family == "norm":
        return math.log(max(1.0, taken / row))
    return math.log1p(taken / row)


def _arrays(designs: Sequence[dict[str, float]], width: int) -> tuple[NDArray[np.int64], Array]:
    """Parameter numbers and values (kernels, width), filled up with zeros."""
    position = _positions()
    columns, values = np.zeros((len(designs), width), dtype=np.int64), np.zeros((len(designs), width))
    for number, design in enumerate(designs):
        columns[number, : len(design)] = [position[name] for name in design]
        values[number, : len(design)] = list(design.values())
    return columns, values
