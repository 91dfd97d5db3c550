"""The commands that say what a network costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.options import Base, Debug, Network


def profile(
    network: Network,
    shape: Annotated[
        str, typer.Option("--input", help="shapes, as 1x3x224x224 or input_ids=1x128:int64,mask=1x128:bool")
    ] = "1x3x224x224",
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
    from tenfold.compress import load_network
    from tenfold.cost import predict_network, read_device, read_inputs
    from tenfold.cost import profile as count
    from tenfold.files import write_json

    target = read_device(device) if device is not None else None
    inputs = read_inputs(shape)
    model, _ = load_network(network, base, weights=False)
    counted = count(model, inputs, real=real, device=target)
    print(counted)
    if target is not None:
        print(f"predicted    {predict_network(counted, target)}\n             on {target.title}")
    if json_file is not None:
        write_json(json_file, counted.to_json())
