"""Finding things by name: `package.module:attribute`, and the nearest names where a name is unknown."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tenfold.errors import TenfoldError

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_import_path(spec: str) -> bool:
    """Whether `spec` has the form `package.module:attribute`."""
    return _IMPORT_PATH.fullmatch(spec) is not None


def nearest(name: str, known: Iterable[str], number: int = 3) -> str:
    """The end of a message about an unknown `name`: "; did you mean …?", or all names if they are few, or ""."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=number, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(repr(c) for c in close)}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def find(spec: str, error: type[TenfoldError]) -> Any:
    """The object that `package.module:attribute` names; `error` with the nearest names where there is none.

    The current folder can be imported from, as it can under `python -m`.
    """
    if not is_import_path(spec):
        raise error(f"{spec!r} is not of the form package.module:name")
    module_name, _, attributes = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as cause:
        missing = cause.name or ""
        if module_name != missing and not module_name.startswith(missing + "."):
            raise error(f"importing {module_name} failed: it needs the module {missing!r}") from cause
        raise error(f"no module {missing!r}{nearest(missing, _siblings(missing))}") from cause
    except (Exception, SystemExit) as cause:
        raise error(f"importing {module_name} raised {described(cause)}") from cause
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            public = [name for name in dir(found) if not name.startswith("_")]
            raise error(f"{module_name} has no {attribute!r}{nearest(attribute, public)}")
        found = getattr(found, attribute)
    return found


def called(spec: str, error: type[TenfoldError]) -> Any:
    """What the factory `package.module:function` returns when called without arguments."""
    factory: Callable[[], Any] = find(spec, error)
    if not callable(factory):
        raise error(f"{spec} is a {type(factory).__name__}; name a function that takes no argument")
    try:
        return factory()
    except (Exception, SystemExit) as cause:
        raise error(f"factory {spec} raised {described(cause)}") from cause


def described(cause: BaseException) -> str:
    """An exception as one line: its type and the first line of its text."""
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__


def _siblings(module_name: str) -> list[str]:
    """The modules that lie where `module_name` was looked for."""
    package, _, _ = module_name.rpartition(".")
    if not package:
        return [info.name for info in pkgutil.iter_modules()]
    parent = importlib.import_module(package)
    return [f"{package}.{info.name}" for info in pkgutil.iter_modules(getattr(parent, "__path__", []))]
