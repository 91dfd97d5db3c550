"""Every recipe that ships, run as its user runs it: `tenfold apply RECIPE NETWORK --data DATA --out FOLDER`.

    python -m benchmarks.compress.recipes

On few examples, since this shows that each recipe runs to its end and what its files are, not how well it could do:
2,000 images and the ResNet-56 of the sample, or 400 sentences and the classifier of `minilm_factory`. Each network is
loaded again in a fresh process, which must answer the same as the one that was exported. A run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import ROOT, fresh_answer, print_table, write_result
from benchmarks.compress.techniques import kept

from tenfold.compress import named_recipes
from tenfold.data import Splits, load_data
from tenfold.deploy import OnnxRunner

HERE = Path(__file__).resolve().parent
IMAGES, SENTENCES, VALIDATION = 2000, 400, 400
TEXT = ("albert", "distilbert", "int8-dynamic")  # recipes for transformers
FILES = ("structure.json", "weights.safetensors", "model.onnx", "recipe.yaml")


def images() -> Splits:
    """A part of the sample."""
    splits = load_data("tenfold.data:fashion_mnist")
    return Splits(splits.train.take(IMAGES), splits.validation.take(VALIDATION), splits.test)


def sentences() -> Splits:
    """A part of the labelled sentences."""
    from benchmarks.compress.minilm_factory import data

    splits = Splits(**data())
    return Splits(splits.train.take(SENTENCES), splits.validation.take(VALIDATION), splits.test)


def fitting(recipe: str) -> tuple[str, str]:
    """The network and the data for a recipe, as the command takes them."""
    if recipe in TEXT:
        return "benchmarks.compress.minilm_factory:network", "benchmarks.compress.recipes:sentences"
    return "zoo:resnet56_fashion_mnist", "benchmarks.compress.recipes:images"


def applied(recipe: str, folder: Path) -> dict[str, Any]:
    """Run the command; its exit status, what it printed, its files, and whether they answer alike when reloaded."""
    network, data = fitting(recipe)
    shutil.rmtree(folder, ignore_errors=True)
    command = ["apply", recipe, network, "--data", data, "--out", str(folder)]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tenfold.cli", *command], cwd=ROOT, capture_output=True, text=True
    )
    found: dict[str, Any] = {
        "command": " ".join(["tenfold", *command[:-1], "FOLDER"]),
        "status": done.returncode,
        "command_seconds": time.monotonic() - began,
        "printed": done.stdout.replace(str(folder), "FOLDER").strip().splitlines(),
    }
    if done.returncode:
        return found | {"error": done.stderr.strip().splitlines()[-3:]}
    splits = images() if recipe not in TEXT else sentences()
    inputs, _ = splits.validation.select(range(64))
    answer = OnnxRunner(folder / "model.onnx")(inputs)
    base = "" if network.startswith("zoo:") else network
    again = fresh_answer(folder, base or "benchmarks.compress.techniques:network", "", inputs)
    return found | {
        "bytes": {name: (folder / name).stat().st_size for name in FILES},
        "reloaded_signal_to_noise_db": float(10 * torch.log10(again.square().sum() / (again - answer).square().sum().clamp_min(1e-30))),
        "reloaded_same_class": float((again.argmax(1) == answer.argmax(1)).double().mean()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"), help="what is made goes here")
    names = [recipe.name for recipe in named_recipes()]
    parser.add_argument("--only", nargs="*", default=names, choices=names)
    parser.add_argument("--result", type=Path, default=HERE / "recipes.json")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = {}
    for name in options.only:
        print(name, flush=True)
        rows[name] = kept(folder / f"{name}.json", partial(applied, name, folder / name))
        print(rows[name]["printed"] or rows[name].get("error"), flush=True)
        if rows[name]["status"]:
            (folder / f"{name}.json").unlink()  # to be tried again once mended
    write_result(options.result, {"images": IMAGES, "sentences": SENTENCES, "recipes": rows})
    table = [
        [
            name,
            str(row["status"]),
            f"{row['command_seconds']:.0f}",
            *(
                f"{row['bytes'][f]:,}" if "bytes" in row else "–"
                for f in ("model.onnx", "weights.safetensors")
            ),
            f"{100 * row['reloaded_same_class']:.0f}%" if "bytes" in row else "–",
        ]
        for name, row in rows.items()
    ]
    print_table(
        "Recipes",
        ["recipe", "exit status", "seconds", "ONNX bytes", "saved bytes", "same class reloaded"],
        table,
    )
    if any(row["status"] for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
