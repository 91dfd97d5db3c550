"""Where a network will run: the runtime, its threads and its batch."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("cpu",)
RUNTIMES = ("onnxruntime", "torch")


@dataclass(frozen=True)
class Device:
    """A target: `kind` of processor, `runtime` that serves the network, `threads`, and `batch` per call."""

    kind: str = "cpu"
    runtime: str = "onnxruntime"
    threads: int = 1
    batch: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"device kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.runtime not in RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, not {self.runtime!r}")
        for name in ("threads", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
