"""The commands about techniques: what they have been measured to bring, and which layers they would hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.options import (
    Base,
    Data,
    Debug,
    ImageSize,
    MetricName,
    Network,
    err,
    out,
    read_task,
    starting,
)
from tenfold.errors import OutputError
from tenfold.files import check_writable, write_json


def techniques(
    name: Annotated[
        str | None, typer.Argument(help="one technique, to see its options, or a recipe that ships")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the list to this file")] = None,
    debug: Debug = False,
) -> None:
    """List the techniques with what was measured of each on a trained network, and the recipes that ship; or show one."""
    check_writable("--json", json_file)
    with starting("loading PyTorch"):
        from tenfold.compress import known_results, named_recipes
        from tenfold.report import technique_page, techniques_table

    if name is not None:
        if json_file is not None:
            raise OutputError("--json is for the whole list: leave out the name, or --json")
        out.print(technique_page(name), soft_wrap=True, markup=False, highlight=False)
        return
    results = known_results()
    out.print(techniques_table(results, [(recipe.name, recipe.text) for recipe in named_recipes()]))
    if json_file is not None:
        write_json(json_file, results)


def blame(
    network: Network,
    data: Data = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--change",
            help="int8, int4, prune, sparse, 2:4, low-rank, share, int8-activations or int8-full; may come often",
        ),
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=1, help="validation examples to judge by")] = 128,
    time: Annotated[str, typer.Option("--time", help="how long it may take, as 5m")] = "5m",
    json_file: Annotated[Path | None, typer.Option("--json", help="write all figures to this file")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="write the heat map to this file")] = None,
    metric: MetricName = "accuracy",
    image_size: ImageSize = None,
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Tell which layer costs how much under which technique: alone, spared and cumulatively, as a heat map and the worst first."""
    from tenfold.search import quantities

    seconds = quantities.seconds(time)
    check_writable("--json", json_file)
    check_writable("--html", html_file)
    with starting("loading PyTorch"):
        from time import monotonic

        from tenfold.compress import Run
        from tenfold.compress.blame import blame as measured
        from tenfold.compress.changes import CHANGES
        from tenfold.report import blame_tables, change_table, worst_tables, write_blame_map
        from tenfold.search.console import Console as Progress
    with starting("reading the network and the data"):
        task = read_task(network, data, metric, image_size, base)
    with Progress(err) as report:
        run = Run(
            deadline=monotonic() + seconds, progress=lambda fraction, text: report("blame", fraction, text)
        )
        figures = measured(task, change or tuple(CHANGES), examples=examples, run=run).to_json()
    for table in blame_tables(figures, out.width):
        out.print(table)
    if len(figures["columns"]) == 1:
        out.print(change_table(figures["columns"][0]))
    else:
        for table in worst_tables(figures, out.width):
            out.print(table)
    if json_file is not None:
        write_json(json_file, figures)
    if html_file is not None:
        write_blame_map(figures, html_file, network)
