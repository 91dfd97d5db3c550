"""The same on a GPU: calibrated for a minute in fp16, judged on networks that calibration never saw.

    PYTHONPATH=src python -m benchmarks.cost.h200 [--seconds 60] [--out FILE]

Eager PyTorch, channels last, batch 1, 32 and 256; a call ends when the GPU has finished. Needs timm, torch with CUDA
and nothing else; four minutes on an H200. Every network is timed twice, apart, for the repeat error.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.cost.networks import GPU, network

from tenfold.cost import Device, calibrate, environment, measure, profile
from tenfold.cost.prediction_check import Check, checked, row_json, summary
from tenfold.cost.probing import eager
from tenfold.errors import TenfoldError
from tenfold.files import write_json

RESULT = Path(__file__).parent / "h200.json"
BATCHES = (1, 32, 256)
PASS_S = 0.25  # for one network at one batch, twice
BUDGET_S = 165.0  # for all measuring; what does not fit is left out and named


def main() -> None:
    """Calibrate, measure, predict, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--device-file", type=Path, help="also keep the calibrated device")
    options = parser.parse_args()
    device = calibrate(Device("cuda", "torch"), dtype="fp16", seconds=options.seconds)
    assert device.machine is not None
    assert device.calibration is not None
    print(f"{device.title}: {device.calibration.summary}", flush=True)
    if options.device_file is not None:
        device.save(options.device_file)
    checks, left_out = measured(device)
    figures: dict[str, Any] = {
        "environment": environment(),
        "device": device.machine.to_json(),
        "calibration": device.calibration.summary,
        "left_out": left_out,
    }
    for batch in BATCHES:
        of_batch = [check for check in checks if check.batch == batch]
        if len(of_batch) < 2:
            continue
        result = summary(of_batch)
        figures[f"batch {batch}"] = {**result, "rows": [row_json(check) for check in of_batch]}
        print(
            f"batch {batch}: {len(of_batch)} networks, MAPE {result['predicted']['mape']:.1%}, rank "
            f"{result['predicted']['spearman']:.3f}, interval held {result['coverage']:.0%} (×{result['interval_width']:.2f}), "
            f"repeat {result['repeat_error']:.1%}; roofline {result['roofline']['mape']:.0%}, MACs {result['macs_only']['mape']:.0%}",
            flush=True,
        )
    write_json(options.out, figures)


def measured(device: Device) -> tuple[list[Check], dict[str, str]]:
    """One check for each network and batch, and what was left out with the reason."""
    prepare = eager(device)
    checks: list[Check] = []
    left_out: dict[str, str] = {}
    started = time.monotonic()
    for name in GPU:
        if time.monotonic() - started > BUDGET_S:
            left_out[name] = "the time was over"
            continue
        try:
            model = network(name).half()
            example = torch.randn(1, 3, 224, 224).half()
            counts = {batch: profile(model, example.expand(batch, -1, -1, -1)) for batch in BATCHES}
            calls = {
                batch: prepare(model, example.expand(batch, -1, -1, -1).contiguous()) for batch in BATCHES
            }
            times: dict[int, list[float]] = {batch: [] for batch in BATCHES}
            for order in (BATCHES, BATCHES[::-1]):
                for batch in order:
                    timing = measure({name: partial(calls[batch])}, seconds=PASS_S, min_runs=5)[name]
                    times[batch].append(timing.median_ms)
        except (TenfoldError, RuntimeError) as error:  # a network that this torch or this GPU cannot run
            left_out[name] = str(error).splitlines()[0][:200]
            continue
        checks += [checked(name, counts[batch], batch, times[batch], device) for batch in BATCHES]
        del model, calls
        torch.cuda.empty_cache()
    return checks, left_out


if __name__ == "__main__":
    main()
