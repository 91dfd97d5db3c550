"""What is read of the machine: processor features, versions, free memory, and the peak of a fresh process."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import pytest

from tenfold.cost import (
    cpu,
    cpu_features,
    environment,
    free_memory,
    has_int8_dot_product,
    headroom,
    memory,
    peak_rss,
)
from tenfold.errors import TenfoldError

X86 = "processor: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu sse avx avx2 fma {}\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU part\t: 0xd0c\n"


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    def write(text: str | None) -> None:
        path = tmp_path / "cpuinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(cpu, "CPUINFO", path)
        monkeypatch.setattr(cpu.platform, "system", lambda: "Linux")

    return write


@pytest.mark.parametrize(
    ("text", "expected", "dot_product"),
    [
        (X86.format(""), {"avx", "avx2", "fma"}, False),
        (X86.format("avx512f avx512_vnni"), {"avx", "avx2", "fma", "avx512f", "avx512_vnni"}, True),
        (X86.format("avx_vnni"), {"avx", "avx2", "fma", "avx_vnni"}, True),
        (ARM, {"asimd", "asimdhp", "asimddp"}, True),
        (X86.format("avx_vnni") + X86.format(""), {"avx", "avx2", "fma"}, False),  # only what all cores have
        ("", set(), False),
        (None, set(), False),
    ],
)
def test_features(cpuinfo, text, expected, dot_product):
    cpuinfo(text)
    assert cpu_features() == expected
    assert has_int8_dot_product() is dot_product


def test_features_on_a_mac(monkeypatch):
    values = {"hw.optional.neon": "1", "hw.optional.arm.FEAT_DotProd": "1", "hw.optional.arm.FEAT_BF16": "0"}
    monkeypatch.setattr(cpu.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(cpu, "_sysctl", lambda key: values.get(key, ""))
    assert cpu_features() == {"asimd", "asimddp"}
    assert has_int8_dot_product()


def test_the_model_of_the_processor(cpuinfo):
    cpuinfo(X86.format(""))
    assert cpu.cpu_model() == "Some CPU @ 2.00GHz"
    cpuinfo(None)
    assert cpu.cpu_model()


def test_environment_is_json_and_names_versions():
    found = json.loads(json.dumps(environment(), allow_nan=False))
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "numpy", "tenfold"} <= set(found["versions"])
    assert found["cores"] >= 1
    assert found["cpu"]


def run(code: str, tmp_path: Path) -> list[str]:
    """The command of a process that has `memory.py` and nothing else of the package."""
    script = tmp_path / "child.py"
    folder = str(Path(memory.__file__).parent)
    script.write_text(f"import sys\nsys.path.append({folder!r})\nimport memory\n{code}\n")
    return [sys.executable, "-I", str(script)]


def test_the_peak_is_the_childs_own_and_follows_what_it_allocates(tmp_path):
    ballast = bytearray(300 << 20)  # a large parent must not show in the child
    small = peak_rss(run("memory.report_peak_rss()", tmp_path), 60)
    large = peak_rss(run("x = b'1' * (100 << 20); del x; memory.report_peak_rss()", tmp_path), 60)
    assert len(ballast) > small > 1 << 20
    assert large - small == pytest.approx(100 << 20, rel=0.1)


def test_the_child_needs_no_torch(tmp_path):
    code = "assert not {'torch', 'numpy', 'tenfold'} & set(sys.modules); memory.report_peak_rss()"
    assert peak_rss(run(code, tmp_path), 60) < 64 << 20


def test_a_child_gets_the_variables_it_is_given(tmp_path):
    code = "import os; assert os.environ['OMP_NUM_THREADS'] == '7'; memory.report_peak_rss()"
    assert peak_rss(run(code, tmp_path), 60, env={"OMP_NUM_THREADS": "7"})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('no such model')", "ended with status 1: no such model"),
        ("pass", "reported no peak"),
        ("import time; time.sleep(30)", "did not end within 2 s"),
    ],
)
def test_failures_of_the_child_are_told(tmp_path, code, message):
    with pytest.raises(TenfoldError, match=message):
        peak_rss(run(code, tmp_path), 2)


def test_a_command_that_does_not_exist():
    with pytest.raises(TenfoldError, match="cannot start nothing-here"):
        peak_rss(["/nothing-here"], 5)


def test_the_line_of_the_kernel():
    assert memory.parse_peak("Name:\tx\nVmPeak:\t 99 kB\nVmHWM:\t   1234 kB\n") == 1234 * 1024
    with pytest.raises(ValueError, match="no VmHWM"):
        memory.parse_peak("Name:\tx\n")


def test_without_proc_the_peak_comes_from_getrusage(monkeypatch):
    monkeypatch.setattr(memory, "STATUS", Path("/nothing-here"))
    here = memory.own_peak_rss()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.own_peak_rss() * 1024 == here


def test_free_memory_is_the_machines_or_what_its_container_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(headroom, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(headroom, "GROUP", tmp_path)
    monkeypatch.delattr(os, "sysconf")
    assert free_memory() == math.inf  # a system that does not say
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   40 kB\n")
    assert free_memory() == 40 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert free_memory() == 40 * 1024
    for limit, free in (("12000", 7000), ("4000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert free_memory() == free
    # Files that were read count as used, and make room for whoever needs it: not so what lies in /dev/shm.
    (tmp_path / "memory.stat").write_text(
        "anon 200\nfile 4300\nshmem 500\ninactive_file 3000\nactive_file 800\n"
    )
    assert free_memory() == 4000 - 5000 + 3800
