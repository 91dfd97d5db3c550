"""The commands that turn a network into one entropy-coded file and back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tenfold.cli.options import Base, Data, Debug, ImageSize, Network, err, out
from tenfold.files import check_writable, write_json


def pack(
    network: Network,
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    bits: Annotated[
        int | None,
        typer.Option("--bits", min=2, max=8, help="quantise the weights first, by channel; needs --data"),
    ] = None,
    step: Annotated[
        float | None,
        typer.Option("--step", help="round weights to a grid of so many standard deviations, without data"),
    ] = None,
    data: Data = None,
    image_size: ImageSize = None,
    shape: Annotated[
        str | None,
        typer.Option("--input", help="what it takes, as 1x3x224x224 or 1x128:int64; else as its kind says"),
    ] = None,
    base: Base = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
    debug: Debug = False,
) -> None:
    """Pack a network into one entropy-coded file: exactly as it is, or with --bits or --step in fewer bits."""
    from tenfold.compress import is_saved
    from tenfold.compress.saved import STRUCTURE
    from tenfold.errors import PackError

    if bits is not None and (step is not None or data is None):
        raise PackError("--bits needs --data to calibrate with, and goes without --step")
    folder = Path(network).parent if Path(network).name == STRUCTURE else Path(network)
    saved = is_saved(folder)
    for option, given, unused in (
        ("--data", data, bits is None and "nothing is read of it without --bits"),
        ("--image-size", image_size, bits is None and "no image is read without --bits"),
        ("--input", shape, bits is not None and "with --bits the data say what the network takes"),
        ("--input", shape, saved and f"{network} holds what it takes"),
        ("--base", base, not saved and f"{network} is no folder of a saved network, which alone has a base"),
        (
            "--base",
            base,
            bits is None and "without --bits a saved network is packed as it lies in its folder",
        ),
    ):
        if given is not None and unused:
            raise PackError(f"{option} has no use here: {unused}; leave it out")
    from tenfold.compress import pack as write_packed
    from tenfold.compress.packing.container import check_replaceable

    check_replaceable(file)  # before any work
    check_writable("--json", json_file)
    with tempfile.TemporaryDirectory(prefix="tenfold-pack-") as scratch:
        if bits is not None:
            folder = _quantised(network, base, data, image_size, bits, Path(scratch, "network"))
        elif not saved:
            folder = _saved(network, shape, Path(scratch, "network"))
        with err.status("packing …") as status:
            report = write_packed(
                folder,
                file,
                step=step,
                progress=lambda done, what: status.update(f"packing {done:4.0%} {what}"),
            )
    out.print(f"{file}: {report}", soft_wrap=True, highlight=False)
    if json_file is not None:
        write_json(json_file, report.to_json())


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the network in FOLDER")] = False,
    debug: Debug = False,
) -> None:
    """Unpack a packed network into the folder of a saved one, with exactly the weights that were packed."""
    from tenfold.compress import unpack as write_unpacked

    with err.status("unpacking …") as status:
        write_unpacked(
            file,
            folder,
            overwrite=overwrite,
            progress=lambda done, what: status.update(f"unpacking {done:4.0%} {what}"),
        )
    out.print(f"{folder}: unpacked", soft_wrap=True, highlight=False)


def _saved(network: str, shape: str | None, folder: Path) -> Path:
    """The named network as a saved folder without steps, with inputs that it was seen to take."""
    import torch

    from tenfold.cli.inputs import read_inputs
    from tenfold.compress import load_network, save
    from tenfold.errors import NetworkError
    from tenfold.naming import described

    model, name = load_network(network)
    inputs = read_inputs([shape] if shape is not None else [], model, network, None)
    named = isinstance(inputs, dict)
    try:
        with torch.inference_mode():
            model(**inputs) if named else model(*inputs)
    except Exception as error:  # whatever the network raises for inputs that are none of its
        tensors = inputs.values() if named else inputs
        given = ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors)
        raise NetworkError(
            f"{network} does not take inputs of {given}: give what it takes by --input ({described(error)})"
        ) from error
    return save(folder, model, [], inputs=inputs if named or len(inputs) > 1 else inputs[0], base=name)


def _quantised(
    network: str, base: str | None, data: str | None, image_size: int | None, bits: int, folder: Path
) -> Path:
    """The network with its weights at `bits` bits, by GPTQ with corrected biases, saved."""
    from tenfold.cli.options import read_task
    from tenfold.compress import Run, Step, save
    from tenfold.compress.quantize import PerChannel, QuantizeWeights, is_quantized
    from tenfold.compress.technique import unrunnable
    from tenfold.errors import PackError

    task = read_task(network, data, "accuracy", image_size, base)
    technique = QuantizeWeights(bits, PerChannel())
    if is_quantized(task.model):
        raise PackError(
            f"--bits {bits}: {network} is quantised already; pack it as it is, without --bits and --data, or give the "
            "float network that it was made of"
        )
    problems = unrunnable(task.model, task) or technique.preflight(task.model, task, Run().device)
    if problems:
        raise PackError(f"--bits {bits}: {network} cannot be quantised: {'; '.join(map(str, problems))}")
    with err.status("quantising …") as status:
        run = Run(progress=lambda done, what: status.update(f"{done:4.0%} {what}"))
        applied = technique.apply(task.model, task, run)
    steps = (Step(technique, applied.resolved),)
    return save(folder, applied.model, steps, inputs=task.example(1), base=task.base)
