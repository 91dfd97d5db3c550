"""Healing by plain and by mixed images: what a ResNet-56 without some of its blocks loses after how many passes.

    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.compress.mixing --images 50000 --passes 6 18
    PYTHONPATH=src:. python -m benchmarks.compress.mixing --data fashion_mnist --passes 14 28

CIFAR-10, whose network was trained on mixed images, without six blocks: on a GPU a minute for 18 passes over all
images; 2,000 of the test images are what a search would judge by, the other 8,000 the test. Fashion-MNIST, whose
network was trained on plain ones, on 10,000 images without 13 blocks. What was found is added to `mixing.json`, by
device; with it whether images are mixed where nothing is said of it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import write_result
from benchmarks.compress.frontier import resnet56
from torch import nn

from tenfold.compress import Run, load_network
from tenfold.compress.distill import Distill
from tenfold.compress.prune import Prune
from tenfold.data import Split, Task, fashion_mnist, task_from
from tenfold.training import TeacherOutputs, answers_mixed, training_place
from tenfold.training.result import device_name

RESULT = Path(__file__).with_name("mixing.json")
BLOCKS = ("layer1.5", "layer2.2", "layer2.3", "layer2.5", "layer2.7", "layer2.8")  # of CIFAR-10's
CIFAR, FASHION = "cifar10", "fashion_mnist"
CUT = {CIFAR: Prune(ratio=0.0, blocks=BLOCKS), FASHION: Prune(ratio=0.0, blocks=13, examples=256)}


def task_of(data: str, images: int) -> Task:
    """The network trained on these data, and so many of its training images."""
    if data == CIFAR:
        return resnet56(images)
    model, base = load_network("zoo:resnet56_fashion_mnist")
    splits = fashion_mnist()
    return task_from(model, replace(splits, train=splits.train.take(images)), base=base)


@torch.no_grad()
def accuracy_on(model: nn.Module, split: Split, place: torch.device) -> float:
    """The share of a split that is told right."""
    model.to(place).eval()
    right = sum(int((model(x.to(place)).argmax(1).cpu() == y).sum()) for _, x, y in split.batches(500))
    model.cpu()
    return right / len(split)


def healed(data: str, images: int, passes: float, mixing: bool, place: torch.device) -> dict[str, Any]:
    """One healing, and what is left after it."""
    task = task_of(data, images)
    run = Run(teacher=task.model, train_on=place)
    cut = CUT[data].apply(task.model, task, run).model
    made = Distill(epochs=passes, mixing=mixing).apply(cut, task, run)
    splits = {"validation": task.validation, "test": task.test}
    original = {name: accuracy_on(task.model, split, place) for name, split in splits.items()}
    found = {name: accuracy_on(made.model, split, place) for name, split in splits.items()}
    known = ("steps", "batch_size", "step_seconds", "precision", "seconds")
    return {
        "data": data, "images": len(task.train), "passes": passes, "mixed": mixing, **found,
        "would_mix": answers_mixed(TeacherOutputs(task.model, task.train, device=place), task.train),
        "points_lost": {name: 100 * (original[name] - found[name]) for name in splits},
        **{name: made.resolved[name] for name in known}, "device": device_name(place),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=list(CUT), default=CIFAR)
    parser.add_argument("--images", type=int, default=50_000, help="at most all that there are")
    parser.add_argument("--passes", type=float, nargs="+", default=[6.0, 18.0])
    options = parser.parse_args()
    place = training_place()
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    rows = known["rows"]
    for passes in options.passes:
        for mixing in (False, True):
            row = healed(options.data, options.images, passes, mixing, place)
            rows = [r for r in rows if [r[k] for k in ROW] != [row[k] for k in ROW]] + [row]
            lost = row["points_lost"]
            how = "mixed" if mixing else "plain"
            print(
                f"{row['data']}, {row['images']} images, {passes:g} passes, {how}: {lost['test']:.2f} points lost "
                f"({lost['validation']:.2f} on validation), {1e3 * row['step_seconds']:.1f} ms a step",
                flush=True,
            )
            write_result(RESULT, {**known, "rows": rows})


ROW = ("data", "images", "passes", "mixed", "device")

if __name__ == "__main__":
    main()
