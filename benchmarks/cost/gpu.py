"""The same on a GPU in fp16: calibrated for a minute, judged on networks that calibration never saw.

    PYTHONPATH=src python -m benchmarks.cost.gpu --step collect [--work runs/cost] [--seconds 60] [--budget 130]
    PYTHONPATH=src python -m benchmarks.cost.gpu --step report [--work runs/cost]

`collect` needs the GPU for under four minutes, with torch, timm and nothing else: it measures the roofs and the samples
of calibration, every network at batch 1, 32 and 256 (eager PyTorch, channels last; in six passes, for the repeat
error), and the peak memory of ten networks beside what is counted, and writes `gpu.json.gz`. `report` fits, counts
and predicts anywhere, and writes `benchmarks/cost/CARD.json`.
"""

from __future__ import annotations

import argparse
import gc
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from benchmarks.cost.networks import DEVELOPMENT, GPU, GPU_MEMORY, network
from benchmarks.cost.raw import raw_calibration, write_raw

from tenfold.cost import Device, environment, measure, profile
from tenfold.cost.observing import observe
from tenfold.cost.probing import Prepared, eager, probe
from tenfold.cost.stopwatch import Stopwatch
from tenfold.errors import TenfoldError

BATCHES = (1, 32, 256)
# Processors that others share are disturbed for seconds at a time: passes over all networks lie apart.
PASSES, PASS_S = 6, 0.05
WARM_UPS = 8
MEMORY_BATCH = 32
DEVICE = Device("cuda", "torch")


def step_collect(options: argparse.Namespace) -> None:
    """Everything that needs the GPU, into one file, which is written anew after every part."""
    begun = time.monotonic()
    raw: dict[str, Any] = {"environment": environment(), "card": torch.cuda.get_device_name()}
    path = options.work / "gpu.json.gz"
    raw["networks"], raw["left_out"], raw["operators"] = {}, {}, {}
    try:
        calibration_data(raw, options.seconds)
    except (TenfoldError, RuntimeError):  # the rest is worth having all the same
        raw["left_out"]["calibration"] = traceback.format_exc()
        print(raw["left_out"]["calibration"], flush=True)
    written(path, raw, begun)
    deadline = time.monotonic() + options.budget
    ready: dict[str, dict[int, Prepared]] = {}
    for name in GPU if options.only is None else GPU[: options.only]:
        if time.monotonic() > deadline:
            raw["left_out"][name] = "the time was over"
            continue
        try:
            ready[name], raw["operators"][name] = prepared(name)
        except (TenfoldError, RuntimeError) as error:  # what this torch or this GPU cannot run
            raw["left_out"][name] = str(error).splitlines()[0][:200]
    print(f"{len(ready)} networks ready after {time.monotonic() - begun:.0f} s", flush=True)
    gc.collect()
    gc.freeze()  # every measurement collects garbage before it begins; these networks are none
    for number in range(PASSES):
        one_pass(raw["networks"], ready, backwards=bool(number % 2))
        written(path, raw, begun)
    gc.unfreeze()
    for name, times in raw["networks"].items():
        print(name, {batch: [round(one, 3) for one in all_passes] for batch, all_passes in times.items()})
    ready.clear()
    torch.cuda.empty_cache()
    written(path, raw, begun)
    raw["memory"] = []
    for name in GPU_MEMORY:
        try:
            raw["memory"].append(peak_memory(name))
        except (TenfoldError, RuntimeError) as error:
            raw["left_out"][f"memory of {name}"] = str(error).splitlines()[0][:200]
    written(path, raw, begun)


def calibration_data(raw: dict[str, Any], seconds: float) -> None:
    """The roofs and the samples, as calibration takes them, in three quarters of `seconds`."""
    begun = time.monotonic()
    machine = probe(DEVICE)
    print(machine.name, dict(machine.peaks), [level.bytes_per_s for level in machine.levels], flush=True)
    found, noise = observe(
        DEVICE, eager(DEVICE), begun, begun + 0.75 * seconds, 0, lambda share, text: None, "fp16"
    )
    timed = sum(one.times is not None for one in found)
    print(f"{len(found)} samples, {timed} with their operators, {noise}", flush=True)
    raw |= raw_calibration(machine, found, noise)


def prepared(name: str) -> tuple[dict[int, Prepared], dict[str, Any]]:
    """A network ready to run at every batch; of those that the model was developed on the times of their operators."""
    with torch.device("cuda"):
        model = network(name).cuda().eval().half()
    prepare = eager(DEVICE)
    example = torch.randn(1, 3, 224, 224, device="cuda").half()
    calls = {batch: prepare(model, example.expand(batch, -1, -1, -1).contiguous()) for batch in BATCHES}
    for call in calls.values():  # kernels are loaded, and the allocator has what it needs, before any pass
        for _ in range(WARM_UPS):
            call()
    operators = {}
    if name in DEVELOPMENT:
        for batch in BATCHES:
            torch.cuda._sleep(60_000_000)  # type: ignore[no-untyped-call]
            with torch.no_grad(), Stopwatch(torch.device("cuda")) as watch:
                model(example.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last))
            operators[str(batch)] = [watch.names, *watch.times()]
    return calls, operators


def one_pass(
    times: dict[str, dict[str, list[float]]], ready: dict[str, dict[int, Prepared]], *, backwards: bool
) -> None:
    """The median milliseconds of every network at every batch, added to those of earlier passes."""
    for name in sorted(ready, reverse=backwards):
        for batch, call in ready[name].items():
            timing = measure({name: call}, seconds=PASS_S, min_runs=5)[name]
            times.setdefault(name, {}).setdefault(str(batch), []).append(timing.median_ms)


def peak_memory(name: str) -> dict[str, Any]:
    """Counted peak of activations beside the allocator's, in a run as a user makes it (fp16, channels as they come).

    The workspaces of libraries are what the allocator holds beyond the tensors that operators return: the second
    figure is read whenever one has just returned.
    """
    from benchmarks.cost.gpu_memory import allocated

    with torch.device("cuda"):
        model = network(name).cuda().eval().half()
    x = torch.randn(MEMORY_BATCH, 3, 224, 224, device="cuda").half()
    counted = profile(model, x).peak_activation_bytes
    anywhere, returned = allocated(model, x)
    row = {
        "network": name, "counted": counted, "allocator": anywhere, "allocator_without_workspaces": returned,
        "error": counted / returned - 1, "error_with_workspaces": counted / anywhere - 1,
    }  # fmt: skip
    print(row, flush=True)
    return row


def written(path: Path, raw: dict[str, Any], begun: float) -> None:
    """The raw file as it is now."""
    raw["seconds"] = time.monotonic() - begun
    write_raw(path, raw)
    print(f"wrote {path} after {raw['seconds']:.0f} s", flush=True)


def main() -> None:
    """One step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", choices=("collect", "report"), required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/cost"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of the calibration")
    parser.add_argument("--budget", type=float, default=130.0, help="seconds for the networks")
    parser.add_argument("--only", type=int, help="so many of the networks")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.step == "collect":
        step_collect(options)
    else:
        from benchmarks.cost.gpu_report import step_report

        step_report(options.work)


if __name__ == "__main__":
    main()
