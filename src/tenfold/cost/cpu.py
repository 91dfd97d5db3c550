"""What this machine's processor is and can do."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

# Instruction sets that decide which precision is fast, under the names that Linux gives them.
INTERESTING = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx_vnni", "avx_vnni_int8", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm",
    "bf16", "sve", "sve2",
)  # fmt: skip

# Any of these multiplies four pairs of 8-bit integers and adds them in 32 bits, without saturating in between.
INT8_DOT_PRODUCT = frozenset({"avx_vnni", "avx_vnni_int8", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})

# macOS names them by sysctl: one key for each of ours.
_SYSCTL = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.neon": "asimd",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
}


def cpu_features() -> frozenset[str]:
    """The instruction sets of interest that this processor has; empty where that cannot be found out."""
    if platform.system() == "Darwin":
        return frozenset(name for key, name in _SYSCTL.items() if _sysctl(key) == "1")
    return parse_features(_cpuinfo())


def has_int8_dot_product() -> bool:
    """Whether 8-bit products are added in 32 bits by one instruction.

    Where not (AVX2 alone), a runtime adds pairs in 16 bits, which saturate unless weights keep to 7 bits. An
    unknown processor counts as one without.
    """
    return bool(cpu_features() & INT8_DOT_PRODUCT)


def vector_lanes() -> int:
    """Channels that a vector register holds in fp32: 16 with AVX-512, 8 with AVX2, else 4.

    Runtimes lay convolutions out in blocks of so many channels; a width between two multiples costs as much as
    the next one, or more where it leaves the blocked layout altogether.
    """
    features = cpu_features()
    return 16 if "avx512f" in features else 8 if "avx2" in features else 4


def cpu_model() -> str:
    """The processor's name as its maker gives it, or else the architecture."""
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def cpu_count() -> int:
    """Logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_features(cpuinfo: str) -> frozenset[str]:
    """The instruction sets of interest that all processors in the text of /proc/cpuinfo have."""
    lines = [
        set(value.split())
        for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
        if key.strip() in ("flags", "Features")
    ]
    return frozenset(set.intersection(*lines) & set(INTERESTING)) if lines else frozenset()


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@cache
def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
