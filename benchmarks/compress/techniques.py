"""What each technique brings on the network that ships: bytes, speed and score, the trivial baseline beside it.

    python -m benchmarks.compress.techniques [--missing]

With `--missing` rows that the result file lacks are made and timed in a run of their own, beside the original, and join
the others.
The ResNet-56 of the sample, healed for one pass over 5,000 training images where a row says so: short, so that the
rows compare techniques; `tenfold shrink` heals longer. Everything is scored on the same test images through ONNX
Runtime, reloaded in a fresh process, and timed in one interleaved run. `tenfold techniques` prints the result file.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from benchmarks.common import fresh_answer, int8_note, name_of, print_table, write_result
from torch import Tensor, nn

from tenfold.compress import Run, Step, Technique, load_network, save, technique_to_dict
from tenfold.compress.changes import rounded_to
from tenfold.compress.distill import Distill, Matching
from tenfold.compress.factorize import Factorize, Kernels, Vbmf
from tenfold.compress.factorize import Share as Part
from tenfold.compress.factorize.candidates import candidates
from tenfold.compress.factorize.factorization import replace
from tenfold.compress.factorize.structure import channels, factorised, is_matrix, positions
from tenfold.compress.layers import weighted_layers
from tenfold.compress.prune import Criterion, Free, Prune, Saliency, Scope, Sparsify, TwoOfFour
from tenfold.compress.quantize import (
    Average,
    Learned,
    Mode,
    Nearest,
    Observer,
    Quantize,
    QuantizeWeights,
    Unit,
)
from tenfold.compress.share import Partition, Product, Scalar, Share, Tie
from tenfold.compress.share.tying import stacks_of
from tenfold.compress.shorten import Shorten, without
from tenfold.cost import call, environment, measure, paired_difference_interval, ratio
from tenfold.data import Task, load_data, task_from
from tenfold.deploy import OnnxRunner, deploy_onnx, verify
from tenfold.files import write_json
from tenfold.training import Transfer

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parents[1] / "src" / "tenfold" / "compress" / "measured" / "techniques.json"
NETWORK, DATA, RUNTIME = "zoo:resnet56_fashion_mnist", "tenfold.data:fashion_mnist", "ONNX Runtime"
SCORED = 2000  # test images
ORIGINAL = "original"
HEAL = Distill(
    epochs=1, examples=5000, batch_size=32
)  # in batches of 128 there would be no more than 39 steps

Made = tuple[nn.Module, tuple[Step, ...]]


@dataclass(frozen=True)
class Row:
    """A technique in a variant: its steps, and the trivial way to the same size as steps or as a function."""

    technique: str
    variant: str
    steps: tuple[Technique, ...]
    baseline_text: str
    baseline: tuple[Technique, ...] | Callable[[Task], nn.Module]


def uniform_ranks(task: Task) -> nn.Module:
    """Every layer factorised to about half of its weights by the same share of its ranks, then healed alike."""
    model, _ = load_network(NETWORK)
    for candidate in candidates(model, task.zeros(2))[0]:
        layer, (into, out) = candidate.layer, channels(candidate.layer)
        if is_matrix(layer):
            ranks: tuple[int, ...] = (max(1, into * out // (2 * (into + out))),)
        else:
            a, b = into * out * positions(layer), into**2 + out**2
            share = (-b + (b * b + 2 * a * a) ** 0.5) / (2 * a)
            ranks = (max(1, round(share * into)), max(1, round(share * out)))
        if ranks[0] < into:
            replace(model, candidate.name, factorised(layer, ranks))
    return HEAL.apply(model, task, Run(teacher=task.model)).model


def rounded(task: Task) -> nn.Module:
    """Weights rounded to the nearest of 15 even steps a channel, with no table to keep but a scale."""
    model, _ = load_network(NETWORK)
    for layer in weighted_layers(model).values():
        layer.weight.data = rounded_to(4)(layer.weight.detach())
    return model


def first_layers(task: Task) -> nn.Module:
    """As many layers of each stack as `Shorten` keeps, the first ones, healed alike."""
    model, _ = load_network(NETWORK)
    gone = []
    for _, layers in stacks_of(model):
        gone += layers[max(1, round(0.667 * len(layers))) :]
    return HEAL.apply(without(model, gone)[0], task, Run(teacher=task.model)).model


def plain(bits: int) -> QuantizeWeights:
    """Rounding to nearest in groups of 32, with nothing learnt from data."""
    return QuantizeWeights(bits, observer=Observer.MINMAX, rounding=Nearest(), bias_correction=False)


HALF = Prune(target_macs=0.5, scope=Scope.GLOBAL)
SPARSE = Free(0.9)
LEVEL = Free(0.5, Scope.UNIFORM)
ROWS = (
    Row("quantize", "INT8, static", (Quantize(),), "no bias correction", (Quantize(bias_correction=False),)),
    Row("quantize-weights", "4 bits, groups of 32, GPTQ", (QuantizeWeights(4),), "rounded to nearest", (plain(4),)),
    Row("share", "16 values a layer, not healed", (Share(Scalar(4)),), "rounded to 15 even steps", rounded),
    Row("sparsify", "2:4 permuted, not healed", (Sparsify(TwoOfFour()),), "in the order as it is", (Sparsify(TwoOfFour(permute=False)),)),
    Row("prune", "half of the MACs, Taylor, healed", (HALF, HEAL), "channels drawn at random, healed",
        (Prune(target_macs=0.5, scope=Scope.GLOBAL, criterion=Criterion.RANDOM), HEAL)),
    Row("distill", "heals half of the MACs cut", (HALF, HEAL), "trained on the labels alone", (HALF, Distill(epochs=1, examples=5000, batch_size=32, alpha=1.0))),
    Row("shorten", "two thirds of each stack, healed", (Shorten(0.667), HEAL), "the first two thirds, healed", first_layers),
    Row("sparsify", "90% by magnitude, healed", (Sparsify(SPARSE, epochs=1),), "at random, healed",
        (Sparsify(SPARSE, Saliency.RANDOM, epochs=1),)),
    Row("factorize", "half of the weights, healed", (Factorize(Part(0.5)), HEAL), "the same share of every rank, healed", uniform_ranks),
    Row("tie", "3 layers a stack, nearest, healed", (Tie(3), HEAL), "groups of equal size, healed", (Tie(3, partition=Partition.EVEN), HEAL)),
    Row("quantize-weights", "3 bits, groups of 32, learned by block", (QuantizeWeights(3, rounding=Learned()),), "rounded to nearest", (plain(3),)),
    Row("quantize-weights", "2 bits, groups of 32, trained", (QuantizeWeights(2, epochs=1),), "not trained", (QuantizeWeights(2),)),
    Row("sparsify", "half, OBS, not healed", (Sparsify(LEVEL, Saliency.OBS),), "by magnitude", (Sparsify(LEVEL),)),
    Row("share", "256 vectors of 4, fine-tuned", (Share(Product(4, 256), epochs=1),), "not fine-tuned", (Share(Product(4, 256)),)),
    Row("sparsify", "half, OBD, not healed", (Sparsify(Free(0.5), Saliency.FISHER),), "by magnitude", (Sparsify(Free(0.5)),)),
    Row("prune", "half of the MACs, Fisher, healed", (Prune(target_macs=0.5, scope=Scope.GLOBAL, criterion=Criterion.FISHER), HEAL),
        "every layer alike, by magnitude, healed", (Prune(target_macs=0.5, criterion=Criterion.MAGNITUDE), HEAL)),
    Row("quantize", "INT8, dynamic", (Quantize(mode=Mode.DYNAMIC),), "no bias correction", (Quantize(mode=Mode.DYNAMIC, bias_correction=False),)),
    Row("quantize", "INT8, static, stored in 4 bits", (Quantize(stored_bits=4),), "rounded to nearest", (Quantize(stored_bits=4, rounding=Nearest()),)),
    Row("quantize", "INT8, static, stored in 5 bits on average", (Quantize(stored_bits=Average(5.0)),), "5 bits for every layer", (Quantize(stored_bits=5),)),
    Row("quantize", "INT8, static, equalised", (Quantize(equalize=True),), "not equalised", (Quantize(),)),
    Row("quantize-weights", "4 bits on average, groups of 32, GPTQ", (QuantizeWeights(Average(4.0)),), "4 bits for every layer", (QuantizeWeights(4),)),
    Row("quantize-weights", "3 bits, groups of 32, learned by layer", (QuantizeWeights(3, rounding=Learned(Unit.LAYER)),), "rounded to nearest", (plain(3),)),
    Row("factorize", "half of the weights, by activations", (Factorize(Part(0.5), activations=256),), "the same form by the weights alone", (Factorize(Part(0.5), kernels=Kernels.SVD),)),
    Row("factorize", "half of the weights, CP, healed", (Factorize(Part(0.5), kernels=Kernels.CP), HEAL), "not healed", (Factorize(Part(0.5), kernels=Kernels.CP),)),
    Row("factorize", "half of the weights, tensor train, healed", (Factorize(Part(0.5), kernels=Kernels.TENSOR_TRAIN), HEAL),
        "not healed", (Factorize(Part(0.5), kernels=Kernels.TENSOR_TRAIN),)),
    Row("factorize", "ranks by VBMF, healed", (Factorize(Vbmf()), HEAL), "not healed", (Factorize(Vbmf()),)),
    Row("sparsify", "half, Hutchinson, not healed", (Sparsify(Free(0.5), Saliency.HUTCHINSON),), "by magnitude", (Sparsify(Free(0.5)),)),
    Row("sparsify", "half of each layer by movement, healed", (Sparsify(LEVEL, Saliency.MOVEMENT, epochs=1),), "by magnitude, healed",
        (Sparsify(LEVEL, epochs=1),)),
    Row("prune", "half of the MACs, geometric median, healed", (Prune(target_macs=0.5, scope=Scope.GLOBAL, criterion=Criterion.GEOMETRIC_MEDIAN), HEAL),
        "channels drawn at random, healed", (Prune(target_macs=0.5, scope=Scope.GLOBAL, criterion=Criterion.RANDOM), HEAL)),
    Row("distill", "attention of hidden layers too", (HALF, dataclasses.replace(HEAL, hidden=Matching.AUTO, transfer=Transfer.ATTENTION)), "outputs alone", (HALF, HEAL)),
    Row("distill", "relations of hidden layers too", (HALF, dataclasses.replace(HEAL, hidden=Matching.AUTO, transfer=Transfer.RELATION)), "outputs alone", (HALF, HEAL)),
)  # fmt: skip


def network() -> nn.Module:
    """The base, for a fresh process."""
    return load_network(NETWORK, weights=False)[0]


def applied(steps: tuple[Technique, ...], task: Task) -> Made:
    """The steps one after the other; a technique may be given what `apply_recipe` would refuse as a recipe."""
    model, done = task.model, []
    run = Run(teacher=task.model, cache=CACHE)
    for technique in steps:
        made = technique.apply(model, task, run)
        model = made.model
        done.append(Step(technique, made.resolved))
    return model, tuple(done)


CACHE: dict[str, Any] = {}


def written(name: str, made: Made, task: Task, folder: Path) -> dict[str, Any]:
    """Save, export, verify, score and reload one network; its figures, and its answers as right or wrong."""
    place, (model, steps) = folder / name, made
    save(place, model, steps, inputs=task.example(2), base=NETWORK, overwrite=True)
    artifact = deploy_onnx(model, task.example(2), place / "model.onnx")
    runner = OnnxRunner(artifact.paths[0])
    verify(model, runner, task.example(8)).require()
    right = right_answers(runner, task)
    x = task.example(4)
    answer = fresh_answer(place, f"{__spec__.name if __spec__ else __name__}:network", "", x)
    with torch.inference_mode():
        equal = torch.equal(answer, call(model, x))
    stored = sum((place / file).stat().st_size for file in ("weights.safetensors", "structure.json"))
    return {
        "file_bytes": artifact.size_bytes,
        "folder_bytes": stored,
        "score": float(right.double().mean()),
        "reloads_equal": equal,
        "right": right.int().tolist(),
    }


def right_answers(runner: Callable[[Tensor], Tensor], task: Task) -> Tensor:
    """(N,) whether each test image is told right."""
    split = task.test.take(SCORED)
    return torch.cat([runner(inputs).argmax(1) == targets for _, inputs, targets in split.batches(100)])


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found before an interruption, or what `make` finds now."""
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    began = time.monotonic()
    found = make()
    found["seconds"] = time.monotonic() - began
    write_json(path, found)
    return found


def compared(folder: Path, seconds: float, lock: Path | None, chosen: Sequence[Row]) -> dict[str, Any]:
    """Make the networks and their baselines, then time them in one interleaved run: one thread, batch 1."""
    model, _ = load_network(NETWORK)
    task = task_from(model, load_data(DATA), base=NETWORK)
    first = kept(folder / "original.json", lambda: written(ORIGINAL, (model, ()), task, folder))
    rows: list[dict[str, Any]] = []
    for row in chosen:
        print(f"{row.technique}: {row.variant}", flush=True)
        name = name_of(f"{row.technique} {row.variant}")
        own = kept(
            folder / f"{name}.json",
            lambda row=row, name=name: written(name, applied(row.steps, task), task, folder),
        )
        base = kept(
            folder / f"{name}-base.json",
            lambda row=row, name=name: baseline(row, task, folder / f"{name}-base.onnx"),
        )
        rows.append(
            {
                "technique": row.technique,
                "variant": row.variant,
                "steps": [technique_to_dict(step) for step in row.steps],
                **{key: own[key] for key in ("file_bytes", "folder_bytes", "score", "reloads_equal")},
                "times_smaller": {
                    "file": first["file_bytes"] / own["file_bytes"],
                    "folder": first["folder_bytes"] / own["folder_bytes"],
                },
                "drop": drop(first, own),
                "baseline": {"text": row.baseline_text, "score": base["score"], "drop": drop(first, base)},
                "folder": name,
            }
        )
    if seconds <= 0:  # the networks alone were to be made
        return {}
    images = task.example(1)
    runners = {
        name: OnnxRunner(folder / name / "model.onnx")
        for name in (ORIGINAL, *(row["folder"] for row in rows))
    }
    with locked(lock):
        timings = measure(
            {n: partial(runner, images) for n, runner in runners.items()}, seconds=seconds, min_runs=30
        )
    for row in rows:
        name = row.pop("folder")
        row["latency"] = timings[name].to_json()
        row["times_faster"] = ratio(timings[ORIGINAL], timings[name]).to_json()
    original = {key: first[key] for key in ("file_bytes", "folder_bytes", "score")}
    return {"original": {**original, "latency": timings[ORIGINAL].to_json()}, "rows": rows}


def baseline(row: Row, task: Task, path: Path) -> dict[str, Any]:
    """The score of the trivial way."""
    model = row.baseline(task) if callable(row.baseline) else applied(row.baseline, task)[0]
    deploy_onnx(model, task.example(2), path)
    right = right_answers(OnnxRunner(path), task)
    return {"score": float(right.double().mean()), "right": right.int().tolist()}


def drop(first: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """The original minus this, on the same images."""
    before, after = (torch.tensor(figures["right"], dtype=torch.bool).numpy() for figures in (first, other))
    return paired_difference_interval(before, after).to_json()


@contextlib.contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Hold a lock on `path` for a while, so that no two benchmarks time at once."""
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of several runs in the order of `ROWS`."""
    order = [(row.technique, row.variant) for row in ROWS]
    return sorted(rows, key=lambda row: order.index((row["technique"], row["variant"])))


def added(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The figures of `before` with the rows of `found`, each of which says of itself when and where it was measured."""
    own = {"date": datetime.date.today().isoformat(), "environment": environment()}
    own |= {key: found[key] for key in ("runtime", "cpu", "original")}
    return {**before, "rows": in_order([*before["rows"], *({**row, **own} for row in found["rows"])])}


def show(figures: dict[str, Any]) -> None:
    table = [
        [
            row["technique"],
            row["variant"],
            f"{row['times_smaller']['file']:.2f}×",
            f"{row['times_smaller']['folder']:.2f}×",
            "{value:.2f}× [{low:.2f}, {high:.2f}]".format(**row["times_faster"]),
            f"{100 * row['drop']['value']:.2f}",
            f"{100 * row['baseline']['drop']['value']:.2f} ({row['baseline']['text']})",
            "equal" if row["reloads_equal"] else "DIFFERS",
        ]
        for row in figures["rows"]
    ]
    columns = ["technique", "variant", "file", "stored", "faster", "lost", "baseline loses", "reloaded"]
    print_table("ResNet-56 on the sample, batch 1, one thread", columns, table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/techniques"), help="for the networks; a run goes on"
    )
    parser.add_argument("--seconds", type=float, default=90.0, help="for the timings")
    parser.add_argument("--rows", help="makes these alone, as 0:16 or 1::2, to be made side by side")
    parser.add_argument("--lock", type=Path, help="a file to lock while timing")
    parser.add_argument("--result", type=Path, default=HERE / "techniques.json")
    parser.add_argument(
        "--missing", action="store_true", help="makes what the result file lacks, and adds it"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.rows is not None:
        part = slice(*(int(end) if end else None for end in options.rows.split(":")))
        compared(options.folder, 0.0, None, ROWS[part])
        return
    before = json.loads(options.result.read_text()) if options.missing else {"rows": []}
    known = {(row["technique"], row["variant"]) for row in before["rows"]}
    missing = [row for row in ROWS if (row.technique, row.variant) not in known]
    found = compared(options.folder, options.seconds, options.lock, missing)
    figures = {
        "network": NETWORK.removeprefix("zoo:"),
        "data": f"{SCORED:,} test images",
        "runtime": f"{RUNTIME} {onnxruntime.__version__}, one thread, batch 1",
        "cpu": int8_note(),
        **found,
    }
    if options.missing:
        figures = added(before, figures)
    show(figures)
    write_result(options.result, figures)
    SHIPPED.parent.mkdir(exist_ok=True)
    SHIPPED.write_bytes(options.result.read_bytes())


if __name__ == "__main__":
    main()
