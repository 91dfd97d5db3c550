"""How long a kernel takes on a machine: a roofline with fitted efficiencies and overheads.

For a kernel of family f on a processor (units: seconds, bytes, multiply-adds; `accelerator_terms` has a GPU's law):

    t = overhead·e^{o_f}  +  macs'/peak · e^{c_f + w_f·φ}  +  activations/B · e^{m_f + v_f·ψ}  +  weights/B · e^{u·χ}

`macs'` has the channels rounded up to whole vectors. φ are saturating functions 1/(1 + d/s) of the sizes of the
product (its rows, columns, depth), so that small sides lower the efficiency; ψ and χ place the kernel's working set
and the network's weights among the levels of memory (hat functions of the logarithm of their size), and ψ says whether
the output is too large for the allocator to keep. All parameters
start at the machine's measured roofs (0) and are drawn to them by a normal prior, so that what calibration has not
seen is predicted by the plain roofline of its family.

A network is the sum of its kernels and a constant for the call; on a GPU the longer of what the processor takes to
launch them and what the device takes to run them. The parameters minimise the squared error of
the *logarithm* of the time of everything measured, chains of one operator and whole networks alike. Their posterior
covariance (Laplace's approximation) widens the interval of networks that lean on what was seldom measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tenfold.cost.kernel_laws import parameter_names, prior_spread
from tenfold.cost.kernel_terms import CALLS, Array, Reference, Terms

OVERLAP = 3  # order of the norm of compute and memory
SMALLEST_S = 1e-12  # keeps a norm of nothing from dividing by 0


def kernel_seconds(terms: Terms, parameters: Array) -> Array:
    """Seconds of overhead, compute, activations and weights of every kernel: (kernels, 4)."""
    exponents = [
        (value * parameters[column]).sum(axis=1)
        for column, value in zip(terms.columns, terms.values, strict=True)
    ]
    return terms.base * np.exp(np.stack(exponents, axis=1))


def work_of(seconds: Array, reference: Reference) -> tuple[Array, Array]:
    """Seconds of work of every kernel, and their derivatives by its four parts, (kernels, 4); 0 by launching.

    On a processor the parts add up. A device of its own computes while it moves: of the two the longer counts (the
    norm of order 3, as they hinder each other where they are alike), and the floor.
    """
    slope = np.ones_like(seconds)
    slope[:, 0] = 0.0
    if not reference.asynchronous:
        return seconds[:, 1:].sum(1), slope
    longer = np.maximum((seconds[:, 1:3] ** OVERLAP).sum(1) ** (1 / OVERLAP), SMALLEST_S)
    slope[:, 1:3] = (seconds[:, 1:3] / longer[:, None]) ** (OVERLAP - 1)
    return longer + seconds[:, 3], slope


@dataclass(frozen=True)
class Totals:
    """Of every row its seconds; of every kernel their derivatives by its four parts; of every row those by launching.

    `by_launching` holds for what a row launches beside its kernels.
    """

    seconds: Array
    by_parts: Array
    by_launching: Array


def totals(terms: Terms, seconds: Array, parameters: Array, reference: Reference) -> Totals:
    """The time of each row out of the times of its kernels.

    Where launching and work overlap the total is a smooth maximum of the two (the norm of order 4), and a call.
    """
    calls = terms.calls * np.exp(parameters[: terms.calls.shape[1]])
    launched = slice(1, len(CALLS))
    launching = np.bincount(terms.row, seconds[:, 0], terms.rows) * terms.parts[:, 0] + calls[
        :, launched
    ].sum(1)
    work, slope = work_of(seconds, reference)
    worked = np.bincount(terms.row, work, terms.rows) * terms.parts[:, 1]
    outside = calls.sum(1) - calls[:, launched].sum(1)
    if reference.asynchronous:
        longer = np.maximum((launching**4 + worked**4) ** 0.25, SMALLEST_S)
        by_launching, by_work = (launching / longer) ** 3, (worked / longer) ** 3
    else:
        longer = launching + worked
        by_launching = by_work = np.ones(terms.rows)
    by_parts = slope * (terms.parts[:, 1] * by_work)[terms.row, None]
    by_parts[:, 0] = (terms.parts[:, 0] * by_launching)[terms.row]
    return Totals(longer + outside, by_parts, by_launching)


def log_gradient(terms: Terms, parameters: Array, reference: Reference) -> tuple[Array, Array]:
    """The logarithm of the predicted seconds of every row, and its gradient by the parameters: (rows, parameters)."""
    seconds = kernel_seconds(terms, parameters)
    total = totals(terms, seconds, parameters, reference)
    size = len(parameters)
    found = np.zeros(terms.rows * size)
    for part, (column, value) in enumerate(zip(terms.columns, terms.values, strict=True)):
        share = value * (total.by_parts[:, part] * seconds[:, part])[:, None]
        found += np.bincount((terms.row[:, None] * size + column).ravel(), share.ravel(), len(found))
    gradient = found.reshape(terms.rows, size)
    width = terms.calls.shape[1]
    calls = terms.calls * np.exp(parameters[:width])
    # Views and modules are launching, which overlaps with work where kernels do.
    calls[:, 1 : len(CALLS)] *= total.by_launching[:, None]
    gradient[:, :width] += calls
    return np.log(total.seconds), gradient / total.seconds[:, None]


@dataclass(frozen=True)
class Fitted:
    """The parameters, their covariance, and what the fit left over (standard deviation of the logarithm)."""

    parameters: Array
    covariance: Array
    residual: float


def fit(
    terms: Terms,
    seconds: Array,
    noise: Array,
    reference: Reference,
    *,
    start: Array | None = None,
    steps: int = 60,
) -> Fitted:
    """Levenberg and Marquardt's method on log time under the normal prior; `noise` is each row's own spread.

    A row far off counts as much as one three spreads off (Huber's weights), so that a disturbed measurement does
    not bend the fit.
    """
    spread = prior_spread(reference)
    parameters = np.zeros(len(parameter_names(reference))) if start is None else start.copy()
    target, sigma = np.log(np.asarray(seconds)), np.asarray(noise, dtype=np.float64)
    damping = 1e-2
    loss, residuals, jacobian = _linearised(terms, parameters, target, sigma, spread, reference)
    for _ in range(steps):
        weight = np.minimum(1.0, 3.0 / np.maximum(np.abs(residuals), 1e-9))
        normal = (jacobian * weight[:, None]).T @ jacobian + np.diag(1 / spread**2)
        slope = jacobian.T @ (weight * residuals) - parameters / spread**2
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope)
        trial = parameters + np.clip(step, -1.0, 1.0)
        new = _linearised(terms, trial, target, sigma, spread, reference)
        if new[0] < loss:
            converged = loss - new[0] < 1e-4 * loss
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
    terms: Terms, parameters: Array, target: Array, sigma: Array, spread: Array, reference: Reference
) -> tuple[float, Array, Array]:
    """The loss, the residuals over their spreads, and the Jacobian of log prediction over the same spreads."""
    predicted, jacobian = log_gradient(terms, parameters, reference)
    residuals = (target - predicted) / sigma
    size = np.abs(residuals)
    huber = np.where(size <= 3, 0.5 * size**2, 3 * size - 4.5)
    loss = float(huber.sum() + 0.5 * np.sum((parameters / spread) ** 2))
    return loss, residuals, jacobian / sigma[:, None]
