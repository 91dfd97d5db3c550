"""What the commands share: their common options, and how a network and data are read from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tenfold.errors import BudgetError, NetworkError

if TYPE_CHECKING:
    from torch import nn

    from tenfold.data import Task

ORIGINAL = "original"  # the teacher that is the network itself, as it was

out = Console()
err = Console(stderr=True)

Network = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="package.module:factory, zoo:NAME, timm:NAME, hf:NAME, a name that `tenfold models` lists, or the "
        "folder of a saved network",
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
TrainOn = Annotated[
    str | None,
    typer.Option("--train-on", help="cpu or cuda: where it is healed; without, a GPU if there is one"),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="examples in one inference")]
Seed = Annotated[int, typer.Option("--seed", min=0)]


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


def read_teachers(
    named: list[str], base: str | None, original: nn.Module | None = None
) -> dict[str, nn.Module]:
    """The networks of these names, of which one may be `original`; a name that comes twice is refused.

    So is an architecture alone, whose weights would be random.
    """
    from tenfold.compress import load_network
    from tenfold.models import names

    for name in named:
        if not name:
            raise NetworkError("--teacher is empty: name a trained network, or leave it out")
        if name.partition("?")[0] in names():
            raise NetworkError(
                f"--teacher {name} has random weights, which teach nothing: give a trained network, as zoo:NAME, timm:NAME "
                "or the folder of a saved one"
            )
        if named.count(name) > 1:
            raise NetworkError(f"--teacher {name} is given twice: each teacher counts once")
    known = {} if original is None else {ORIGINAL: original}
    return {name: known[name] if name in known else load_network(name, base)[0] for name in named}


def starting(text: str) -> Any:
    """A spinner on a terminal while something loads."""
    return err.status(f"{text} …")
