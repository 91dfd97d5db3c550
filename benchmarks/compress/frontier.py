"""`shrink` with everything beside every technique alone, in the same time: does its frontier dominate them all?

    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.compress.frontier resnet56 [--seconds 300]
    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.compress.frontier efficientnet_lite0
    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.compress.frontier resnet56 --images 20000 --name gpu

Where there is a GPU, everything heals on it; files are timed on the processor. With `--only` a part is made and
nothing compared, so that parts can be made side by side; with `--beside` some of the techniques alone are compared.
Each technique gets as many seconds as the run of `shrink`, and heals for what is left of them where it heals. All
artefacts are scored on the test images through ONNX Runtime and timed in one interleaved run. A technique is dominated
where a point of the frontier is smaller or faster, and neither larger, slower nor worse: by the 95% intervals of the
paired ratio of latencies and of the paired difference of scores, and by more than a file differs from itself, which
two are timed twice for. It is matched where the point is neither smaller nor faster by so much, as where `shrink`
makes the same.
Writes `frontier_NETWORK.json`; what was made is kept in the folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import int8_note, name_of, print_table, write_result
from benchmarks.compress.resnet56 import right_answers
from benchmarks.compress.techniques import kept
from torch import nn

import tenfold
from tenfold.compress import Run, Technique, find_recipe, load_network
from tenfold.compress.distill import Distill
from tenfold.compress.factorize import Factorize
from tenfold.compress.factorize import Share as Part
from tenfold.compress.prune import Prune, Scope
from tenfold.compress.quantize import Quantize, QuantizeWeights
from tenfold.compress.shorten import Shorten
from tenfold.cost import cpu_count, measure, paired_difference_interval, ratio
from tenfold.data import Splits, Task, task_from
from tenfold.data.cifar10 import cifar10
from tenfold.deploy import OnnxRunner, deploy_onnx
from tenfold.errors import TenfoldError
from tenfold.search.frontier import TIE
from tenfold.training import training_place
from tenfold.training.result import device_name

HERE = Path(__file__).resolve().parent
TRAINING = 2_000  # images of CIFAR-10 to learn from, since a processor has minutes
SHRINK = "shrink"
AT_LEAST_S = 5.0  # of healing, however long the technique took
ORIGINAL, INTEGERS = "original", "INT8, static"
TWICE = (ORIGINAL, INTEGERS)  # timed
SAME_SIZE = 0.001  # of the bytes

# A technique, and whether it is healed afterwards.
SINGLE: dict[str, tuple[Technique, bool]] = {
    INTEGERS: (Quantize(), False),
    "4-bit weights, groups of 32, GPTQ": (QuantizeWeights(4), False),
    "half of the MACs pruned, healed": (Prune(target_macs=0.5, scope=Scope.GLOBAL), True),
    "a third of the MACs kept, healed": (Prune(target_macs=1 / 3, scope=Scope.GLOBAL), True),
    "half of the weights factorised away, healed": (Factorize(Part(0.5)), True),
    "two thirds of each stack, healed": (Shorten(2 / 3), True),
}


def resnet56(images: int) -> Task:
    """So many of CIFAR-10's training images; 2,000 of its test images validate, 8,000 are the test."""
    model, base = load_network("zoo:resnet56_cifar10")
    splits = cifar10(whole=True)
    return task_from(model, replace(splits, train=splits.train.take(images)), base=base)


def efficientnet_lite0(images: int) -> Task:
    """100 photos to calibrate and heal with, 150 to search by, 250 to test on."""
    from benchmarks.efficientnet_lite0.factory import data

    model, base = load_network("zoo:efficientnet_lite0")
    return task_from(model, Splits(**data()), base=base)


NETWORKS: dict[str, Callable[[int], Task]] = {"resnet56": resnet56, "efficientnet_lite0": efficientnet_lite0}


@dataclass(frozen=True)
class Asked:
    """What `shrink` is asked for: the share of the bytes in fp32 (any, at 0), the loss, what is to be least, and recipes
    that become points too."""

    share: float
    drop: float
    minimize: str
    recipes: tuple[str, ...] = ()

    def budget(self, model: nn.Module) -> tenfold.Budget:
        size = self.share * sum(4 * p.numel() for p in model.parameters()) / 1e6
        return tenfold.Budget(size_mb=size or None, max_drop=self.drop)


def everything(task: Task, seconds: float, folder: Path, asked: Asked) -> dict[str, Any]:
    """Run `shrink`; the points of its frontier and their files."""
    budget = asked.budget(task.model)
    recipes = {name: find_recipe(name) for name in asked.recipes}
    frontier = tenfold.shrink(
        task, budget, out=folder, minimize=asked.minimize, time_limit=seconds, recipes=recipes
    )
    points = json.loads((folder / "frontier.json").read_text())["points"]
    files = {
        point["label"]: str(folder / point["artifact"] / "model.onnx")
        for point in points
        if point["artifact"]
    }
    return {
        "files": {k: v for k, v in files.items() if Path(v).exists()},
        "notes": frontier.sections["notes"],
        "trained_on": frontier.sections["provenance"]["train_on"],
    }


def alone(technique: Technique, heals: bool, task: Task, seconds: float, path: Path) -> dict[str, Any]:
    """One technique within the time; where its file is, or why there is none."""
    began, place = time.monotonic(), training_place()
    run = Run(teacher=task.model, train_on=place)
    try:
        model = technique.apply(task.model, task, run).model
        left = max(AT_LEAST_S, seconds - (time.monotonic() - began))
        if heals:
            model = Distill(seconds=left).apply(model, task, run).model
        deploy_onnx(model, task.example(2), path)
    except TenfoldError as error:
        return {"refused": str(error), "trained_on": device_name(place)}
    return {"file": str(path), "trained_on": device_name(place) if heals else None}


def scored(file: str, task: Task) -> dict[str, Any]:
    right = right_answers(OnnxRunner(Path(file), threads=cpu_count()), task)
    return {"bytes": Path(file).stat().st_size, "score": float(right.double().mean()), "right": right.int().tolist()}  # fmt: skip


def made(
    task: Task, seconds: float, folder: Path, asked: Asked, only: list[str]
) -> dict[str, dict[str, Any]]:
    """The run of `shrink` and each technique alone, as far as `only` names them, or as they were made before."""
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        SHRINK: partial(everything, task, seconds, folder / "run", asked)
    }
    for number, (technique, heals) in enumerate(SINGLE.values()):
        path = folder / f"alone-{number}.onnx"
        makers[str(number)] = partial(alone, technique, heals, task, seconds, path)
    found = {}
    for name in only:
        found[name] = kept(folder / f"made-{name}.json", makers[name])
        print(f"{name}: {found[name].get('refused', 'made')} in {found[name]['seconds']:.0f} s", flush=True)
    return found


def compared(
    name: str, task: Task, parts: dict[str, dict[str, Any]], folder: Path, timing: float
) -> dict[str, Any]:
    """All artefacts, and which of the techniques the frontier dominates."""
    if not (folder / f"{ORIGINAL}.onnx").exists():
        deploy_onnx(task.model, task.example(2), folder / f"{ORIGINAL}.onnx")
    files = {ORIGINAL: str(folder / f"{ORIGINAL}.onnx")}
    named = {title: parts[str(n)] for n, title in enumerate(SINGLE) if str(n) in parts}
    files |= {title: part["file"] for title, part in named.items() if "file" in part}
    refused = {title: part["refused"] for title, part in named.items() if "refused" in part}
    whole = parts[SHRINK]
    if len({part["trained_on"] for part in parts.values()} - {None}) > 1:
        raise SystemExit("the parts were not all trained on the same kind of device: make them anew")
    took = {SHRINK: whole["seconds"], **{title: part["seconds"] for title, part in named.items()}}
    points = {f"shrink: {label}": file for label, file in whole["files"].items()}
    every = {**files, **points}
    figures = {
        title: kept(folder / f"scored-{name_of(title)}.json", partial(scored, file, task))
        for title, file in every.items()
    }
    image = task.example(1)
    timed = every | {f"{title}, again": every[title] for title in TWICE}
    timings = measure(
        {t: partial(OnnxRunner(Path(file)), image) for t, file in timed.items()}, seconds=timing, min_runs=20
    )
    same = [ratio(timings[title], timings[f"{title}, again"]) for title in TWICE]
    apart = max(max(r.high, 1 / r.low) - 1 for r in same)  # how far a file is from itself
    right_of = {t: torch.tensor(one.pop("right"), dtype=torch.bool).numpy() for t, one in figures.items()}
    rows: dict[str, dict[str, Any]] = {}
    for title, one in figures.items():
        rows[title] = {
            **{key: one[key] for key in ("bytes", "score")},
            "drop": paired_difference_interval(right_of[ORIGINAL], right_of[title]).to_json(),
            "median_ms": timings[title].median_ms,
            "times_faster": ratio(timings[ORIGINAL], timings[title]).to_json(),
            "times_smaller": rows[ORIGINAL]["bytes"] / one["bytes"] if rows else 1.0,
        }

    def matches(one: str, other: str) -> bool:
        """Neither larger (by more than names in a file are), slower nor worse."""
        slower = ratio(timings[one], timings[other])
        worse = paired_difference_interval(right_of[other], right_of[one])
        larger = rows[one]["bytes"] > rows[other]["bytes"] * (1 + SAME_SIZE)
        return bool(not larger and slower.low <= 1 + apart and worse.low <= 0)

    def dominates(one: str, other: str) -> bool:
        """It matches, and is smaller or faster."""
        smaller = rows[one]["bytes"] < rows[other]["bytes"] * (1 - SAME_SIZE)
        faster = ratio(timings[one], timings[other]).high < 1 - max(TIE, apart)
        return matches(one, other) and bool(smaller or faster)

    for title in SINGLE:
        if title in rows:
            rows[title]["matched_by"] = [point for point in points if matches(point, title)]
            rows[title]["dominated_by"] = [point for point in points if dominates(point, title)]
    return {
        "network": f"zoo:{name}", "training_images": len(task.train), "test_images": len(right_of[ORIGINAL]),
        "trained_on": whole["trained_on"], "took": took, "rows": rows, "refused": refused,
        "same_file_apart": apart, "shrink_notes": whole["notes"], "cpu": int8_note(), "threads": torch.get_num_threads(),
    }  # fmt: skip


def show(figures: dict[str, Any]) -> None:
    def verdict(row: dict[str, Any]) -> str:
        if "dominated_by" not in row:
            return ""
        return "yes" if row["dominated_by"] else "matched" if row["matched_by"] else "NO"

    table = [
        [
            title,
            f"{row['times_smaller']:.2f}×",
            f"{row['times_faster']['value']:.2f}×",
            f"{100 * row['drop']['value']:.2f}",
            verdict(row),
        ]
        for title, row in figures["rows"].items()
    ]
    title = f"{figures['network']}, {figures['seconds_each']:.0f} s each, trained on {figures['trained_on']}"
    print_table(title, ["artefact", "smaller", "faster", "points lost", "dominated"], table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=300.0, help="for shrink, and for each technique")
    parser.add_argument(
        "--share", type=float, default=0.2, help="of the bytes in fp32: the budget of shrink; 0 sets no limit"
    )
    parser.add_argument("--drop", type=float, default=0.02, help="that shrink may lose, a share")
    parser.add_argument(
        "--minimize", choices=["latency", "size"], default="latency", help="what shrink makes least"
    )
    parser.add_argument("--timing", type=float, default=40.0, help="seconds for the timings")
    parser.add_argument("--folder", type=Path, default=Path("runs/frontier"), help="for what is made")
    parser.add_argument("--images", type=int, default=TRAINING, help="of CIFAR-10 to learn from")
    parser.add_argument("--name", help="ends the name of the result file")
    parser.add_argument(
        "--recipe", nargs="*", default=[], help="shipped ones, that shrink makes points of as well"
    )
    parts = [SHRINK, *(str(number) for number in range(len(SINGLE)))]
    parser.add_argument(
        "--beside", nargs="+", choices=parts[1:], default=parts[1:], help="techniques, by number"
    )
    parser.add_argument("--only", nargs="+", choices=parts, help="make these alone, by number, and end")
    options = parser.parse_args()
    if options.network != "resnet56" and options.images != TRAINING:
        parser.error("--images is for resnet56; the photos are as many as they are")
    name = f"{options.network}-{options.seconds:g}-{options.share:g}-{options.drop:g}-{options.images}"
    name += "" if options.minimize == "latency" else f"-{options.minimize}"
    name += "" if options.name is None else f"-{options.name}"
    name += "".join(f"-{recipe}" for recipe in options.recipe)
    folder = (options.folder / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    task = NETWORKS[options.network](options.images)
    asked = Asked(options.share, options.drop, options.minimize, tuple(options.recipe))
    found = made(task, options.seconds, folder, asked, options.only or [SHRINK, *options.beside])
    if options.only is not None:
        return
    figures = {
        "seconds_each": options.seconds,
        "budget": {"share_of_bytes": options.share or None, "max_drop": options.drop},
        "minimize": options.minimize,
        "recipes": options.recipe,
    }
    figures |= compared(options.network, task, found, folder, options.timing)
    show(figures)
    end = "" if options.name is None else f"_{options.name}"
    write_result(HERE / f"frontier_{options.network}{end}.json", figures)


if __name__ == "__main__":
    main()
