"""The commands that make networks: a search for a budget, and one recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.options import (
    Base,
    Batch,
    Data,
    Debug,
    ImageSize,
    MetricName,
    Network,
    Seed,
    Threads,
    TrainOn,
    err,
    out,
    read_task,
    read_teachers,
    starting,
)
from tenfold.errors import BudgetError


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
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe", help="a recipe to make and measure too, by name or file (YAML); may come often"
        ),
    ] = None,
    metric: MetricName = "accuracy",
    image_size: ImageSize = None,
    base: Base = None,
    threads: Threads = 1,
    batch: Batch = 1,
    seed: Seed = 0,
    train_on: TrainOn = None,
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
        from tenfold.compress import find_recipe
        from tenfold.cost import Device
        from tenfold.report import frontier_table
        from tenfold.search import Budget
        from tenfold.search import shrink as job
        from tenfold.search.console import Console as Progress
        from tenfold.training import training_place
    training_place(train_on, "--train-on")
    recipes = {spec: find_recipe(spec) for spec in recipe or ()}
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
            train_on=train_on,
            recipes=recipes,
            report=report,
            provenance={"network": network, "data": data, "command": " ".join(sys.argv[1:])},
        )
    out.print(frontier_table(frontier.to_json()))
    for line in (*frontier.sections.get("notes", ()), frontier.message):
        out.print(line, soft_wrap=True, markup=False, highlight=False)
    out.print(
        f"Best network  {folder / 'best'}\nReport        {folder / 'report.html'}",
        soft_wrap=True,
        highlight=False,
    )
    if not frontier.feasible:
        raise typer.Exit(3)


def apply(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="a recipe that ships, by name (tenfold techniques), or a file (YAML)"
        ),
    ],
    network: Network,
    data: Data = None,
    folder: Annotated[Path, typer.Option("--out", help="where the network is saved")] = Path("runs/apply"),
    metric: MetricName = "accuracy",
    image_size: ImageSize = None,
    base: Base = None,
    threads: Threads = 1,
    train_on: TrainOn = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            help="a network to learn from, or `original`; may come often, and then the mean of their outputs teaches "
            "(without, the original does)",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Make the network that a recipe describes: saved, exported to ONNX and verified."""
    from tenfold.compress import find_recipe

    steps = find_recipe(recipe)
    from tenfold.cost import Device
    from tenfold.search.applying import apply_to_folder
    from tenfold.search.console import Console as Progress
    from tenfold.training import training_place

    training_place(train_on, "--train-on")
    with starting("reading the network and the data"):
        task = read_task(network, data, metric, image_size, base)
        teachers = read_teachers(teacher, base, task.model) if teacher else None
    with Progress(err) as report:
        made = apply_to_folder(
            steps,
            task,
            folder,
            Device(threads=threads),
            report=report,
            train_on=train_on,
            teachers=teachers,
        )
    out.print(made.summary(), soft_wrap=True, markup=False, highlight=False)
