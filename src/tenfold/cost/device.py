"""Where a network will run: the runtime, its threads and its batch; and what is known of the machine.

A device file is JSON with a format version. A file of another version, or one that is damaged in any way, is
refused whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenfold.cost.calibration import Calibration
from tenfold.cost.roofline import Machine
from tenfold.errors import DeviceError, DeviceValueError
from tenfold.files import write_json

KINDS = ("cpu", "cuda", "tpu", "npu")
RUNTIMES = ("onnxruntime", "torch")
FORMAT, VERSION = "tenfold-device", 2


@dataclass(frozen=True)
class Device:
    """A target: `kind` of processor, `runtime` that serves the network, `threads`, and `batch` per call.

    `machine` holds its roofs (measured by calibration, or from the catalogue), `calibration` the fitted predictor.
    Two devices are equal if they are the same target, whatever is known of them. `DeviceValueError`, a `DeviceError` and
    a `ValueError`, tells what no device can be.
    """

    kind: str = "cpu"
    runtime: str = "onnxruntime"
    threads: int = 1
    batch: int = 1
    machine: Machine | None = field(default=None, repr=False, compare=False)
    calibration: Calibration | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DeviceValueError(f"device kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.runtime not in RUNTIMES:
            raise DeviceValueError(f"runtime must be one of {', '.join(RUNTIMES)}, not {self.runtime!r}")
        if self.kind != "cpu" and self.runtime == "onnxruntime":
            raise DeviceValueError(
                f"a {self.kind} device has the runtime torch, and onnxruntime serves on the CPU alone: give "
                f"Device({self.kind!r}, 'torch')"
            )
        for name in ("threads", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DeviceValueError(f"{name} must be a whole number of at least 1, not {value!r}")

    @property
    def title(self) -> str:
        """One line: the machine, the runtime and the threads."""
        name = self.machine.name if self.machine is not None else self.kind
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.kind == "cpu" else ""
        return f"{name}, {self.runtime}{threads}"

    def save(self, path: Path | str) -> None:
        """Write all that is known of the device to a JSON file."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Device:
        """Read a file that `save` wrote. Raises `DeviceError` for a missing, damaged, older or newer file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise DeviceError(
                f"{path}: {error.strerror or error}; tenfold calibrate makes a device file"
            ) from error
        except UnicodeDecodeError as error:
            raise DeviceError(f"{path} is no device file (not text); run tenfold calibrate again") from error
        try:
            data = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise DeviceError(
                f"{path} is damaged (not JSON: {error}); run tenfold calibrate again"
            ) from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise DeviceError(f"{path} is no device file; tenfold calibrate makes one")
        if data.get("version") != VERSION:
            raise DeviceError(
                f"{path} has format version {data.get('version')!r} and this release reads {VERSION}; "
                "run tenfold calibrate again"
            )
        try:
            return cls.from_json(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DeviceError(f"{path} is damaged ({what}); run tenfold calibrate again") from error

    def to_json(self) -> dict[str, Any]:
        """Format, version and fields as plain JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "runtime": self.runtime,
            "threads": self.threads,
            "batch": self.batch,
            "machine": self.machine.to_json() if self.machine is not None else None,
            "calibration": self.calibration.to_json() if self.calibration is not None else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Device:
        """The inverse of `to_json`."""
        machine, calibration = data["machine"], data["calibration"]
        return cls(
            data["kind"],
            data["runtime"],
            data["threads"],
            data["batch"],
            Machine.from_json(machine) if machine is not None else None,
            Calibration.from_json(calibration) if calibration is not None else None,
        )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
