"""The control of the main job: the same small network, trained from scratch for the seconds that healing took.

    make demo
    python -m benchmarks.sample.control runs/demo

Takes the best network of a finished run, gives it fresh weights, and trains it on the same training images with
their labels alone (both images of a mirrored pair, as healing saw them), once with each optimiser; then it is
quantised, exported and scored as the best one was. Writes `demo.json` beside this file: the run, and the controls.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import print_table, write_result
from torch import nn

from tenfold.compress import Run, load_network, read_structure
from tenfold.compress.quantize import Quantize
from tenfold.cost import paired_difference_interval, wilson_interval
from tenfold.data import Task, accuracy, fashion_mnist, task_from
from tenfold.deploy import OnnxRunner, deploy_onnx
from tenfold.search.scoring import answers_on
from tenfold.search.serving import unquantized
from tenfold.training import AdamW, OptimizerSettings, Sgd, Supervised, View, fit

RESULT = Path(__file__).with_name("demo.json")
OPTIMISERS: dict[str, OptimizerSettings] = {
    "AdamW": AdamW(learning_rate=3e-3),
    "SGD": Sgd(learning_rate=0.1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The control of the main job")
    parser.add_argument("run", type=Path, help="the folder of a finished run on the sample")
    folder = parser.parse_args().run
    frontier = json.loads((folder / "frontier.json").read_text())
    points = {point["id"]: point for point in frontier["points"]}
    best = points[frontier["best"]]
    network, base = load_network("zoo:resnet56_fashion_mnist", None)
    task = task_from(network, fashion_mnist(), accuracy, base=base)
    right = right_answers(folder / best["artifact"] / "model.onnx", task)
    seconds = healing_seconds(folder)
    controls = [control(folder, task, name, seconds, right) for name in OPTIMISERS]
    write_result(RESULT, {"run": frontier, "healing_seconds": seconds, "from_scratch": controls})
    rows = [["healed by the run", f"{best['score']:.2%}", "", f"{best['drop']:.2%}"]]
    for found in controls:
        low, high = found["below_the_healed"][1:]
        rows.append(
            [f"from scratch, {found['optimizer']}", f"{found['accuracy']:.2%}",
             f"{found['below_the_healed'][0]:.2%} [{low:.2%}, {high:.2%}]",
             f"{points['onnx-fp32']['score'] - found['accuracy']:.2%}"]
        )  # fmt: skip
    title = f"{best['label']}; {seconds:.0f} s of training each"
    print_table(title, ["network", "test accuracy", "below the healed", "below the original"], rows)


def healing_seconds(folder: Path) -> float:
    """What the best network's distillation took."""
    steps = read_structure(folder / "best" / "structure.json").steps
    return sum(step.resolved["seconds"] for step in steps if "held_out_losses" in step.resolved)


def control(folder: Path, task: Task, name: str, seconds: float, right: torch.Tensor) -> dict[str, Any]:
    """Train the best network's structure from scratch, and score it as INT8 through ONNX Runtime."""
    torch.manual_seed(0)
    model = fresh(folder, task)
    result = fit(
        model, task.train, Supervised((View.IDENTITY, View.FLIP)), seconds=seconds, optimizer=OPTIMISERS[name]
    )
    quantized = Quantize().apply(model, task, Run(seed=0)).model
    with tempfile.TemporaryDirectory() as scratch:
        artifact = deploy_onnx(quantized, task.example(2), Path(scratch, "model.onnx"))
        mine = right_answers(artifact.paths[0], task)
    value = wilson_interval(int(mine.sum()), len(mine))
    below = paired_difference_interval(right.numpy(), mine.numpy())
    return {
        "optimizer": name,
        "passes": result.epochs,
        "accuracy": value.value,
        "accuracy_interval": [value.low, value.high],
        "below_the_healed": [below.value, below.low, below.high],
    }


def fresh(folder: Path, task: Task) -> nn.Module:
    """The best network before its layers became integers, with new weights."""
    model = unquantized(folder / "best", task)
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return model


def right_answers(file: Path, task: Task) -> torch.Tensor:
    """Which test images the ONNX file answers rightly."""
    found = answers_on(OnnxRunner(file, threads=2), task.test)
    assert found is not None
    return found.outputs.argmax(1) == found.targets


if __name__ == "__main__":
    main()
