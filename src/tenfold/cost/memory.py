"""The peak memory of a fresh process, reported by itself. Standard library only, and importable without torch.

A process that is to be measured runs this file by its path (`runpy`, or as a module found beside it) and calls
`report_peak_rss()` as its last act; the parent starts it with `peak_rss`. Why not the parent's
`resource.getrusage(RUSAGE_CHILDREN)`, or the child's own: on Linux `ru_maxrss` survives exec, so a child of a
large process starts with the parent's size as its peak. VmHWM in /proc belongs to the new program alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STATUS = Path("/proc/self/status")
PREFIX = "peak-rss-bytes:"


def own_peak_rss() -> int:
    """The peak resident size of this process so far, in bytes."""
    try:
        return parse_peak(STATUS.read_text())
    except (OSError, ValueError):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def parse_peak(status: str) -> int:
    """VmHWM, in bytes, from the text of /proc/PID/status."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == "VmHWM":
            number, unit = value.split()
            if unit != "kB":
                raise ValueError(f"VmHWM in {unit}, not kB")
            return int(number) * 1024
    raise ValueError("no VmHWM line")


def report_peak_rss() -> None:
    """Print the line that `peak_rss` reads. Call it last: what comes after is not counted."""
    print(f"{PREFIX} {own_peak_rss()}", flush=True)


def peak_rss(argv: Sequence[str], timeout: float, *, env: Mapping[str, str] | None = None) -> int:
    """Run `argv` in a fresh process and return the peak resident size, in bytes, that it reports.

    `env` is added to the environment. Raises `TenfoldError` if the process fails, does not end in `timeout`
    seconds or reports nothing; the text has its last line of error output.
    """
    from tenfold.errors import TenfoldError  # here, because the child side has no need of the package

    command = Path(argv[0]).name if argv else "the command"
    try:
        done = subprocess.run(
            list(argv), capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TenfoldError(f"measuring memory: {command} did not end within {timeout:g} s") from error
    except OSError as error:
        raise TenfoldError(f"measuring memory: cannot start {command}: {error.strerror or error}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no error output"]
        raise TenfoldError(f"measuring memory: {command} ended with status {done.returncode}: {lines[-1]}")
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(PREFIX):
            return int(line.removeprefix(PREFIX))
    raise TenfoldError(
        f"measuring memory: {command} reported no peak; it must call report_peak_rss() at its end"
    )
