"""Networks timed through a device's runtime, each twice and apart."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from torch import nn

from tenfold.cost import Device, Inputs, measure
from tenfold.cost.probing import settle_allocator
from tenfold.deploy.artifact import Runner
from tenfold.deploy.onnx_export import export_onnx
from tenfold.deploy.runners import EagerRunner, OnnxRunner


def runner_of(model: nn.Module, inputs: Inputs, device: Device) -> Runner:
    """The network as the device's runtime runs it."""
    if device.runtime == "torch":
        return EagerRunner(model, device.threads)
    with tempfile.TemporaryDirectory(prefix="tenfold-bench-") as folder:
        path = Path(folder, "network.onnx")
        export_onnx(model, inputs, path)
        return OnnxRunner(path, device.threads)


def measure_twice(
    runners: dict[str, Runner], inputs: dict[str, Inputs], seconds: float
) -> dict[str, list[float]]:
    """The median milliseconds of each, in two passes over all: what lies between shows what the machine does."""
    settle_allocator()
    found: dict[str, list[float]] = {name: [] for name in runners}
    for order in (list(runners), list(runners)[::-1]):
        for name in order:
            call = partial(runners[name], inputs[name])
            timing = measure({name: call}, seconds=seconds, min_runs=5)
            found[name].append(timing[name].median_ms)
    return found
