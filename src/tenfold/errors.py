"""The errors that a user can act on. The command prints their text as one line; a library call raises them.

A message says what is wrong, where (the layer, the file or the option), and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TenfoldError(Exception):
    """Something the user can put right. Its text is one clear sentence or two."""


class DataError(TenfoldError):
    """The data cannot be used: missing, malformed, of the wrong shape, or not finite."""


class NetworkError(TenfoldError):
    """The network cannot be found, built, run or changed as asked."""


class MetricError(TenfoldError):
    """The metric did not return one finite number."""


class BudgetError(TenfoldError):
    """The budget is not one that any network could be judged by."""


class RecipeError(TenfoldError):
    """A recipe or a saved structure is malformed, or cannot be applied to this network."""


class ExportError(TenfoldError):
    """The network cannot be exported for the runtime; the text names the operator or the layer."""


class VerificationError(TenfoldError):
    """The exported network does not answer as the PyTorch network does."""


class DeviceError(TenfoldError):
    """A device is unknown, its file cannot be read, or it lacks what is asked of it."""


class DeviceValueError(DeviceError, ValueError):
    """No device can be as asked: of such a kind, runtime, or number of threads or examples."""


class OutputError(TenfoldError):
    """The output folder cannot be used or written."""


class PackError(TenfoldError):
    """A packed file is damaged, is none, claims what cannot be, or cannot be made."""


class OutOfTime(TenfoldError):
    """The time was over before the work could be done as asked; with more of it, it can."""


class TenfoldWarning(UserWarning):
    """Something that the user should know before the work goes on."""


@contextmanager
def memory_reported() -> Iterator[None]:
    """Within the block, memory that runs out is a `NetworkError`: PyTorch says so by a RuntimeError of many texts."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        hint = "on the processor (train_on cpu)" if "cuda" in str(error).lower() else "on a machine with more"
        raise NetworkError(f"memory ran out: train in smaller batches, or {hint}") from error


@contextmanager
def backward_reported() -> Iterator[None]:
    """Within the block, a backward pass that PyTorch cannot make is a `NetworkError`."""
    try:
        yield
    except RuntimeError as error:
        if _out_of_memory(error):
            raise
        why = str(error).splitlines()[0]
        raise NetworkError(f"the network cannot be trained, for it has no backward pass: {why}") from error


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    told = any(words in text for words in ("out of memory", "allocate memory", "not enough memory"))
    return told or isinstance(error, MemoryError)
