"""The commands that write a network for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.options import Base, Debug, Network, out


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
