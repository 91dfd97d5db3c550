"""The commands that write a network for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.options import Base, Debug, Network, out

SHAPE = "1x3x224x224"  # what a network without a shape of its own is exported for


def export(
    network: Network,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx")],
    shape: Annotated[
        str | None,
        typer.Option(
            "--input", help=f"the input's shape; left out: what a saved network was saved with, else {SHAPE}"
        ),
    ] = None,
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Export a network to ONNX (any batch size, batch norm folded) and verify it against PyTorch."""
    from tenfold.search.quantities import dimensions

    if shape is not None:
        dimensions(shape)  # before any work
    from tenfold.cli.inputs import drawn_inputs
    from tenfold.compress import is_saved, load_network
    from tenfold.deploy import OnnxRunner, export_onnx, verify

    model, _ = load_network(network, base)
    inputs = drawn_inputs(shape if shape or is_saved(network) else SHAPE, model, network)
    export_onnx(model, inputs, file)
    checked = verify(model, OnnxRunner(file), inputs)
    out.print(f"{file}: {file.stat().st_size:,} bytes; {checked.text}", soft_wrap=True, highlight=False)
