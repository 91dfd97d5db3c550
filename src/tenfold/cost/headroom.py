"""How much memory a process may still take on this machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")  # a container's own limit (control groups, version 2)


def free_memory() -> float:
    """Bytes that can be had without swapping, within a container's limit; infinity where the system does not say."""
    return max(0.0, min(_of_machine(), _of_group()))


def _of_machine() -> float:
    try:
        for line in MEMINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "MemAvailable":
                return int(value.split()[0]) * 1024  # it is in kB, which are KiB
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows, nor on macOS
        return math.inf


def _of_group() -> float:
    try:
        limit, used = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no group, another version, or "max"
        return math.inf
    return limit - used + _cached()


def _cached() -> int:
    """Bytes of files that the group has read or written: they count as used, and go as soon as memory is asked for."""
    try:
        counts = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return int(counts["active_file"]) + int(counts["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0
