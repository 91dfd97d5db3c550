"""Latency predicted after a minute of calibration, against measurements, on networks that calibration never saw.

    python -m benchmarks.cost.cpu [--work runs/cost] [--step calibrate|measure|report]

Four devices: eager PyTorch and ONNX Runtime fp32, one and two threads; batch 1 and 8. `measure` times all eight
ways of a network in turn, in rounds, and goes through all networks twice; what lies between the two passes is the
machine's own repeat error, the floor of any prediction. The steps leave their files in the work folder, so that each
can be run when the machine is quiet; `report` writes `cpu.json`.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import print_table, write_result
from benchmarks.cost.networks import CPU, network

from tenfold.cost import Device, measure, profile
from tenfold.cost.prediction_check import checked, row_json, summary
from tenfold.cost.probing import settle_allocator
from tenfold.deploy import EagerRunner, OnnxRunner, calibrate, export_onnx
from tenfold.errors import TenfoldError

RESULT = Path(__file__).parent / "cpu.json"
SIDE, BATCHES, THREADS, RUNTIMES = 224, (1, 8), (1, 2), ("torch", "onnxruntime")
MEASURE_S = 10.0  # for the eight ways of one network, in each pass
DEVICES = [Device("cpu", runtime, threads) for runtime in RUNTIMES for threads in THREADS]


def key(device: Device, batch: int) -> str:
    """How a way of running is called in the files."""
    return f"{device.runtime},{device.threads},{batch}"


def device_file(work: Path, device: Device) -> Path:
    """Where a calibrated device lies."""
    return work / f"{device.runtime}-{device.threads}.json"


def step_calibrate(work: Path) -> None:
    """Calibrate the four devices, a minute each."""
    for device in DEVICES:
        found = calibrate(device)
        found.save(device_file(work, device))
        assert found.calibration is not None
        print(f"{found.title}: {found.calibration.summary}", flush=True)


def step_measure(work: Path) -> None:
    """Two passes over all networks; a line of JSON for each network and pass."""
    for number, names in enumerate((CPU, CPU[::-1])):
        path = work / f"measured-{number}.jsonl"
        done = {json.loads(line)["net"] for line in path.read_text().splitlines()} if path.exists() else set()
        for name in names:
            if name in done:
                continue
            try:
                line = {"net": name, "ms": _measured(name, work)}
            except TenfoldError as error:
                print(f"{name}: left out: {error}", flush=True)
                continue
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name} {number}", flush=True)


def _measured(name: str, work: Path) -> dict[str, float]:
    """The median milliseconds of every way to run one network."""
    model, onnx = network(name), work / "onnx" / f"{name}.onnx"
    example = torch.randn(max(BATCHES), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    if not onnx.exists():
        export_onnx(model, example[:1], onnx)
    ways = {}
    for device in DEVICES:
        runner = (
            EagerRunner(model, device.threads)
            if device.runtime == "torch"
            else OnnxRunner(onnx, device.threads)
        )
        for batch in BATCHES:
            ways[key(device, batch)] = partial(runner, example[:batch])
    settle_allocator()
    timings = measure(ways, seconds=MEASURE_S, min_runs=5)
    return {way: timing.median_ms for way, timing in timings.items()}


def step_report(work: Path) -> None:
    """Predict every network by every device and write the result file."""
    passes = [read_pass(work / f"measured-{number}.jsonl") for number in range(2)]
    names = [name for name in CPU if all(name in one for one in passes)]
    counts = {(name, batch): _counted(name, batch) for name in names for batch in BATCHES}
    figures: dict[str, Any] = {"networks": len(names), "devices": {}}
    rows = []
    for target in DEVICES:
        device = Device.load(device_file(work, target))
        assert device.calibration is not None
        found: dict[str, Any] = {"calibration": device.calibration.summary}
        for batch in BATCHES:
            way = key(device, batch)
            checks = [
                checked(name, counts[name, batch], batch, [one[name][way] for one in passes], device)
                for name in names
            ]
            result = summary(checks)
            found[f"batch {batch}"] = {**result, "rows": [row_json(check) for check in checks]}
            rows.append(_row(f"{device.runtime}, {device.threads} threads, batch {batch}", result))
        figures["devices"][f"{device.runtime},{device.threads}"] = found
    columns = [
        "", "MAPE", "median", "rank", "90% held", "width", "repeat error", "roofline MAPE", "rank", "MACs MAPE", "rank"
    ]  # fmt: skip
    print_table(f"{len(names)} networks that calibration never saw", columns, rows)
    write_result(RESULT, figures, ("timm",))


def read_pass(path: Path) -> dict[str, dict[str, float]]:
    """The medians of one pass, by network and way."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {line["net"]: line["ms"] for line in lines}


def _counted(name: str, batch: int) -> Any:
    return profile(network(name), torch.zeros(batch, 3, SIDE, SIDE))


def _row(title: str, result: dict[str, Any]) -> list[str]:
    predicted, roofline, macs = result["predicted"], result["roofline"], result["macs_only"]
    return [
        title, f"{predicted['mape']:.1%}", f"{predicted['median_error']:.1%}", f"{predicted['spearman']:.3f}",
        f"{result['coverage']:.0%}", f"{result['interval_width']:.2f}", f"{result['repeat_error']:.1%}",
        f"{roofline['mape']:.0%}", f"{roofline['spearman']:.3f}", f"{macs['mape']:.0%}", f"{macs['spearman']:.3f}",
    ]  # fmt: skip


def main() -> None:
    """Run the steps that are asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/cost"))
    steps = {"calibrate": step_calibrate, "measure": step_measure, "report": step_report}
    parser.add_argument("--step", choices=steps)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name, step in steps.items():
        if options.step in (None, name):
            step(options.work)


if __name__ == "__main__":
    main()
