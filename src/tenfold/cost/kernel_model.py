"""How long a kernel takes on a machine: a roofline with fitted efficiencies and overheads.

For a kernel of family f (units: seconds, bytes, multiply-adds):

    t = overhead·e^{o_f}  +  macs'/peak · e^{c_f + w_f·φ}  +  activations/B · e^{m_f + v_f·ψ}  +  weights/B · e^{u·χ}

`macs'` has the channels rounded up to whole vectors. φ are saturating functions 1/(1 + d/s) of the sizes of the
product (its rows, columns, depth), so that small sides lower the efficiency; ψ and χ place the kernel's working set
and the network's weights among the levels of memory (hat functions of the logarithm of their size). All parameters
start at the machine's measured roofs (0) and are drawn to them by a normal prior, so that what calibration has not
seen is predicted by the plain roofline of its family.

A network is the sum of its kernels and a constant for the call. The parameters minimise the squared error of
the *logarithm* of the time of everything measured, chains of one operator and whole networks alike. Their posterior
covariance (Laplace's approximation) widens the interval of networks that lean on what was seldom measured.
"""

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
SIZE_KNOTS = tuple(2.0**power for power in (14, 17, 20, 22, 24, 26, 28))  # bytes
PARTS = ("overhead", "compute", "memory")


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


@cache
def parameter_names() -> tuple[str, ...]:
    """One name for each parameter, in the order of the vector."""
    names = ["call"]
    names += [f"overhead/{family}" for family in FAMILIES]
    for family in PRODUCTS:
        names += [f"compute/{family}/{feature}" for feature in _product_features()]
    names += [f"memory/{family}" for family in FAMILIES]
    names += [f"memory/{family}/row" for family in FAMILIES]
    names += [f"memory/size/{knot:g}" for knot in SIZE_KNOTS]
    names += [f"memory/{family}/size/{knot:g}" for family in FAMILIES for knot in SIZE_KNOTS[::2]]
    names += [f"weights/size/{knot:g}" for knot in SIZE_KNOTS]
    return tuple(names)


@cache
def prior_spread() -> Array:
    """The standard deviation around 0 that each parameter is expected to have."""
    spreads = []
    for name in parameter_names():
        kind, _, rest = name.partition("/")
        if kind in ("call", "overhead"):
            spreads.append(1.0)
        elif kind == "compute":
            spreads.append(1.0 if rest.endswith("/1") else 0.6)
        else:
            spreads.append(0.4 if "/size/" in rest and rest.split("/")[0] in FAMILIES else 0.8)
    return np.array(spreads)


@cache
def _positions() -> dict[str, int]:
    return {name: position for position, name in enumerate(parameter_names())}


@cache
def _product_features() -> tuple[str, ...]:
    sides = [f"{side}/{scale:g}" for side in ("rows", "columns", "depth") for scale in SCALES]
    return ("1", *sides, *(f"window/{window}" for window in WINDOWS), "stride", "batch")


@dataclass(frozen=True)
class Terms:
    """Kernels as three sets of terms, each `base · e^{design · parameters}`, in the order of the kernels.

    `base` (kernels, 3) holds the seconds of overhead, compute and memory at the roofs; the weights are a fourth.
    """

    base: Array  # (n, 4): overhead, compute, activations, weights
    columns: tuple[NDArray[np.int64], ...]  # for each of the four, (n, width) parameter numbers
    values: tuple[Array, ...]  # (n, width)


def terms_of(kernels: Sequence[Kernel], reference: Reference) -> Terms:
    """The terms of all kernels of one network."""
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
            ]
        )
        coarse = hats(kernel.activation_bytes, SIZE_KNOTS[::2])
        values[2].append([1.0, 1 / (1 + kernel.depth / ROW), *spread, *coarse])
        base[number, 3] = kernel.weight_bytes / reference.bytes_per_s
        columns[3].append(list(range(weights_at, weights_at + len(weight_hats))))
        values[3].append(list(weight_hats))
    return Terms(
        base,
        tuple(np.array(column, dtype=np.int64).reshape(len(kernels), -1) for column in columns),
        tuple(np.array(value, dtype=np.float64).reshape(len(kernels), -1) for value in values),
    )


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


def kernel_seconds(terms: Terms, parameters: Array) -> Array:
    """Seconds of overhead, compute, activations and weights of every kernel: (n, 4)."""
    exponents = [
        (value * parameters[column]).sum(axis=1)
        for column, value in zip(terms.columns, terms.values, strict=True)
    ]
    return terms.base * np.exp(np.stack(exponents, axis=1))


def total_seconds(seconds: Array, call_s: float, reference: Reference) -> tuple[float, float, float]:
    """The time of the whole, and its derivatives by the time of launching and by the time of the work.

    Where launching and work overlap the total is a smooth maximum of the two (the norm of order 4).
    """
    launching, work = float(seconds[:, 0].sum()), float(seconds[:, 1:].sum())
    if not reference.asynchronous:
        return launching + work + call_s, 1.0, 1.0
    longer = (launching**4 + work**4) ** 0.25
    return longer + call_s, (launching / longer) ** 3, (work / longer) ** 3


def log_gradient(terms: Terms, parameters: Array, reference: Reference) -> tuple[float, Array]:
    """The logarithm of the predicted seconds of a network, and its gradient by the parameters."""
    seconds = kernel_seconds(terms, parameters)
    call_s = reference.call_s * math.exp(parameters[0])
    total, by_launching, by_work = total_seconds(seconds, call_s, reference)
    found = np.zeros(len(parameters))
    for part, (column, value) in enumerate(zip(terms.columns, terms.values, strict=True)):
        weight = by_launching if part == 0 else by_work
        share = weight * value * seconds[:, part : part + 1]
        found += np.bincount(column.ravel(), share.ravel(), minlength=len(parameters))
    found[0] += call_s
    return math.log(total), found / total


@dataclass(frozen=True)
class Fitted:
    """The parameters, their covariance, and what the fit left over (standard deviation of the logarithm)."""

    parameters: Array
    covariance: Array
    residual: float


def fit(
    rows: Sequence[Terms],
    seconds: Sequence[float],
    noise: Sequence[float],
    reference: Reference,
    *,
    start: Array | None = None,
    steps: int = 60,
) -> Fitted:
    """Levenberg and Marquardt's method on log time under the normal prior; `noise` is each row's own spread.

    A row far off counts as much as one three spreads off (Huber's weights), so that a disturbed measurement does
    not bend the fit.
    """
    names = parameter_names()
    spread = prior_spread()
    parameters = np.zeros(len(names)) if start is None else start.copy()
    target, sigma = np.log(np.asarray(seconds)), np.asarray(noise, dtype=np.float64)
    damping = 1e-2
    loss, residuals, jacobian = _linearised(rows, parameters, target, sigma, spread, reference)
    for _ in range(steps):
        weight = np.minimum(1.0, 3.0 / np.maximum(np.abs(residuals), 1e-9))
        normal = (jacobian * weight[:, None]).T @ jacobian + np.diag(1 / spread**2)
        slope = jacobian.T @ (weight * residuals) - parameters / spread**2
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope)
        trial = parameters + np.clip(step, -1.0, 1.0)
        new = _linearised(rows, trial, target, sigma, spread, reference)
        if new[0] < loss:
            converged = loss - new[0] < 1e-6 * loss
            (loss, residuals, jacobian), parameters, damping = new, trial, max(damping / 3, 1e-9)
            if converged:
                break
        elif damping > 1e6:
            break
        else:
            damping *= 4
    covariance = np.linalg.inv(jacobian.T @ jacobian + np.diag(1 / spread**2))
    return Fitted(parameters, covariance, float(np.std(residuals * sigma)))


def _linearised(
    rows: Sequence[Terms],
    parameters: Array,
    target: Array,
    sigma: Array,
    spread: Array,
    reference: Reference,
) -> tuple[float, Array, Array]:
    """The loss, the residuals over their spreads, and the Jacobian of log prediction over the same spreads."""
    found = [log_gradient(terms, parameters, reference) for terms in rows]
    predicted = np.array([log for log, _ in found])
    jacobian = np.stack([slope for _, slope in found])
    residuals = (target - predicted) / sigma
    size = np.abs(residuals)
    huber = np.where(size <= 3, 0.5 * size**2, 3 * size - 4.5)
    loss = float(huber.sum() + 0.5 * np.sum((parameters / spread) ** 2))
    return loss, residuals, jacobian / sigma[:, None]
