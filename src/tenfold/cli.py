"""The commands. Each reads its options, calls the library and prints; an error is one line and an exit status.

Exit status: 0 done, 1 an error, 2 a wrong option, 3 no network meets the budget, 130 interrupted.
"""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tenfold.errors import BudgetError, TenfoldError

if TYPE_CHECKING:
    from tenfold.data import Task

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Tenfold makes a neural network fit its budget, and proves it.",
)
out = Console()
err = Console(stderr=True)

Network = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="package.module:factory, timm:NAME, hf:NAME, zoo:NAME, or the folder of a saved network",
    ),
]
Data = Annotated[
    str | None, typer.Option("--data", help="a folder of class folders, an .npz, or package.module:factory")
]
MetricName = Annotated[str, typer.Option("--metric", help="accuracy, or package.module:function")]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", help="resize and crop a folder's images to this side")
]
Base = Annotated[
    str | None,
    typer.Option("--base", help="the factory that a saved network was made from, if not named in it"),
]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="threads of one inference")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="examples in one inference")]
Seed = Annotated[int, typer.Option("--seed", min=0)]


@app.command()
def shrink(
    network: Network,
    data: Data = None,
    folder: Annotated[Path, typer.Option("--out", help="the run's folder; a run it holds goes on")] = Path(
        "runs/shrink"
    ),
    latency: Annotated[str | None, typer.Option("--latency", help="limit of the median, as 5ms")] = None,
    size: Annotated[str | None, typer.Option("--size", help="limit on disk, as 2MB (10^6 bytes)")] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="limit of the peak resident size, as 80MB")
    ] = None,
    max_drop: Annotated[str | None, typer.Option("--max-drop", help="tolerated loss, as 1%")] = None,
    minimize: Annotated[str, typer.Option("--minimize", help="latency or size")] = "latency",
    time: Annotated[str, typer.Option("--time", help="how long the job may take, as 5m")] = "5m",
    metric: MetricName = "accuracy",
    image_size: ImageSize = None,
    base: Base = None,
    threads: Threads = 1,
    batch: Batch = 1,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Turn a trained network, data and a budget into a measured frontier and a verified artefact."""
    from tenfold.search import quantities

    limits = {
        "latency_ms": latency and quantities.milliseconds(latency),
        "size_mb": size and quantities.megabytes(size),
        "memory_mb": memory and quantities.megabytes(memory, "--memory"),
        "max_drop": max_drop and quantities.share(max_drop),
    }
    seconds = quantities.seconds(time)
    if minimize not in ("latency", "size"):
        raise BudgetError(f"--minimize is latency or size, not {minimize!r}")
    with starting("loading PyTorch"):
        from tenfold.cost import Device
        from tenfold.report import frontier_table
        from tenfold.search import Budget
        from tenfold.search import shrink as job
        from tenfold.search.console import Console as Progress
    budget = Budget(**{name: value or None for name, value in limits.items()})
    with starting("reading the network and the data"):
        task = read_task(network, data, metric, image_size, base)
    with Progress(err) as report:
        frontier = job(
            task,
            budget,
            Device(threads=threads, batch=batch),
            out=folder,
            minimize=minimize,
            time_limit=seconds,
            seed=seed,
            report=report,
            provenance={"network": network, "data": data, "command": " ".join(sys.argv[1:])},
        )
    out.print(frontier_table(frontier.to_json()))
    out.print(frontier.message, soft_wrap=True, markup=False, highlight=False)
    out.print(
        f"Best network  {folder / 'best'}\nReport        {folder / 'report.html'}",
        soft_wrap=True,
        highlight=False,
    )
    if not frontier.feasible:
        raise typer.Exit(3)


@app.command()
def apply(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe file (YAML)")],
    network: Network,
    data: Data = None,
    folder: Annotated[Path, typer.Option("--out", help="where the network is saved")] = Path("runs/apply"),
    metric: MetricName = "accuracy",
    image_size: ImageSize = None,
    base: Base = None,
    threads: Threads = 1,
    debug: Debug = False,
) -> None:
    """Make the network that a recipe describes: saved, exported to ONNX and verified."""
    from tenfold.compress import read_recipe

    steps = read_recipe(recipe)
    from tenfold.cost import Device
    from tenfold.search.applying import apply_to_folder
    from tenfold.search.console import Console as Progress

    with starting("reading the network and the data"):
        task = read_task(network, data, metric, image_size, base)
    with Progress(err) as report:
        made = apply_to_folder(steps, task, folder, Device(threads=threads), report=report)
    out.print(made.summary(), soft_wrap=True, markup=False, highlight=False)


@app.command()
def profile(
    network: Network,
    shape: Annotated[str, typer.Option("--input", help="the input's shape, as 1x3x224x224")] = "1x3x224x224",
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Count what a network costs: parameters, multiply-adds, bytes and memory, layer by layer."""
    from tenfold.search.quantities import dimensions

    sizes = dimensions(shape)
    import torch

    from tenfold.compress import load_network
    from tenfold.cost import profile as count
    from tenfold.files import write_json

    model, _ = load_network(network, base, weights=False)
    counted = count(model, torch.zeros(sizes))
    print(counted)
    if json_file is not None:
        write_json(json_file, counted.to_json())


@app.command()
def export(
    network: Network,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx")],
    shape: Annotated[str, typer.Option("--input", help="the input's shape, as 1x3x224x224")] = "1x3x224x224",
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Export a network to ONNX (any batch size, batch norm folded) and verify it against PyTorch."""
    from tenfold.search.quantities import dimensions

    sizes = dimensions(shape)
    import torch

    from tenfold.compress import load_network
    from tenfold.deploy import OnnxRunner, export_onnx, verify

    model, _ = load_network(network, base)
    inputs = torch.randn(sizes, generator=torch.Generator().manual_seed(0))
    export_onnx(model, inputs, file)
    checked = verify(model, OnnxRunner(file), inputs)
    out.print(f"{file}: {file.stat().st_size:,} bytes; {checked.text}", soft_wrap=True, highlight=False)


def read_task(network: str, data: str | None, metric: str, image_size: int | None, base: str | None) -> Task:
    """The task that the options describe; a missing option is named."""
    from tenfold.compress import load_network
    from tenfold.data import load_data, load_metric, task_from

    if data is None:
        raise BudgetError(
            "--data is missing: give a folder of class folders, an .npz or package.module:factory"
        )
    splits = load_data(data, image_size=image_size)
    model, name = load_network(network, base)
    return task_from(model, splits, load_metric(metric), base=name)


def starting(text: str) -> Any:
    """A spinner on a terminal while something loads."""
    return err.status(f"{text} …")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; every failure ends as one line on stderr and an exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        status = app(arguments, standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except KeyboardInterrupt:
        fail("interrupted; what was finished is kept, the same command goes on from there", 130, debug)
    except TenfoldError as error:
        fail(str(error), 1, debug)
    except OSError as error:
        full = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        fail(f"{error.filename or 'writing'}: {error.strerror or error}{full}", 1, debug)
    except Exception as error:
        # Typer's own errors (a wrong option) know their exit status and text.
        if hasattr(error, "format_message"):
            fail(error.format_message(), getattr(error, "exit_code", 2), debug)
        if type(error).__name__ in ("Abort", "Exit"):
            sys.exit(getattr(error, "exit_code", 130))
        fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1, debug)


def fail(text: str, status: int, debug: bool) -> None:
    """Print the error and leave."""
    if debug:
        traceback.print_exc()
    line = " ".join(text.split())
    err.print(
        f"tenfold: {line}",
        style="bold red" if err.is_terminal else None,
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    sys.exit(status)


if __name__ == "__main__":
    main()
