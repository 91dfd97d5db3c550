"""Weights of few bits on EfficientNet-Lite0: what they cost in answers, and what the packed file weighs.

    TENFOLD_DATA=… python -m benchmarks.compress.efficientnet_lite0

100 photos calibrate, the other 400 are scored in PyTorch by the network that was saved, packed, unpacked and loaded
again. Plain rounding to nearest (the range of all weights, no correction) stands beside every width. What a row has
cost is kept in the folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.common import name_of, print_table, write_result
from benchmarks.efficientnet_lite0.factory import calibration_and_scoring, network
from torch import Tensor, nn

from tenfold.compress import Run, load, pack, save, unpack
from tenfold.compress.quantize import (
    Average,
    Learned,
    Nearest,
    Observer,
    PerChannel,
    PerGroup,
    Quantize,
    QuantizeWeights,
    Unit,
    unpacked,
)
from tenfold.compress.technique import Technique
from tenfold.cost import bootstrap_mean, paired_difference_interval, wilson_interval
from tenfold.data import Task
from tenfold.files import write_json

HERE = Path(__file__).resolve().parent
BATCH = 20
STEPS = 100  # of learned rounding, for each block
EPOCHS = 4.0  # of training


def plain(bits: int, granularity: PerChannel | PerGroup) -> QuantizeWeights:
    """Rounding to nearest, with nothing learnt from data."""
    return QuantizeWeights(
        bits, granularity, observer=Observer.MINMAX, rounding=Nearest(), bias_correction=False
    )


CHANNEL, GROUP = PerChannel(), PerGroup(32)
TECHNIQUES: dict[str, Technique] = {
    "4 bits, groups of 32: GPTQ": QuantizeWeights(4, GROUP, examples=100),
    "4 bits, groups of 32: nearest": plain(4, GROUP),
    "6 bits: GPTQ": QuantizeWeights(6, CHANNEL, examples=100),
    "6 bits: nearest": plain(6, CHANNEL),
    "5 bits: GPTQ": QuantizeWeights(5, CHANNEL, examples=100),
    "5 bits: nearest": plain(5, CHANNEL),
    "INT8": Quantize(examples=100),
    "4 bits, groups of 32: learned by block": QuantizeWeights(
        4, GROUP, rounding=Learned(Unit.BLOCK, steps=STEPS), examples=100
    ),
    "4 bits, groups of 32: GPTQ, then trained": QuantizeWeights(4, GROUP, epochs=EPOCHS, examples=100),
    "4 bits on average, groups of 32: GPTQ": QuantizeWeights(Average(4.0), GROUP, examples=100),
    "6 bits: nearest, corrected": QuantizeWeights(6, CHANNEL, rounding=Nearest(), examples=100),
    "4 bits, groups of 32: nearest, corrected": QuantizeWeights(4, GROUP, rounding=Nearest(), examples=100),
}


def answers(model: nn.Module, photos: Tensor) -> Tensor:
    """The logits (N, 1000)."""
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in photos.split(BATCH)])


def divergence(expected: Tensor, actual: Tensor) -> np.ndarray:
    """KL(expected ‖ actual) of the class probabilities for each photo, in nats: (N,)."""
    p, q = F.log_softmax(expected.double(), dim=1), F.log_softmax(actual.double(), dim=1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(dim=1).numpy()


def made(technique: Technique, task: Task, folder: Path, photos: Tensor) -> dict[str, Any]:
    """Apply, save, pack, unpack, load and answer; the logits go to the folder."""
    began = time.monotonic()
    applied = technique.apply(task.model, task, Run())
    seconds = time.monotonic() - began
    shutil.rmtree(folder, ignore_errors=True)
    save(folder, applied.model, [(technique, applied.resolved)], inputs=task.example(1))
    report = pack(folder, folder / "network.pack")
    unpack(folder / "network.pack", folder / "again")
    same = (folder / "weights.safetensors").read_bytes() == (
        folder / "again/weights.safetensors"
    ).read_bytes()
    model = load(folder / "again", base=network)
    torch.save(answers(unpacked(model), photos), folder / "logits.pt")
    trained = applied.resolved.get("trained")  # before, after, and whether it was kept
    return {"pack": report.to_json(), "unpacked_equal": same, "seconds": seconds, "trained": trained}


def judged(logits: Tensor, original: Tensor, labels: Tensor) -> dict[str, Any]:
    """The figures of one network against the original on the same photos."""
    right, was_right = (each.argmax(1) == labels for each in (logits, original))
    same = logits.argmax(1) == original.argmax(1)
    return {
        "top1": wilson_interval(int(right.sum()), len(labels)).to_json(),
        "drop": paired_difference_interval(was_right, right).to_json(),
        "agreement": bootstrap_mean(same.double().numpy()).to_json(),
        "kl": bootstrap_mean(divergence(original, logits)).to_json(),
    }


def compared(folder: Path, names: list[str]) -> dict[str, Any]:
    """Make what is not made yet, and judge all that is."""
    (photos, calibration_labels), (scored, labels) = calibration_and_scoring()
    task = Task(network(), train=(photos, calibration_labels), validation=(scored[:1], labels[:1]))
    reference = folder / "fp32.pt"
    if not reference.exists():
        torch.save(answers(task.model, scored), reference)
    original = torch.load(reference)
    rows: dict[str, Any] = {"fp32": judged(original, original, labels)}
    everything: dict[str, Tensor] = {}
    for name in names:
        place = folder / name_of(name)
        if not (place / "figures.json").exists():
            print(f"making: {name}", flush=True)
            write_json(place / "figures.json", made(TECHNIQUES[name], task, place, scored))
        everything[name] = torch.load(place / "logits.pt")
        rows[name] = json.loads((place / "figures.json").read_text()) | judged(
            everything[name], original, labels
        )
        row = rows[name]
        print(f"{name}: top-1 {row['top1']['value']:.4f}, agreement {row['agreement']['value']:.4f}, "
              f"KL {row['kl']['value']:.4f}, {row['pack']['times_smaller']:.2f} times smaller", flush=True)  # fmt: skip
    for name, logits in everything.items():
        nearest = name.partition(":")[0] + ": nearest"
        if nearest in everything and name != nearest:
            saved = divergence(original, everything[nearest]) - divergence(original, logits)
            rows[name]["kl_below_nearest"] = bootstrap_mean(saved).to_json()
    return {"calibration_photos": len(photos), "scored_photos": len(labels), "networks": rows}


def targets(rows: dict[str, Any]) -> dict[str, bool]:
    """What must be reached, and whether it is, for the rows that were made."""
    reached: dict[str, bool] = {}

    def check(text: str, needs: tuple[str, ...], holds: Any) -> None:
        if all(name in rows for name in needs):
            reached[text] = bool(holds(*(rows[name] for name in needs)))

    check("INT8: agreement at least 97%", ("INT8",), lambda row: row["agreement"]["value"] >= 0.97)
    check(
        "6 bits: at least 5.7 times smaller at an agreement of at least 95%",
        ("6 bits: GPTQ",),
        lambda row: row["pack"]["times_smaller"] >= 5.7 and row["agreement"]["value"] >= 0.95,
    )
    check("5 bits: at most 2.5 points lost", ("5 bits: GPTQ",), lambda row: row["drop"]["value"] <= 0.025)
    check(
        "4 bits: GPTQ loses at most a third of what nearest loses",
        ("4 bits, groups of 32: GPTQ", "4 bits, groups of 32: nearest"),
        lambda row, nearest: row["drop"]["value"] <= nearest["drop"]["value"] / 3,
    )
    four = "4 bits, groups of 32: "
    check(
        "4 bits: learned by block loses at most 4 points",
        (four + "learned by block",),
        lambda row: row["drop"]["value"] <= 0.04,
    )
    check(
        "4 bits: training after GPTQ is kept and loses at most 4 points",
        (four + "GPTQ, then trained",),
        lambda row: row["trained"]["kept"] and row["drop"]["value"] <= 0.04,
    )
    check("what is unpacked equals what was packed", tuple(n for n in rows if n != "fp32"),
          lambda *all_rows: all(row["unpacked_equal"] for row in all_rows))  # fmt: skip
    return reached


def show(figures: dict[str, Any]) -> None:
    rows = []
    for name, row in figures["networks"].items():
        size = row.get("pack")
        rows.append([
            name,
            f"{size['times_smaller']:.2f}×" if size else "1",
            f"{size['achieved']:.2f} (H₀ {size['order0']:.2f})" if size else "32",
            f"{100 * row['top1']['value']:.1f}",
            f"{100 * row['drop']['value']:.1f} [{100 * row['drop']['low']:.1f}, {100 * row['drop']['high']:.1f}]",
            f"{100 * row['agreement']['value']:.1f}",
            f"{row['kl']['value']:.4f} [{row['kl']['low']:.4f}, {row['kl']['high']:.4f}]",
        ])  # fmt: skip
    columns = [
        "network",
        "file smaller",
        "bits a weight",
        "top-1 %",
        "drop, points",
        "same class %",
        "mean KL, nats",
    ]
    print_table(f"EfficientNet-Lite0, {figures['scored_photos']} photos", columns, rows)
    for text, reached in figures["targets"].items():
        print(f"{'reached' if reached else 'MISSED '}  {text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/compress_lite0"), help="what is made goes here"
    )
    parser.add_argument("--only", nargs="*", default=list(TECHNIQUES), choices=list(TECHNIQUES))
    parser.add_argument("--result", type=Path, default=HERE / "efficientnet_lite0.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = compared(options.folder, options.only)
    figures["targets"] = targets(figures["networks"])
    show(figures)
    write_result(options.result, figures, packages=("constriction",))


if __name__ == "__main__":
    main()
