"""What the benchmarks share: result files, tables, and answers from a fresh process."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tenfold.cost import cpu_features, environment, has_int8_dot_product
from tenfold.files import write_json

ROOT = Path(__file__).resolve().parent.parent

# Run in a process that has seen nothing of what was saved: folder, the factory of the base, inputs, answer.
FRESH = """
import sys
from importlib import import_module
import torch
from tenfold.compress import load
from tenfold.cost import call
folder, base, argument, inputs, answer = sys.argv[1:]
torch.set_num_threads(1)
module, _, name = base.partition(":")
made = getattr(import_module(module), name)(*filter(None, [argument]))
with torch.inference_mode():
    torch.save(call(load(folder, base=made), torch.load(inputs)), answer)
"""


def write_result(path: Path, figures: dict[str, Any], packages: tuple[str, ...] = ()) -> None:
    """Write `figures` with the date, the machine and the versions, those of the peers in `packages` included."""
    machine = environment()
    for package in packages:
        try:
            machine["versions"][package] = version(package)
        except PackageNotFoundError:
            continue
    made = {"date": datetime.date.today().isoformat(), "environment": machine, **figures}
    write_json(path, rounded(made))
    print(f"wrote {path}")


def rounded(value: Any, digits: int = 6) -> Any:
    """Floats to `digits` significant digits, all through a JSON value."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    return value


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on the terminal; wide enough that a log file keeps its columns."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 170).print(table)


def int8_note() -> str:
    """Which INT8 arithmetic this processor has, in words: it decides whether 8-bit weights saturate."""
    if has_int8_dot_product():
        names = sorted(n for n in cpu_features() if "vnni" in n or n in ("amx_int8", "asimddp", "i8mm"))
        return f"has {', '.join(names)}: 8-bit products add up in 32 bits, nothing saturates"
    return "has no 8-bit dot product: pairs of 8-bit products saturate in 16 bits, 7-bit weights avoid it"


def fresh_answer(folder: Path, base: str, argument: str, inputs: Any) -> Tensor:
    """The answer of the saved network in `folder`, loaded in a process of its own.

    `base` is `package.module:factory`; it is called with `argument` unless that is "".
    """
    with tempfile.TemporaryDirectory(prefix="tenfold-benchmark-") as scratch:
        given, answer = Path(scratch, "inputs.pt"), Path(scratch, "answer.pt")
        torch.save(inputs, given)
        command = [sys.executable, "-c", FRESH, str(folder), base, argument, str(given), str(answer)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"the fresh process failed:\n{done.stderr[-2000:]}")
        return torch.load(answer)


def name_of(title: str) -> str:
    """A title as the name of a file."""
    return "".join(c if c.isalnum() else "-" for c in title)
