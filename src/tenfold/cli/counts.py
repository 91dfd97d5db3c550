"""The commands that say what a network costs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenfold.cli.options import Base, Debug, Network, starting
from tenfold.errors import OutputError

if TYPE_CHECKING:
    from torch import nn

    from tenfold.cost import Profile

PLOTS = (".png", ".svg", ".pdf")


def profile(
    network: Network,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="an input's shape, as 1x3x224x224, 1x128:int64 or attention_mask=1x128; again for more inputs; "
            "left out: what the network was made for",
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="the first size of every input")] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="NETWORK", help="a second network, side by side")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="write a page with the pictures")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="write the roofline as a picture: .png, .svg or .pdf")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
    real: Annotated[
        bool, typer.Option("--real", help="run it on zeros, for networks that decide by values")
    ] = False,
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Count what a network costs: parameters, multiply-adds, bytes and memory, layer by layer."""
    _check_outputs({"--html": html, "--plot": plot, "--json": json_file})
    names = [network] if compare is None else [network, compare]
    with starting("counting"):
        profiles = [_counted(name, inputs or [], batch, base, real) for name in names]

    from tenfold.files import write_json
    from tenfold.report import profile_comparison, roofline_plot, view, write_profile

    views = [view(counted, name) for name, counted in zip(names, profiles, strict=True)]
    if json_file is not None:
        figures = [{"name": name, **counted.to_json()} for name, counted in zip(names, profiles, strict=True)]
        write_json(json_file, figures[0] if compare is None else {"networks": figures})
    if html is not None:
        write_profile(views, html, provenance=_provenance())
    if plot is not None:
        roofline_plot(views, plot)
    # Last, so that a reader who has seen enough (| head) does not cost the files.
    print(profiles[0] if compare is None else profile_comparison(views[0], views[1]))


def _counted(name: str, inputs: Sequence[str], batch: int | None, base: str | None, real: bool) -> Profile:
    from tenfold.cli.inputs import read_inputs
    from tenfold.cost import profile as count

    model = _load(name, base, real)
    return count(model, read_inputs(inputs, model, name, batch), real=real)


def _load(name: str, base: str | None, real: bool) -> nn.Module:
    """The network's structure; one of transformers on the meta device, so that its size is no matter."""
    import torch

    from tenfold.compress import load_network

    # timm computes in its constructors (stochastic depth, by numbers), which needs tensors that hold data.
    with torch.device("meta" if name.startswith("hf:") and not real else "cpu"):
        return load_network(name, base, weights=False)[0]


def _check_outputs(paths: dict[str, Path | None]) -> None:
    """Refuse, before anything is counted, a file that could not be written."""
    for option, path in paths.items():
        if path is None:
            continue
        if path.is_dir():
            raise OutputError(f"{option} {path}: is a folder; name a file")
        above = next((folder for folder in path.absolute().parents if folder.exists()), None)
        if above is not None and not above.is_dir():
            raise OutputError(f"{option} {path}: {above} is no folder")
    plot = paths["--plot"]
    if plot is not None:
        from tenfold.report import require_matplotlib

        if plot.suffix not in PLOTS:
            raise OutputError(f"--plot {plot}: the ending must be {', '.join(PLOTS[:-1])} or {PLOTS[-1]}")
        require_matplotlib()


def _provenance() -> dict[str, str]:
    from importlib.metadata import version

    import torch

    return {
        "command": shlex.join(["tenfold", *sys.argv[1:]]),
        "versions": f"Tenfold {version('tenfold')}, PyTorch {torch.__version__}",
    }
