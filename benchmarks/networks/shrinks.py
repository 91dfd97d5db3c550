"""Every family of `tenfold.models` through `shrink`: what is made of its smallest network, and what could not be.

    PYTHONPATH=src:. python -m benchmarks.networks.shrinks [--seconds 45] [--only FAMILY …]

Ten classes of Fashion-MNIST in three channels at the side that the network takes. The weights are as they are drawn,
with the statistics of norms taken from the images: this shows that every step runs, is verified and reloads on every
family, not what accuracy is left. Writes `shrinks.json` after each family; one that is in it is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.networks.exports import made, smallest

import tenfold
from tenfold.cost import call, environment
from tenfold.data import Split, fashion_mnist
from tenfold.errors import TenfoldError
from tenfold.files import write_json
from tenfold.training import refresh_statistics

RESULT = Path(__file__).with_name("shrinks.json")
TRAIN, VALIDATION = 256, 128
SIZE_SHARE = 0.6  # of the untouched network's bytes in fp32, that may be used


def images(split: Split, number: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """So many examples, three channels, at the side that is asked for."""
    inputs, targets = split.take(number).select(range(number))
    return F.interpolate(inputs, size=(side, side), mode="bilinear").repeat(1, 3, 1, 1), targets


def shrunk(name: str, seconds: float, out: Path) -> dict[str, Any]:
    """What `shrink` makes of one network in that time; the best is loaded again and compared with its artefact."""
    model, example = made(name)
    side, data = example.shape[-1], fashion_mnist()
    train, validation = images(data.train, TRAIN, side), images(data.validation, VALIDATION, side)
    refresh_statistics(model, Split(train))
    task = tenfold.Task(model, train=train, validation=validation)
    size = SIZE_SHARE * sum(4 * p.numel() for p in model.parameters()) / 1e6
    frontier = tenfold.shrink(task, tenfold.Budget(size_mb=size), out=out, time_limit=seconds)
    points = {point.id: point for point in frontier.points}
    original, best = points["onnx-fp32"], points[frontier.best_id]
    again = tenfold.load(out / "best", base=model)
    inputs = validation[0][:16]
    with torch.no_grad():
        answers = call(again, inputs)
    served = frontier.best.artifact.run(inputs)
    return {
        "side": side,
        "points": sorted(points),
        "best": {"id": best.id, "label": best.label},
        "feasible": frontier.feasible,
        "times_smaller": original.size_bytes / best.size_bytes,
        "times_faster": original.latency_ms / best.latency_ms,
        "reload_agrees": float((answers.argmax(1) == served.argmax(1)).double().mean()),
        "notes": frontier.sections["notes"],
    }


def main() -> None:
    """One family after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=45.0, help="for each network")
    parser.add_argument("--only", nargs="*", help="these families")
    options = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for family, name in smallest().items():
        if family in rows or (options.only and family not in options.only):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            try:
                row = shrunk(name, options.seconds, Path(scratch) / "run")
            except TenfoldError as error:
                row = {"error": str(error)}
        rows[family] = {"network": name, **row, "seconds": round(time.monotonic() - began, 1)}
        print(family, rows[family], flush=True)
        write_json(RESULT, {"rows": rows, "seconds_each": options.seconds, "environment": environment()})


if __name__ == "__main__":
    main()
