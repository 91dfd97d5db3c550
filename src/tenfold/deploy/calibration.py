"""Calibration through the runtime that will serve: the runners of this room, handed to `tenfold.cost.calibrate`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from tenfold.cost import Device
from tenfold.cost import calibrate as calibrate_with
from tenfold.cost.probing import Prepared
from tenfold.cost.stopwatch import OperatorTimes
from tenfold.deploy.node_times import profiled_nodes
from tenfold.deploy.onnx_export import to_onnx
from tenfold.deploy.onnx_plain import plain_onnx
from tenfold.deploy.runners import OnnxRunner

NODE_RUNS = 3  # in which every node is timed


def calibrate(
    device: Device,
    *,
    seconds: float = 60.0,
    seed: int = 0,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> Device:
    """Measure this machine through the device's runtime for about `seconds`; the device with roofs and predictor.

    The error that its `calibration` states is that on networks which the fit had not seen.
    """
    prepare = onnx_prepare(device) if device.runtime == "onnxruntime" else None
    return calibrate_with(device, prepare=prepare, seconds=seconds, seed=seed, progress=progress)


def onnx_prepare(device: Device) -> Callable[[nn.Module, Tensor], Prepared]:
    """Turns a module into a call of its ONNX form with the device's threads, its nodes timed as it is made."""

    def prepare(module: nn.Module, inputs: Tensor) -> Prepared:
        plain = plain_onnx(module, tuple(inputs.shape)) if isinstance(module, nn.Sequential) else None
        proto = plain if plain is not None else to_onnx(module, inputs)
        with tempfile.TemporaryDirectory(prefix="tenfold-calibrate-") as folder:
            path = Path(folder, "network.onnx")
            path.write_bytes(proto.SerializeToString())
            runner = OnnxRunner(path, device.threads, profile_to=Path(folder, "profile"))
            nodes = profiled_nodes(runner.session, lambda: runner(inputs), NODE_RUNS)
        times = OperatorTimes(
            tuple(seconds for _, seconds in nodes), operators=tuple(operator for operator, _ in nodes)
        )
        return Prepared(lambda: runner(inputs), lambda operators: times if nodes else None)

    return prepare
