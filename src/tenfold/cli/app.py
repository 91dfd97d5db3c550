"""The commands. Each reads its options, calls the library and prints; an error is one line and an exit status.

Exit status: 0 done, 1 an error, 2 a wrong option, 3 no network meets the budget, 130 interrupted.
"""

from __future__ import annotations

import errno
import sys
import traceback
import warnings
from typing import Any

import typer

from tenfold.cli.calibration import bench, calibrate
from tenfold.cli.compression import blame, techniques
from tenfold.cli.counts import profile
from tenfold.cli.exports import export
from tenfold.cli.networks import models
from tenfold.cli.options import err
from tenfold.cli.packing import pack, unpack
from tenfold.cli.searches import apply, shrink
from tenfold.cli.training import train
from tenfold.errors import TenfoldError, TenfoldWarning

COMMANDS = (
    shrink, apply, train, profile, calibrate, bench, export, pack, unpack, models, techniques, blame,
)  # fmt: skip

KEPT = {  # by the commands that keep what they did
    "shrink": "what was finished is kept, the same command goes on from there",
    "train": "with --resume the same command goes on from the checkpoint in --out, if it had begun to train",
}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Tenfold makes a neural network fit its budget, and proves it.",
)
for command in COMMANDS:
    app.command()(command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; every failure ends as one line on stderr and an exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    warnings.showwarning = show_warning
    try:
        status = app(arguments, standalone_mode=False)
        if status == 130:  # what Typer makes of Ctrl-C
            fail(interrupted(arguments), 130, debug)
        sys.exit(status if isinstance(status, int) else 0)
    except KeyboardInterrupt:
        fail(interrupted(arguments), 130, debug)
    except TenfoldError as error:
        fail(str(error), 1, debug)
    except OSError as error:
        full = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        fail(f"{error.filename or 'writing'}: {error.strerror or error}{full}", 1, debug)
    except Exception as error:
        # Typer's own errors (a wrong option) know their exit status and text.
        if hasattr(error, "format_message"):
            fail(error.format_message(), getattr(error, "exit_code", 2), debug)
        if type(error).__name__ in ("Abort", "Exit"):
            sys.exit(getattr(error, "exit_code", 130))
        fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1, debug)


def interrupted(arguments: list[str]) -> str:
    """What is told of a command that was stopped: what it keeps, or that it keeps nothing."""
    return f"interrupted; {KEPT.get(next(iter(arguments), ''), 'nothing is kept, the same command begins again')}"


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print what Tenfold itself warns of; the libraries below warn of what no user of a command can mend."""
    if issubclass(category, TenfoldWarning):
        err.print(f"tenfold: note: {message}", markup=False, highlight=False, soft_wrap=True)


def fail(text: str, status: int, debug: bool) -> None:
    """Print the error and leave."""
    if debug:
        traceback.print_exc()
    line = " ".join(text.split())
    err.print(
        f"tenfold: {line}",
        style="bold red" if err.is_terminal else None,
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    sys.exit(status)
