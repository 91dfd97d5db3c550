"""Compound scaling on CIFAR-10: a grid search for α, β, γ, and the rules compared at equal cost.

    PYTHONPATH=src:. python -m benchmarks.scaling.cifar10 plan
    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.scaling.cifar10 work --folder runs/scaling
    PYTHONPATH=src:. python -m benchmarks.scaling.cifar10 report --folder runs/scaling

The base is MobileNetV2 at half its width on images of 20 pixels, made from those of 32, so that a higher resolution
shows more and does not only enlarge. `plan` counts which networks cost as much (a minute or two on one core) and
writes `plan.json`. Any number of `work` processes may run at once, on one or several GPUs: each takes the next point
that nobody has taken. `report` writes `cifar10.json` and `cifar10.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tenfold.data.cifar10 import cifar10
from tenfold.files import write_json
from tenfold.models.scaling import (
    FEWEST_POINTS,
    Rule,
    Scaled,
    depth_only,
    resolution_only,
    rule_grid,
    scale,
    scale_to,
    spread,
    width_only,
)
from tenfold.training import Augmentation, Sgd, TrainingRecipe
from tenfold.training.recipes import Compiling
from tenfold.training.rules import trained_score

HERE = Path(__file__).parent
BASE, SIDE, LARGEST = "mobilenet_v2", 20, 32
OPTIONS = {"num_classes": 10, "in_channels": 3, "resolution": SIDE, "width": 0.5, "dropout": 0.0}
GROWTH, STEP = 2.0, 0.1  # of the grid search
SEEDS = (0, 1, 2)
RECIPE = TrainingRecipe(
    epochs=20,
    batch_size=256,
    optimizer=Sgd(0.2, 0.9, 5e-4),
    warmup=0.1,
    augmentation=Augmentation(padding=2, flip=True),
    average=0.998,
    compile=Compiling.OFF,  # a point takes less time than compiling does
)
FOUND = "found rule"


def plan() -> None:
    """Count what costs the same."""
    start = scale(BASE, 0.0, **OPTIONS)
    # The cost at which the rules are compared is what the images' own resolution costs.
    wanted = scale(BASE, 1.0, 1.0, 1.0, LARGEST / SIDE, **OPTIONS).macs
    rules = {
        "base": start,
        "compound (1.2, 1.1, 1.15)": scale_to(BASE, wanted, **OPTIONS),
        "depth only": depth_only(BASE, wanted, **OPTIONS),
        "width only": width_only(BASE, wanted, **OPTIONS),
        "resolution only": resolution_only(BASE, wanted, **OPTIONS),
    }
    grid = spread(rule_grid(start, GROWTH, 0.1, STEP), FEWEST_POINTS)
    write_json(
        HERE / "plan.json",
        {
            "wanted_macs": wanted,
            "rules": {name: plain(scaled) for name, scaled in rules.items()},
            "grid": [plain(scaled) for scaled in grid],
        },
    )


def plain(scaled: Scaled) -> dict[str, Any]:
    """A scaled network as plain data, with its counts."""
    return asdict(scaled) | {"params": scaled.params, "macs": scaled.macs}


def read(stored: dict[str, Any]) -> Scaled:
    """The inverse of `plain`."""
    values = {key: value for key, value in stored.items() if key not in ("params", "macs")}
    return Scaled(**values | {"rule": Rule(**values["rule"])})


def points(folder: Path) -> list[tuple[str, dict[str, Any], int]]:
    """Every point as key, network and seed: the grid, the rules, and what the grid found as soon as it is done."""
    made = json.loads((HERE / "plan.json").read_text())
    found = [(f"grid-{index}", network, 0) for index, network in enumerate(made["grid"])]
    for seed in SEEDS:  # a run that is cut short then has whole seeds
        found += [(f"{name}-{seed}", network, seed) for name, network in made["rules"].items()]
    if all((folder / f"grid-{index}.json").is_file() for index in range(len(made["grid"]))):
        network = found_network(made, folder)
        found += [(f"{FOUND}-{seed}", network, seed) for seed in SEEDS]
    return found


def found_network(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The network of the grid's best rule at the cost that the other rules have; counted once."""
    kept = folder / "found" / "network.json"
    if not kept.is_file():
        scores = [
            json.loads((folder / f"grid-{index}.json").read_text())["validation"]
            for index in range(len(made["grid"]))
        ]
        best = made["grid"][max(range(len(scores)), key=scores.__getitem__)]
        write_json(kept, plain(scale_to(BASE, made["wanted_macs"], Rule(**best["rule"]), **OPTIONS)))
    return json.loads(kept.read_text())


def work(folder: Path, device: str, seconds: float, epochs: float, examples: int) -> None:
    """Take points that nobody has taken until none is left or no time for another."""
    deadline = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    data, longest = cifar10(), 0.0
    if examples:
        data = replace(
            data,
            train=data.train.take(examples),
            validation=data.validation.take(examples),
            test=data.test.take(examples) if data.test else None,
        )
    grid = len(json.loads((HERE / "plan.json").read_text())["grid"])
    while time.monotonic() + longest < deadline:
        known = points(folder)
        taken = next((point for point in known if claimed(folder, point[0])), None)
        if taken is None:
            if len(known) > grid + len(SEEDS) * 5:
                break
            time.sleep(1.0)  # others still train the grid
            continue
        key, network, seed = taken
        started = time.monotonic()
        trained_score(
            read(network), data, replace(RECIPE, epochs=epochs), device=device, seed=seed, folder=folder / key
        )
        (stored,) = (folder / key).glob("*.json")
        result = json.loads(stored.read_text())
        longest = max(longest, time.monotonic() - started)
        score = {split: result[split]["value"] for split in ("validation", "test")}
        write_json(
            folder / f"{key}.json",
            score
            | {"key": key, "seed": seed, "epochs": epochs, "network": network, "seconds": longest}
            | {
                "device": torch.cuda.get_device_name() if device == "cuda" else device,
                "torch": torch.__version__,
            },
        )
        print(f"{key}: {score} in {time.monotonic() - started:.0f} s", flush=True)


def claimed(folder: Path, key: str) -> bool:
    """Whether this process is the first to take the point."""
    try:
        (folder / f"{key}.taken").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def report(folder: Path, out: Path) -> None:
    """The result file and its picture."""
    made = json.loads((HERE / "plan.json").read_text())
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    grid = [one for one in results if one["key"].startswith("grid-")]
    names = list(dict.fromkeys(one["key"].rpartition("-")[0] for one in results if one not in grid))
    rules = {}
    for name in sorted(names, key=[*made["rules"], FOUND].index):
        runs = [one for one in results if one["key"].rpartition("-")[0] == name]
        tests = [one["test"] for one in runs]
        rules[name] = {
            "network": runs[0]["network"],
            "test": tests,
            "validation": [one["validation"] for one in runs],
            "mean_test": statistics.mean(tests),
            "sd_test": statistics.stdev(tests) if len(tests) > 1 else None,
        }
    grid.sort(key=lambda one: -one["validation"])
    found = {
        "base": BASE,
        "options": OPTIONS,
        "epochs": results[0]["epochs"],
        "recipe": RECIPE.to_dict(),
        "wanted_macs": made["wanted_macs"],
        "rules": rules,
        "grid": {"growth": GROWTH, "points": grid},
        "devices": sorted({f"{one['device']}, torch {one['torch']}" for one in results}),
    }
    write_json(out / "cifar10.json", found)
    for name, rule in rules.items():
        spread_ = "" if rule["sd_test"] is None else f" ± {100 * rule['sd_test']:.2f}"
        print(f"{name:28} {rule['network']['macs'] / 1e6:6.1f} M {100 * rule['mean_test']:.2f}{spread_}")
    for one in grid:
        print(one["network"]["rule"], f"{one['network']['macs'] / 1e6:.1f} M", one["validation"], one["test"])
    draw(found, out / "cifar10.png")


def draw(found: dict[str, Any], path: Path) -> None:
    """Accuracy by rule, and the grid by what its points spend on depth, width and resolution."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for place, rule in enumerate(found["rules"].values()):
        left.plot([place] * len(rule["test"]), [100 * x for x in rule["test"]], "o", color="0.6")
        left.plot(place, 100 * rule["mean_test"], "_", markersize=22, color="C0")
    names = [f"{name}\n{rule['network']['macs'] / 1e6:.1f} M MACs" for name, rule in found["rules"].items()]
    left.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    left.set_ylabel("test accuracy, %")
    left.set_title("CIFAR-10, by seed, at nearly equal cost (the base costs less)", fontsize=9)
    grid = found["grid"]["points"]
    shares = [one["network"]["rule"] for one in grid]
    picture = right.scatter(
        [share["alpha"] for share in shares],
        [share["beta"] ** 2 for share in shares],
        c=[100 * one["validation"] for one in grid],
        s=90,
    )
    for share in shares:
        right.annotate(
            f"γ={share['gamma']:.2f}", (share["alpha"], share["beta"] ** 2), fontsize=7,
            xytext=(4, 4), textcoords="offset points",
        )  # fmt: skip
    right.set_xlabel("depth, α")
    right.set_ylabel("width, β²")
    right.set_title("grid search at twice the base's cost", fontsize=9)
    figure.colorbar(picture, ax=right, label="validation accuracy, %")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("step", choices=("plan", "work", "report"))
    parser.add_argument("--folder", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of a worker")
    parser.add_argument("--epochs", type=float, default=RECIPE.epochs)
    parser.add_argument("--examples", type=int, default=0, help="of each split, to try the script")
    options = parser.parse_args()
    torch.set_num_threads(max(1, min(4, os.cpu_count() or 1)))
    if options.step == "plan":
        plan()
    elif options.step == "work":
        work(options.folder, options.device, options.seconds, options.epochs, options.examples)
    else:
        report(options.folder, options.out)


if __name__ == "__main__":
    main()
