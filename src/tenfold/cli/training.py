"""The command that trains a network from labels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli.options import Base, Data, Debug, ImageSize, Seed, err, out, read_teachers, starting
from tenfold.errors import DataError, OutputError
from tenfold.files import check_writable

if TYPE_CHECKING:
    from torch import nn

    from tenfold.data import Splits

CURVE, NETWORK = "curve.png", "network"


def train(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="an architecture by name (resnet20, mobilenet_v2, …), or package.module:factory, timm:NAME, hf:NAME, zoo:NAME, "
            "or the folder of a saved network, whose weights are then where it starts",
        ),
    ],
    data: Data = None,
    recipe: Annotated[str, typer.Option("--recipe", help="a recipe by name, or a YAML file")] = "cifar",
    epochs: Annotated[
        float | None, typer.Option("--epochs", help="passes over the data, instead of the recipe's")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--time",
            help="an upper bound on training, in all calls together, as 10m, to which the schedule of the learning rate "
            "is fitted; the scoring at the end comes on top",
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="the run's folder")] = Path("runs/train"),
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda; without, a GPU if there is one")
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint in --out")] = False,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            help="a trained network to learn from as well: zoo:NAME, timm:NAME or a folder; may come often, and then the "
            "mean of their outputs teaches",
        ),
    ] = None,
    image_size: ImageSize = None,
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Train a network from labels by a recipe; interrupted runs go on with --resume."""
    from tenfold.search import quantities

    if data is None:
        raise DataError(
            "--data is missing: give a folder of class folders, an .npz or package.module:factory"
        )
    seconds = None if time is None else quantities.seconds(time)
    check_writable("--out", folder / CURVE)
    with starting("loading PyTorch"):
        from tenfold.compress import save
        from tenfold.data import load_data
        from tenfold.report import learning_curves
        from tenfold.search.console import Console as Progress
        from tenfold.training import joint_teacher, training_place, training_recipe
        from tenfold.training import train as run
    chosen = training_recipe(recipe, epochs=epochs)
    place = training_place(device, "--device")
    with starting("reading the network and the data"):
        splits = load_data(data, image_size=image_size)
        model, named = network_for(network, splits, chosen.stochastic_depth, seed, base)
        teachers = read_teachers(teacher or [], base)
        taught_by = joint_teacher(teachers, model, splits.train) if teachers else None
    with Progress(err) as report:
        result = run(
            model,
            splits,
            chosen,
            name=network,
            seconds=seconds,
            device=place,
            seed=seed,
            folder=folder,
            resume=resume,
            teacher=taught_by,
            progress=lambda fraction, text: report("training", fraction, text),
        )
    out.print(result.summary(), soft_wrap=True, markup=False, highlight=False)
    written = [folder / "weights.safetensors", folder / "result.json"]
    if named is not None:
        example = splits.train.select([0])[0]
        extra = {"teachers": list(teachers)} if teachers else None
        written.append(
            save(folder / NETWORK, model.cpu(), (), inputs=example, base=named, extra=extra, overwrite=True)
        )
    try:
        learning_curves({network: result.to_json()["curve"]}, folder / CURVE)
        written.append(folder / CURVE)
    except OutputError as error:
        print(f"no picture: {error}", file=sys.stderr)
    out.print("\n".join(map(str, written)), soft_wrap=True, markup=False, highlight=False)


def network_for(
    spec: str, splits: Splits, depth: float, seed: int, base: str | None
) -> tuple[nn.Module, str | None]:
    """The network named, and the name that a file may hold for it: any with weights, or an architecture for the data.

    An architecture (`NAME` or `NAME?option=value&…`) gets the data's classes, channels and side, random weights from
    `seed`, and modules to drop its branches by if `depth`, the chance of stochastic depth, is above 0.
    """
    import torch

    from tenfold.compress import load_network
    from tenfold.models import create, names, options
    from tenfold.models.external import parsed

    if spec.partition("?")[0] not in names():
        return load_network(spec, base)
    name, given = parsed(spec)
    inputs, labels = splits.train.select([0])
    known = splits.train.known_targets
    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4:
        raise DataError(f"{name} takes images (C, H, W), and the data holds something else")
    channels, height, width = inputs.shape[1:]
    classes = len(splits.classes) or 1 + int((labels if known is None else known).max())
    chosen: dict[str, Any] = {"num_classes": classes, "in_channels": channels}
    if "resolution" in options(name) and height == width:
        chosen["resolution"] = height
    if depth and "drop_path" in options(name):
        chosen["drop_path"] = depth
    chosen |= given
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = create(name, **chosen)
    return made, f"{name}?" + "&".join(f"{key}={json.dumps(value)}" for key, value in chosen.items())
