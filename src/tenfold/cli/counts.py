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
from tenfold.files import check_writable, write_json

if TYPE_CHECKING:
    from torch import nn

    from tenfold.cost import Device, Profile

DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
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
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="predict the latency on it: a device file, or a machine of the catalogue"
        ),
    ] = None,
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Count what a network costs: parameters, multiply-adds, bytes and memory, layer by layer."""
    _check_outputs({"--html": html, "--plot": plot, "--json": json_file})
    from tenfold.cost import read_device
    from tenfold.report import profile_comparison, roofline_plot, roofs_of, times_of, view, write_profile

    target = read_device(device) if device is not None else None
    names = [network] if compare is None else [network, compare]
    with starting("counting"):
        counts = [_counted(name, inputs or [], batch, base, real, target) for name in names]
    profiles = [counted for counted, _ in counts]
    roofs = roofs_of(target, counts[0][1]) if target is not None else None
    times = [times_of(counted, target) if target is not None else None for counted in profiles]
    views = [view(*figures) for figures in zip(profiles, names, times, strict=True)]
    if json_file is not None:
        figures = [{"name": name, **counted.to_json()} for name, counted in zip(names, profiles, strict=True)]
        write_json(json_file, figures[0] if compare is None else {"networks": figures})
    if html is not None:
        write_profile(views, html, roofs, _provenance())
    if plot is not None:
        roofline_plot(views, plot, roofs)
    # Last, so that a reader who has seen enough (| head) does not cost the files.
    print(profiles[0] if compare is None else profile_comparison(views[0], views[1]))
    if target is not None:
        print(_predicted(target, profiles))


def _counted(
    name: str, inputs: Sequence[str], batch: int | None, base: str | None, real: bool, device: Device | None
) -> tuple[Profile, str]:
    """The count of the network named so, with its times on `device`, and the type that it computes in."""
    from tenfold.cli.inputs import read_inputs, weights_dtype
    from tenfold.cost import profile as count

    model = _load(name, base, real)
    counted = count(model, read_inputs(inputs, model, name, batch), real=real, device=device)
    dtype = str(weights_dtype(model)).removeprefix("torch.")
    return counted, DTYPES.get(dtype, dtype)


def _predicted(device: Device, profiles: Sequence[Profile]) -> str:
    """The predicted time of each network, in a line."""
    from tenfold.cost import predict_network

    labels = ("",) if len(profiles) == 1 else ("A  ", "B  ")
    lines = [f"  {label}{predict_network(one, device)}" for label, one in zip(labels, profiles, strict=True)]
    return "\n".join([f"Predicted on {device.title}:", *lines])


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
        check_writable(option, path)
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
