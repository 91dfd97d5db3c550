"""Healing by plain and by mixed images: what a ResNet-56 without six of its blocks loses after how many passes.

    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.compress.mixing --images 50000 --passes 6 18

CIFAR-10, on a GPU a minute for 18 passes over all images. 2,000 of the test images are what a search would judge by,
the other 8,000 the test. What was found is added to `mixing.json`, by device.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import write_result
from benchmarks.compress.frontier import resnet56
from torch import nn

from tenfold.compress import Run
from tenfold.compress.distill import Distill
from tenfold.compress.prune import Prune
from tenfold.data import Split
from tenfold.training import training_place
from tenfold.training.result import device_name

RESULT = Path(__file__).with_name("mixing.json")
BLOCKS = ("layer1.5", "layer2.2", "layer2.3", "layer2.5", "layer2.7", "layer2.8")


@torch.no_grad()
def accuracy_on(model: nn.Module, split: Split, place: torch.device) -> float:
    """The share of a split that is told right."""
    model.to(place).eval()
    right = sum(int((model(x.to(place)).argmax(1).cpu() == y).sum()) for _, x, y in split.batches(500))
    model.cpu()
    return right / len(split)


def healed(images: int, passes: float, mixing: bool, place: torch.device) -> dict[str, Any]:
    """One healing, and what is left after it."""
    task = resnet56(images)
    run = Run(teacher=task.model, train_on=place)
    cut = Prune(ratio=0.0, blocks=BLOCKS).apply(task.model, task, run).model
    made = Distill(epochs=passes, mixing=mixing).apply(cut, task, run)
    splits = {"validation": task.validation, "test": task.test}
    original = {name: accuracy_on(task.model, split, place) for name, split in splits.items()}
    found = {name: accuracy_on(made.model, split, place) for name, split in splits.items()}
    known = ("steps", "batch_size", "step_seconds", "precision", "seconds")
    return {
        "images": images, "passes": passes, "mixed": mixing, **found,
        "points_lost": {name: 100 * (original[name] - found[name]) for name in splits},
        **{name: made.resolved[name] for name in known}, "device": device_name(place),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--passes", type=float, nargs="+", default=[6.0, 18.0])
    options = parser.parse_args()
    place = training_place()
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    for passes in options.passes:
        for mixing in (False, True):
            row = healed(options.images, passes, mixing, place)
            rows = [r for r in rows if [r[k] for k in ROW] != [row[k] for k in ROW]] + [row]
            lost = row["points_lost"]
            how = "mixed" if mixing else "plain"
            print(
                f"{options.images} images, {passes:g} passes, {how}: {lost['test']:.2f} points lost "
                f"({lost['validation']:.2f} on validation), {1e3 * row['step_seconds']:.1f} ms a step",
                flush=True,
            )
            write_result(RESULT, {"network": "zoo:resnet56_cifar10", "rows": rows})


ROW = ("images", "passes", "mixed", "device")

if __name__ == "__main__":
    main()
