"""Which law the kernels of a device follow: that of a processor, or that of a device that runs apart from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.cost.accelerator_terms import (
    ACCELERATOR_CALLS,
    accelerator_names,
    accelerator_spread,
    accelerator_terms,
)
from tenfold.cost.kernel_terms import (
    CALLS,
    Array,
    Reference,
    Terms,
    processor_names,
    processor_spread,
    processor_terms,
)
from tenfold.cost.workload import Kernel


def parameter_names(reference: Reference) -> tuple[str, ...]:
    """One name for each parameter, in the order of the vector; those of `calls_of` come first."""
    return accelerator_names() if reference.asynchronous else processor_names()


def prior_spread(reference: Reference) -> Array:
    """The standard deviation around 0 that each parameter is expected to have."""
    return accelerator_spread() if reference.asynchronous else processor_spread()


def calls_of(reference: Reference) -> tuple[str, ...]:
    """What a row pays for beside its kernels, by the names of the parameters."""
    return ACCELERATOR_CALLS if reference.asynchronous else CALLS


def network_terms(
    kernels: Sequence[Kernel], reference: Reference, views: int = 0, module_calls: int = 0
) -> Terms:
    """One row: a whole network, with its call, its views and its modules."""
    calls = np.zeros((1, len(calls_of(reference))))
    calls[0, : len(CALLS)] = np.array([1.0, views, module_calls]) * reference.calls_s
    build = accelerator_terms if reference.asynchronous else processor_terms
    return build(kernels, reference, np.zeros(len(kernels), dtype=np.int64), calls, np.ones((1, 2)))


def single_terms(kernels: Sequence[Kernel], reference: Reference) -> Terms:
    """A row for each operator of one network, as it is timed alone: on a device of its own, its work without launching,
    and what the clock adds."""
    rows = _operator_rows(kernels)
    calls = np.zeros((int(rows[-1]) + 1, len(calls_of(reference))))
    if not reference.asynchronous:
        return processor_terms(kernels, reference, rows, calls, np.ones((len(calls), 2)))
    calls[:, ACCELERATOR_CALLS.index("clock")] = reference.clock_s
    return accelerator_terms(kernels, reference, rows, calls, np.tile([0.0, 1.0], (len(calls), 1)))


def launching_terms(kernels: Sequence[Kernel], reference: Reference) -> Terms:
    """A row for each operator of one network: what the processor takes to launch it, while it is watched."""
    rows = _operator_rows(kernels)
    calls = np.zeros((int(rows[-1]) + 1, len(calls_of(reference))))
    return accelerator_terms(kernels, reference, rows, calls, np.tile([1.0, 0.0], (len(calls), 1)))


def _operator_rows(kernels: Sequence[Kernel]) -> NDArray[np.int64]:
    """The row of each kernel; a second one of an operator is timed with the first."""
    return np.cumsum([bool(kernel.operators) for kernel in kernels]) - 1
