"""Writing files so that nothing is ever half written: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenfold.errors import OutputError


@contextmanager
def written(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success rename it to `path`, else remove it."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is there already and no file; name another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def beside(folder: Path | str) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`, to be renamed to it; what is not renamed by the end is removed."""
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(option: str, path: Path | None) -> None:
    """Refuse, before long work, a file that could not be written at its end; `option` is what names it."""
    if path is None:
        return
    if path.is_dir():
        raise OutputError(f"{option} {path}: is a folder; name a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise OutputError(f"{option} {path}: {above} is no folder")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise OutputError(
            f"{option}: cannot write {path}: {error.strerror or error}; name another"
        ) from error


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as strict JSON (no NaN), whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
