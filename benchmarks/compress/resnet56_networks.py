"""Make smaller ResNet-56 networks for CIFAR-10, on a processor or a GPU; `resnet56.py` measures what lies in the folder.

    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.compress.resnet56_networks --seconds 480 --seeds 0 1 2

Every network is healed alike: by the original's answers to the images as they are shown (crops and mirrors; with
`--mixed` cut and mixed too, with `--mixed strange` turned and recoloured as well, beside the answers of other networks where `--beside` names their weights), with the same
recipe and for as many passes. With `--remember`, so many passes of varied images are kept with the answers to them, and
seen again and again: a long healing then asks its teachers no more. Which of a few designs a pruner takes, ours or torch-pruning, is decided by the
validation images after a short healing. Test images are scored once, at the end of each. A network is kept as soon as
it is made, so that an interrupted run goes on; after `--seconds` no other is begun that would not be done in time.
`--each` bounds the seconds of every network's long healing, which then has fewer passes (fine-tuning of shared values
comes on top), and `--compile` compiles the network and its teachers for it.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.compress.resnet56_healing import BITS, RECIPE, RECIPES, SPARSITY, Bench, held
from benchmarks.training.jobs import JOBS as TRAINED
from safetensors.torch import save_file
from torch import nn

from tenfold.compress import Run, load_network
from tenfold.compress.layers import weighted_layers
from tenfold.compress.prune import Criterion, Prune, Scope, Sparsify, TwoOfFour
from tenfold.compress.prune.learned_scores import cubic
from tenfold.compress.prune.tickets import masked, smaller
from tenfold.compress.share import Scalar
from tenfold.compress.share.codebooks import Looked, looked_up
from tenfold.data import Splits, task_from
from tenfold.data.cifar10 import cifar10
from tenfold.files import write_json
from tenfold.training import (
    Precision,
    fastest_precision,
)
from tenfold.training.checkpoint import load_weights, read_weights
from tenfold.training.recipes import Compiling
from tenfold.training.resident import ResidentImages

NETWORK = "zoo:resnet56_cifar10"
FEWER_MACS = 3.05  # a little more than the three times asked for
STAGES = 4  # of cutting, in Deep Compression
CUTTING = 0.5  # of the passes lie between the stages of cutting; in the others the weights settle
TRIED = 0.08  # of the passes go into each design that is tried
LATE = "1, 2 and 6 blocks left"  # of the three stages


def designs(few: bool) -> dict[str, Prune]:
    """Ways to the same multiply-accumulates: by channels alone, or with some blocks gone too; of all, a `few`."""
    common: dict[str, Any] = {"target_macs": 1 / FEWER_MACS, "scope": Scope.GLOBAL, "examples": 256}
    found = {
        "channels": Prune(**common),
        "6 blocks, channels": Prune(**common, blocks=6),
        LATE: Prune(**common, blocks=late_blocks()),
    }
    if few:
        return found
    return {
        **found,
        "10 blocks, channels": Prune(**common, blocks=10),
        "channels, by magnitude": Prune(**common, criterion=Criterion.MAGNITUDE),
    }


def late_blocks() -> tuple[str, ...]:
    """Of nine blocks a stage the last eight, seven and three: what is left works where images are small and wide."""
    dropped = {"layer1": 8, "layer2": 7, "layer3": 3}
    return tuple(f"{stage}.{number}" for stage, count in dropped.items() for number in range(9 - count, 9))


Candidate = tuple[str, nn.Module, dict[str, Any]]  # a name, the network, and what rebuilds its structure


def ours(bench: Bench, seed: int) -> Iterator[Candidate]:
    run, there = Run(seed=seed, teacher=bench.original), dict(bench.original.named_modules())
    for name, technique in designs(few=bench.mixed).items():
        if isinstance(technique.blocks, tuple) and not there.keys() >= set(technique.blocks):
            continue  # of a network of another depth
        made = technique.apply(bench.original, bench.task, run)
        yield name, made.model, {"resolved": made.resolved}


def torch_pruning(bench: Bench, seed: int) -> Iterator[Candidate]:
    """The same multiply-accumulates by the peer's pruner, global, with two of its criteria."""
    import torch_pruning as tp

    split = bench.task.train.take(256, seed=seed)
    images, labels = split.select(range(len(split)))
    for name, importance in {
        "group magnitude": tp.importance.GroupMagnitudeImportance(p=2),
        "group Taylor": tp.importance.GroupTaylorImportance(),
    }.items():
        low, high = 0.0, 0.95
        for _ in range(12):
            middle = (low + high) / 2
            model = copy.deepcopy(bench.original)
            pruner = tp.pruner.BasePruner(
                model, images[:1], importance=importance, global_pruning=True, pruning_ratio=middle,
                max_pruning_ratio=0.9, ignored_layers=[model.fc], round_to=None,
            )  # fmt: skip
            if "Taylor" in name:
                nn.functional.cross_entropy(model(images), labels).backward()
            pruner.step()
            model.zero_grad()
            small = bench.macs(model) * FEWER_MACS <= bench.macs(bench.original)
            low, high = (low, middle) if small else (middle, high)
            if small:
                found = model
        yield name, found.eval(), {}


def structured(bench: Bench, seed: int, candidates: Callable[..., Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The design asked for, or else the best candidate by validation after a short healing; healed from its start."""
    tried: dict[str, tuple[int, nn.Module, dict[str, Any]]] = {}
    for name, model, how in candidates(bench, seed):
        if bench.design is None or candidates is not ours:
            short, _ = bench.healed(model, max(TRIED * bench.epochs, 0.2), seed)
            tried[name] = bench.right(short, "validation"), model, how
        elif name == bench.design:
            tried[name] = 0, model, how
    best = max(tried, key=lambda name: tried[name][0])
    model, done = bench.healed(tried[best][1], bench.epochs, seed, final=True)
    chosen: dict[str, Any] = {"design": best, **tried[best][2], **done}
    if len(tried) > 1:
        chosen["validation_right_after_short"] = {name: right for name, (right, _, _) in tried.items()}
    return model, chosen


def two_of_four(bench: Bench, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    cut = Sparsify(TwoOfFour()).apply(bench.original, bench.task, Run(seed=seed, teacher=bench.original))
    model, done = bench.healed(cut.model, bench.epochs, seed, final=True)
    return model, {"sparsity": cut.resolved["sparsity"], **done}


def deep_compression(bench: Bench, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Han, Mao and Dally (2016): cut in stages, share values, fine-tune them; norms merged, and in half precision."""
    model = copy.deepcopy(bench.original).to(bench.device)
    course = bench.course((1 - bench.fine_tuned) * bench.epochs, seed, compiled=True)
    layers = weighted_layers(model)
    masks = {n: torch.ones_like(layer.weight, dtype=torch.bool) for n, layer in layers.items()}
    stage = 0

    @torch.no_grad()
    def cut(share: float) -> None:
        """The next stage where its time has come; what is cut stays so, whatever momentum it had."""
        nonlocal stage
        while stage < STAGES and share >= CUTTING * stage / STAGES:
            stage += 1
            for name, mask in smaller(model, masks, cubic(bench.sparsity, stage / STAGES)).items():
                masks[name].copy_(mask)
        for name, mask in masks.items():
            layers[name].weight.masked_fill_(~mask, 0.0)

    cut(0.0)
    with masked(model, masks):
        done = bench.taught(course, model, bench.each, cut)  # the last look is at its end
    sparse_right = bench.right(model, "validation")
    model.cpu()
    tables, shared = {}, {}
    for name, layer in weighted_layers(model).items():
        if int((layer.weight != 0).sum()) > 2 * 2**bench.bits:
            shared[name] = layer
            tables[name] = Looked.of(name, layer.weight.detach(), Scalar(bench.bits), seed)
    fine_tuning = done["epochs"] * bench.fine_tuned / (1 - bench.fine_tuned)
    with looked_up(shared, tables):
        model.to(bench.device)
        left = {n: masks[n] for n in masks if n not in shared}
        with held(model, left):
            tuned = bench.taught(bench.course(fine_tuning, seed, graph=False, rate=0.01), model)
        model.cpu()
    merge_statistics(model)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.dim() < 2:
                tensor.copy_(tensor.half().float())
    return model, {
        **done,
        "epochs": done["epochs"] + tuned["epochs"],
        "epochs_of_fine_tuning": tuned["epochs"],
        "sparsity": bench.sparsity,
        "bits": bench.bits,
        "validation_right_sparse": sparse_right,
    }


@torch.no_grad()
def merge_statistics(model: nn.Module) -> None:
    """Move what batch norms have counted into their scale and shift: of four numbers a channel two say something."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            norm.bias -= norm.running_mean * scale
            norm.weight.copy_(scale * math.sqrt(1 + norm.eps))
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0)


JOBS: dict[str, Callable[[Bench, int], tuple[nn.Module, dict[str, Any]]]] = {
    "structured": lambda bench, seed: structured(bench, seed, ours),
    "torch-pruning": lambda bench, seed: structured(bench, seed, torch_pruning),
    "deep-compression": deep_compression,
    "two-of-four": two_of_four,
}


def prepared(options: argparse.Namespace, deadline: float) -> Bench:
    splits = cifar10(whole=True)  # the network has learnt from all training images
    if options.examples:
        splits = Splits(*(s.take(options.examples) for s in (splits.train, splits.validation, splits.test)))
    if options.weights:
        model, _ = load_network(f"{options.architecture}?num_classes=10", weights=False)
        model.load_state_dict(read_weights(options.weights))
    else:
        model, _ = load_network(NETWORK)
    task = task_from(model, splits, base=NETWORK)
    device = torch.device(options.device)
    if device.type == "cuda":
        precision = Precision(channels_last=True, bf16=True)
    else:
        precision = fastest_precision(model, task.train.select(range(64))[0])
    recipe = replace(RECIPES[options.mixed], compile=Compiling.ON if options.compile else Compiling.OFF)
    if options.decay is not None:
        recipe = replace(recipe, optimizer=replace(recipe.optimizer, weight_decay=options.decay))
    bench = Bench(
        model.eval(),
        task,
        device,
        precision,
        options.epochs,
        deadline,
        recipe,
        each=options.each,
        design=options.design,
        sparsity=options.sparsity,
        bits=options.bits,
        remember=options.remember,
    )
    for job, weights in options.beside:
        bench.beside[job] = TRAINED[job].network().eval()
        load_weights(bench.beside[job], read_weights(weights), job)
    parts = {"train": task.train, "validation": task.validation, "test": task.test}
    for name, split in parts.items():
        bench.data[name] = ResidentImages.of(
            split, device, name, RECIPE.augmentation.padding if name == "train" else 0
        )
    return bench


def job_and_weights(text: str) -> tuple[str, Path]:
    job, _, file = text.partition("=")
    if job not in TRAINED or not Path(file).is_file():
        raise argparse.ArgumentTypeError(
            f"{text} is not a job of benchmarks.training, '=' and a file of weights"
        )
    return job, Path(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("OUT", "runs")) / "resnet56")
    parser.add_argument("--weights", type=Path, help="safetensors of the original, in place of the zoo's")
    parser.add_argument(
        "--mixed", nargs="?", const="mixed", default="no", choices=list(RECIPES),
        help="heal with cut and mixed images; strange: with turned and recoloured ones too",
    )  # fmt: skip
    parser.add_argument(
        "--beside",
        type=job_and_weights,
        nargs="*",
        default=[],
        metavar="JOB=FILE",
        help="a job of benchmarks.training and the weights it made: it then teaches too",
    )
    parser.add_argument(
        "--remember",
        type=int,
        default=0,
        help="passes whose varied images and answers are kept and seen again",
    )
    parser.add_argument("--decay", type=float, help="of the weights, in place of the recipe's")
    parser.add_argument("--architecture", default="resnet56", help="of --weights")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which nothing is begun")
    parser.add_argument("--epochs", type=float, default=25.0, help="of healing")
    parser.add_argument("--each", type=float, help="seconds of long healing for every network, above 0")
    parser.add_argument(
        "--design", choices=list(designs(few=False)), help="of our pruner; without it several are tried"
    )
    parser.add_argument(
        "--compile", action="store_true", help="the network and its teachers, for its long healing"
    )
    parser.add_argument("--sparsity", type=float, default=SPARSITY, help="of Deep Compression")
    parser.add_argument("--bits", type=int, default=BITS, help="of its codebooks")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=list(JOBS), choices=list(JOBS))
    parser.add_argument(
        "--examples", type=int, default=0, help="of each split, to try the script; 0 takes all"
    )
    options = parser.parse_args()
    if options.each is not None and options.each <= 0:
        parser.error(f"--each must be above 0, not {options.each:g}")
    if options.mixed != "no" and options.design not in (None, *designs(few=True)):
        parser.error(f"--mixed tries only {' and '.join(designs(few=True))}")
    began = time.monotonic()
    if options.device == "cpu":
        torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = prepared(options, began + options.seconds)
    original = options.folder / "original.json"
    if not original.exists():
        found = {split: bench.right(bench.original, split) for split in ("validation", "test")}
        write_json(original, {"right": found, "examples": {s: len(bench.data[s]) for s in found}, "macs": bench.macs(bench.original)})  # fmt: skip
        print(f"original: {found}", flush=True)
    took: dict[str, float] = {}
    for seed in options.seeds:
        for name in options.only:
            place = options.folder / f"{name}-{seed}"
            if place.with_suffix(".json").exists():
                continue
            if name == "torch-pruning" and importlib.util.find_spec("torch_pruning") is None:
                print("torch-pruning is not installed: left out", flush=True)
                continue
            if time.monotonic() + took.get(name, 0.0) > bench.deadline:
                print(f"no time left for {place.name}", flush=True)
                continue
            start = time.monotonic()
            model, notes = JOBS[name](bench, seed)
            took[name] = time.monotonic() - start
            figures = {
                "job": name,
                "seed": seed,
                "mixed": bench.mixed,
                "shown": options.mixed,
                "training_images": len(bench.data["train"]),
                "teachers": ["original", *bench.beside],
                "remembered_passes": bench.remember,
                "weight_decay": bench.recipe.optimizer.weight_decay,
                "seconds": took[name],
                "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
                "precision": str(bench.precision),
                "macs": bench.macs(model),
                "parameters": sum(p.numel() for p in model.parameters()),
                "right": {split: bench.right(model, split) for split in ("validation", "test")},
                **notes,
            }
            state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
            save_file(state, place.with_suffix(".safetensors"))
            write_json(place.with_suffix(".json"), figures)
            shown = {key: figures[key] for key in ("seconds", "macs", "right", "design") if key in figures}
            print(f"{place.name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
