"""The commands that learn how fast this machine is, and show how well they know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli.options import Debug, Threads, err, out
from tenfold.files import check_writable, write_json

if TYPE_CHECKING:
    from tenfold.cost import Inputs
    from tenfold.cost.prediction_check import Check

Runtime = Annotated[str, typer.Option("--runtime", help="onnxruntime, or torch for eager PyTorch")]
DEFAULT = "devices/cpu-onnxruntime-1.json"


def calibrate(
    runtime: Runtime = "onnxruntime",
    threads: Threads = 1,
    cuda: Annotated[bool, typer.Option("--cuda", help="calibrate the GPU (eager PyTorch)")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=10, help="how long it may take")] = 60.0,
    file: Annotated[Path | None, typer.Option("--out", help="the device file to write")] = None,
    debug: Debug = False,
) -> None:
    """Measure this machine in about a minute and store a device file that predictions can use."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tenfold.deploy import calibrate as run

    device = _target(runtime, threads, cuda)
    path = file or Path("devices", f"{device.kind}-{device.runtime}-{device.threads}.json")
    check_writable("--out", path)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("calibrating", total=1.0)
        found = run(
            device,
            seconds=seconds,
            progress=lambda share, text: bar.update(task, completed=share, description=text),
        )
    found.save(path)
    assert found.calibration is not None
    out.print(
        f"{found.title}\n{found.calibration.summary}\nwritten to {path}", soft_wrap=True, highlight=False
    )
    if found.calibration.noise.loaded:
        err.print(
            "tenfold: something else was using the machine; calibrate again when it is quiet for narrower intervals"
        )


def bench(
    networks: Annotated[list[str], typer.Argument(metavar="NETWORK...", help="timm:NAME, zoo:NAME, …")],
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="a device file of tenfold calibrate; by default where that writes it, or, without --predict and such a "
            "file, one thread of ONNX Runtime",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="the input's shape, as 1x3x224x224, which it is too where it is left out and nothing tells what a network "
            "was made for",
        ),
    ] = None,
    predict: Annotated[
        bool, typer.Option("--predict", help="hold the predictions against the measurements")
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="for each network, twice")] = 2.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
    debug: Debug = False,
) -> None:
    """Time networks on this machine through the device's runtime, each twice and apart."""
    from tenfold.search.quantities import dimensions

    sizes = None if shape is None else list(dimensions(shape))
    check_writable("--json", json_file)
    from tenfold.cli.inputs import drawn_inputs
    from tenfold.compress import load_network
    from tenfold.cost import Device, batch_size, environment, is_predictable, profile, read_device
    from tenfold.cost.prediction_check import checked, row_json, summary
    from tenfold.deploy.timing_networks import measure_twice, runner_of
    from tenfold.errors import DeviceError

    path = device or DEFAULT
    untold = device is None and not predict and not Path(DEFAULT).exists()  # timing alone needs no file
    target = Device() if untold else read_device(path)
    if target.calibration is None and predict:
        raise DeviceError(f"{path} was never calibrated; --predict needs a file of tenfold calibrate")
    if target.kind != "cpu":
        raise DeviceError(f"bench measures on this machine's CPU; {path} is a {target.kind} device")
    inputs, counts, runners = {}, {}, {}
    for network in networks:
        err.print(f"preparing {network}", highlight=False)
        model, _ = load_network(network, None)
        inputs[network] = given = drawn_inputs(shape, model, network)
        if predict:
            counts[network] = profile(model, given)
        runners[network] = runner_of(model, given, target)
    times = measure_twice(runners, inputs, seconds)
    figures: dict[str, Any] = {
        "device": target.title,
        "input": sizes,  # null: each network's own
        "inputs": {name: _shapes(given) for name, given in inputs.items()},
        "environment": environment(),
    }
    if not predict:
        for name, (first, second) in times.items():
            _print(f"{name:<40} {first:9.3f} ms   again {second:9.3f} ms")
        figures["measured_ms"] = times
    else:
        checks = {
            name: checked(name, counted, batch_size(inputs[name]), times[name], target)
            for name, counted in counts.items()
            if is_predictable(counted)
        }
        found = summary(list(checks.values())) if checks else None
        _print_checks(times, checks, found)
        figures |= {
            "networks": [row_json(check) for check in checks.values()],
            "unpredicted_ms": {name: both for name, both in times.items() if name not in checks},
            "summary": found,
        }
    if json_file is not None:
        write_json(json_file, figures)


def _print_checks(
    times: Mapping[str, Sequence[float]], checks: Mapping[str, Check], found: dict[str, Any] | None
) -> None:
    """A line for each network, then the summary of those that were predicted."""
    for name, (first, second) in times.items():
        check = checks.get(name)
        if check is None:
            truth = (first * second) ** 0.5  # as that of a `Check`
            _print(f"{name:<40} {truth:9.3f} ms, no prediction: calibration covers float networks")
            continue
        inside = " " if check.held else "!"
        _print(
            f"{name:<40} {check.truth_ms:9.3f} ms, predicted {check.predicted_ms:9.3f} "
            f"[{check.low_ms:.3f}, {check.high_ms:.3f}] {check.error:+6.1%} {inside}"
        )
    if found is None:
        return
    for way in ("predicted", "roofline", "macs_only"):
        rank = found[way]["spearman"]
        _print(
            f"{way.replace('_', ' '):<12} mean error {found[way]['mape']:.1%}, rank correlation "
            f"{'–' if rank is None else format(rank, '.3f')}"
        )
    _print(
        f"the 90% interval held {found['coverage']:.0%} (a factor {found['interval_width']:.2f} either way); "
        f"the machine repeats itself within {found['repeat_error']:.1%}"
    )


def _shapes(inputs: Inputs) -> list[list[int]]:
    from tenfold.cost import as_args

    args, kwargs = as_args(inputs)
    return [list(tensor.shape) for tensor in (*args, *kwargs.values())]


def _print(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _target(runtime: str, threads: int, cuda: bool) -> Any:
    from tenfold.cost import Device
    from tenfold.cost.device import RUNTIMES
    from tenfold.errors import DeviceError

    if runtime not in RUNTIMES:
        raise DeviceError(f"--runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}")
    if cuda:
        import torch

        if not torch.cuda.is_available():
            raise DeviceError("--cuda: PyTorch sees no CUDA device on this machine")
        return Device("cuda", "torch")
    return Device("cpu", runtime, threads)
