"""What the CPU's 8-bit products can do without overflow: decides how many bits a weight may have."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

# x86: VNNI sums four products straight into 32 bits. ARM: the dot product instructions do the same.
WIDE_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp"}


@cache
def cpu_flags() -> frozenset[str]:
    """The feature flags of this machine's first processor, from /proc/cpuinfo; empty where that does not exist."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def exact_weight_bits() -> int:
    """8 where uint8 × int8 products are summed in 32 bits, else 7.

    Without such an instruction x86 sums pairs of products in 16 bits (vpmaddubsw), and 8-bit weights saturate.
    Every Apple processor since the M1 has the dot product instructions.
    """
    arm_mac = platform.system() == "Darwin" and platform.machine() == "arm64"
    return 8 if arm_mac or cpu_flags() & WIDE_PRODUCTS else 7
