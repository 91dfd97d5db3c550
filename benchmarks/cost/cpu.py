"""Latency predicted after a minute of calibration, against measurements, on networks that calibration never saw.

    python -m benchmarks.cost.cpu [--work runs/cost] [--step export|calibrate|measure|report] [--minutes M]

Four devices: eager PyTorch and ONNX Runtime fp32, one and two threads; batch 1 and 8. `measure` times a network on each
device by itself, both batches in turn, and goes through all networks twice; what lies between the two passes is the
machine's own repeat error, the floor of any prediction. The steps leave their files in the work folder, so that each
can be run when the machine is quiet; `report` writes `cpu.json`.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import print_table, write_result
from benchmarks.cost.networks import CPU, DEVELOPMENT, network
from benchmarks.cost.raw import calibrated_from, raw_calibration, read_raw, write_raw
from benchmarks.cost.summaries import ALL, COLUMNS, UNSEEN, summaries, table_row

from tenfold.cost import Device, measure, profile
from tenfold.cost.calibrating import FIT_SHARE
from tenfold.cost.observing import observe
from tenfold.cost.prediction_check import checked
from tenfold.cost.probing import eager, probe, settle_allocator
from tenfold.deploy import EagerRunner, OnnxRunner, export_onnx
from tenfold.deploy.calibration import onnx_prepare

RESULT = Path(__file__).parent / "cpu.json"
SIDE, BATCHES, THREADS, RUNTIMES = 224, (1, 8), (1, 2), ("torch", "onnxruntime")
CALIBRATION_S = 60.0
MEASURE_S = 1.6  # for both batches of one network on one device, in each pass
DEVICES = [Device("cpu", runtime, threads) for runtime in RUNTIMES for threads in THREADS]


def key(device: Device, batch: int) -> str:
    """How a way of running is called in the files."""
    return f"{device.runtime},{device.threads},{batch}"


def raw_file(work: Path, device: Device) -> Path:
    """Where the samples of a device lie."""
    return work / f"{device.runtime}-{device.threads}.json.gz"


def onnx_file(work: Path, name: str) -> Path:
    """Where a network's ONNX form lies."""
    return work / "onnx" / f"{name}.onnx"


def step_calibrate(work: Path, deadline: float) -> None:
    """Take the samples of the four devices, in the time that a calibration of a minute leaves for it."""
    for device in DEVICES:
        if raw_file(work, device).exists():
            continue
        settle_allocator()
        begun = time.monotonic()
        machine = probe(device)
        prepare = onnx_prepare(device) if device.runtime == "onnxruntime" else eager(device)
        until = begun + CALIBRATION_S * (1 - FIT_SHARE)
        found, noise = observe(device, prepare, begun, until, 0, lambda share, text: None)
        write_raw(raw_file(work, device), raw_calibration(machine, found, noise))
        print(f"{device.title}: {len(found)} samples, {noise}", flush=True)


def step_export(work: Path, deadline: float) -> None:
    """Write the ONNX form of every network, so that measuring measures only."""
    for name in CPU:
        if not onnx_file(work, name).exists():
            export_onnx(network(name), _example()[:1], onnx_file(work, name))
            print(f"{name} exported", flush=True)


def step_measure(work: Path, deadline: float) -> None:
    """Two passes over all networks; a line of JSON for each network and pass."""
    for number, names in enumerate((CPU, CPU[::-1])):
        path = work / f"measured-{number}.jsonl"
        done = read_pass(path) if path.exists() else {}
        for name in names:
            if name in done:
                continue
            if time.monotonic() > deadline:
                print("the time is over; the same command goes on from here")
                return
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"net": name, "ms": _measured(name, work)}) + "\n")
            print(f"{name} {number}", flush=True)


def _measured(name: str, work: Path) -> dict[str, float]:
    """The median milliseconds of every way to run one network; each device by itself, as it serves.

    Beside each other they would not be: the threads of a session wait for work by spinning, on the cores of the rest.
    """
    model, example, found = network(name), _example(), {}
    for device in DEVICES:
        runner = (
            EagerRunner(model, device.threads)
            if device.runtime == "torch"
            else OnnxRunner(onnx_file(work, name), device.threads)
        )
        ways = {key(device, batch): partial(runner, example[:batch]) for batch in BATCHES}
        settle_allocator()
        timings = measure(ways, seconds=MEASURE_S, min_runs=5)
        found |= {way: timing.median_ms for way, timing in timings.items()}
        del runner, ways
        gc.collect()  # a session's threads end with it
    return found


def _example() -> torch.Tensor:
    return torch.randn(max(BATCHES), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def step_report(work: Path, deadline: float) -> None:
    """Predict every network by every device and write the result file."""
    files = [work / f"measured-{number}.jsonl" for number in range(2)]
    passes = [read_pass(path) for path in files if path.exists()]
    names = [name for name in CPU if all(name in one for one in passes)]
    counts = {(name, batch): _counted(name, batch) for name in names for batch in BATCHES}
    figures: dict[str, Any] = {
        "networks": len(names),
        "passes": len(passes),
        "development": DEVELOPMENT,
        "devices": {},
    }
    rows = []
    for target in DEVICES:
        device = calibrated_from(read_raw(raw_file(work, target)), target, "fp32")
        assert device.calibration is not None
        found: dict[str, Any] = {"calibration": device.calibration.summary}
        for batch in BATCHES:
            way = key(device, batch)
            times = {name: [one[name][way] for one in passes] for name in names}
            checks = [
                checked(name, counts[name, batch], batch, [times[name][0], times[name][-1]], device)
                for name in names
            ]
            found[f"batch {batch}"] = result = summaries(checks, repeated=len(passes) > 1)
            title = f"{device.runtime}, {device.threads} threads, batch {batch}"
            rows += [table_row(f"{title}, {which}", result[which]) for which in (UNSEEN, ALL)]
        figures["devices"][f"{device.runtime},{device.threads}"] = found
    print_table("Networks that calibration never saw", COLUMNS, rows)
    write_result(RESULT, figures, ("timm",))


def read_pass(path: Path) -> dict[str, dict[str, float]]:
    """The medians of one pass, by network and way."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {line["net"]: line["ms"] for line in lines}


def _counted(name: str, batch: int) -> Any:
    return profile(network(name), torch.zeros(batch, 3, SIDE, SIDE))


def main() -> None:
    """Run the steps that are asked for, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/cost"))
    parser.add_argument("--minutes", type=float, default=60.0, help="after which measuring stops for now")
    steps = {
        "export": step_export,
        "calibrate": step_calibrate,
        "measure": step_measure,
        "report": step_report,
    }
    parser.add_argument("--step", choices=steps)
    options = parser.parse_args()
    (options.work / "onnx").mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * options.minutes
    for name, step in steps.items():
        if options.step in (None, name):
            step(options.work, deadline)


if __name__ == "__main__":
    main()
