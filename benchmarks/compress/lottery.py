"""Lottery tickets: iterative magnitude pruning with rewinding, beside random values and random places of the same size.

    python -m benchmarks.compress.lottery                              # LeNet-300-100 on the sample: five minutes
    TENFOLD_DATA=FOLDER python -m benchmarks.compress.lottery --network resnet20 --device cuda

The first is the network of Frankle and Carbin (2019) on the 10,000 training images that ship; its tickets go back to
the first step. ResNet-20 trains on CIFAR-10 and goes back to where it was after a twentieth of its steps (Frankle et
al., 2020). Three seeds; nothing is chosen by a score, so that the test images are all that is scored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import print_table, write_result
from torch import nn

from tenfold.compress.prune import Kind, lottery
from tenfold.data import Splits, load_data
from tenfold.data.cifar10 import cifar10
from tenfold.files import write_json
from tenfold.models import create
from tenfold.training import Augmentation, Course, Precision, Sgd, TrainingRecipe
from tenfold.training.resident import ResidentImages
from tenfold.training.scoring import right_answers

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Experiment:
    """A network drawn from torch's generator, its data and recipe, and the share of the steps to go back to."""

    build: Callable[[], nn.Module]
    data: Callable[[], Splits]
    recipe: TrainingRecipe
    rewind: float
    rounds: int
    cut: float
    controls: tuple[int, ...]


def lenet() -> nn.Module:
    """(N, 1, 28, 28) -> (N, 10) by hidden layers of 300 and 100."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


PLAIN = TrainingRecipe(
    epochs=20, batch_size=64, optimizer=Sgd(0.05, 0.9, 1e-4), augmentation=Augmentation(padding=0, flip=False)
)
EXPERIMENTS = {
    "lenet-300-100": Experiment(lenet, lambda: load_data("tenfold.data:fashion_mnist"), PLAIN, 0.0, 5, 0.6, (1, 2, 3, 4, 5)),
    "resnet20": Experiment(
        lambda: create("resnet20", num_classes=10), cifar10,
        TrainingRecipe(epochs=30, batch_size=256, optimizer=Sgd(0.3, 0.9, 5e-4), augmentation=Augmentation(padding=4, flip=True)),
        0.05, 4, 0.6, (2, 4)),
}  # fmt: skip


def drawn(
    experiment: Experiment, seed: int, data: dict[str, ResidentImages], precision: Precision
) -> list[dict[str, Any]]:
    """The tickets and controls of one seed, in order."""
    device = data["train"].device
    course = Course(data["train"], experiment.recipe, precision=precision, seed=seed)

    def build(offset: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * offset + seed)
            return experiment.build().to(device)

    def score(model: nn.Module) -> float:
        return right_answers(model, data["test"], Precision(channels_last=precision.channels_last)) / len(
            data["test"]
        )

    tickets = lottery(
        build(0), course, score, steps=course.steps, rewind=round(experiment.rewind * course.steps),
        rounds=experiment.rounds, cut=experiment.cut, controls=experiment.controls, fresh=lambda: build(1), seed=seed,
    )  # fmt: skip
    rows = []
    for ticket in tickets:
        rows.append(
            {
                "kind": ticket.kind.value,
                "round": ticket.round,
                "density": ticket.density,
                "score": ticket.score,
            }
        )
        print(
            f"seed {seed}: {ticket.kind.value}, {ticket.density:.1%} of the weights: {ticket.score:.4f}",
            flush=True,
        )
    return rows


def summary(by_seed: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Mean and range over seeds, and how far the ticket lies above each control, pair by pair."""
    rows = []
    for index, first in enumerate(by_seed[0]):
        scores = [seed[index]["score"] for seed in by_seed]
        row = {k: first[k] for k in ("kind", "round", "density")}
        row |= {"scores": scores, "mean": statistics.mean(scores), "drop": statistics.mean(s[0]["score"] - s[index]["score"] for s in by_seed)}  # fmt: skip
        if first["kind"] not in (Kind.DENSE.value, Kind.TICKET.value):
            tickets = [next(r["score"] for r in s if r["round"] == first["round"] and r["kind"] == Kind.TICKET.value) for s in by_seed]  # fmt: skip
            row["ticket_above"] = [a - b for a, b in zip(tickets, scores, strict=True)]
        rows.append(row)
    return rows


def show(name: str, rows: list[dict[str, Any]]) -> None:
    table = [
        [
            row["kind"],
            f"{100 * row['density']:.1f}%",
            f"{100 * row['mean']:.2f}",
            ", ".join(f"{100 * s:.2f}" for s in row["scores"]),
            ", ".join(f"{100 * s:+.2f}" for s in row.get("ticket_above", [])),
        ]
        for row in rows
    ]
    print_table(name, ["begins as", "weights", "mean accuracy %", "by seed", "ticket above it by"], table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=list(EXPERIMENTS), default="lenet-300-100")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, help="instead of the experiment's")
    parser.add_argument("--folder", type=Path, default=Path("runs/lottery"), help="what is found goes here")
    parser.add_argument("--result", type=Path, help="by default lottery_NETWORK.json beside this script")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    experiment, device = EXPERIMENTS[options.network], torch.device(options.device)
    if options.epochs is not None:
        experiment = replace(experiment, recipe=replace(experiment.recipe, epochs=options.epochs))
    on_gpu = device.type == "cuda"
    splits = experiment.data()
    padding = experiment.recipe.augmentation.padding
    data = {
        name: ResidentImages.of(split, device, name, padding if name == "train" else 0)
        for name, split in (("train", splits.train), ("test", splits.test))
    }
    by_seed, seconds = [], 0.0
    for seed in options.seeds:
        path = options.folder / f"{options.network}-{seed}.json"
        if not path.exists():
            began = time.monotonic()
            rows = drawn(experiment, seed, data, Precision(channels_last=on_gpu, bf16=on_gpu))
            write_json(path, {"rows": rows, "seconds": time.monotonic() - began})
        found = json.loads(path.read_text())
        by_seed.append(found["rows"])
        seconds += found["seconds"]
    rows = summary(by_seed)
    show(options.network, rows)
    figures = {
        "network": options.network,
        "train_images": len(data["train"]),
        "test_images": len(data["test"]),
        "recipe": experiment.recipe.to_dict(),
        "rewind_share": experiment.rewind,
        "cut": experiment.cut,
        "seeds": options.seeds,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "seconds": seconds,
        "rows": rows,
    }
    write_result(options.result or HERE / f"lottery_{options.network.replace('-', '_')}.json", figures)


if __name__ == "__main__":
    main()
