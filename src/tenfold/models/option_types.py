"""The options of an architecture by type, from its signature, so that a wrong one is named before arithmetic meets it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from tenfold.errors import NetworkError


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no truth value."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # a whole number may be too large for `isfinite`


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (_is_whole(value) and value in (0, 1))  # ?small_stem=1


def _is_row(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(_is_whole, value))


# How a signature writes a type: what an error calls it, and the check.
TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "float": ("a finite number", is_number),
    "bool": ("true or false", _is_truth),
    "Sequence[int]": ("whole numbers in a list", _is_row),
}


def check_types(name: str, parameters: Mapping[str, inspect.Parameter], chosen: Mapping[str, Any]) -> None:
    """Raise a `NetworkError` that names the network and the first of its options that has a value of another type."""
    for option, value in chosen.items():
        written, _, absent = str(parameters[option].annotation).partition(" | ")
        if value is None and absent == "None":
            continue
        wanted, fits = TYPES[written]
        if not fits(value):
            raise NetworkError(f"{name}: {option} must be {wanted}, not {value!r}")
