"""Make `zoo:` entries of networks that `h200.py` trained: fp16 weights and a card beside them.

    PYTHONPATH=src:. python -m benchmarks.training.ship FOLDER resnet20 resnet56 …

FOLDER holds what a run left: `results.json` and `NAME.safetensors`. The entry is `zoo:ARCHITECTURE_cifar10`. With
TENFOLD_DATA the shipped file is scored again through the zoo, and must get as many test images right as the run says.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from benchmarks.training.jobs import CLASSES, JOBS, SIDE

from tenfold.models.zoo import Card, store, zoo_network
from tenfold.training import Precision
from tenfold.training.checkpoint import load_weights, read_weights
from tenfold.training.resident import ResidentImages
from tenfold.training.scoring import right_answers

DATA = {
    False: "CIFAR-10 (JPEG-coded), 45,000 training images",
    True: "CIFAR-10 (JPEG-coded), all 50,000 training images; 2,000 of the test images validate, 8,000 test",
}
ALLOWED = 0.001  # of the accuracy: a GPU's and a processor's sums differ in their last digits


def ship(name: str, folder: Path) -> None:
    """Store one network in the zoo."""
    job = JOBS[name]
    result = json.loads((folder / "results.json").read_text())["networks"][name]
    model = job.network()
    load_weights(model, read_weights(folder / f"{name}.safetensors"), name)
    card = Card(
        architecture=job.architecture,
        options={"num_classes": CLASSES, "in_channels": 3, **job.options},
        input_shape=(3, SIDE, SIDE),
        data=DATA[job.whole],
        accuracy={split: result[split]["value"] for split in ("validation", "test")},
        licence="Apache-2.0",
        script="benchmarks/training/h200.py",
    )
    entry = f"{job.architecture}_cifar10"
    store(entry, model, card)
    print(f"zoo:{entry}: test {card.accuracy['test']:.4f}")
    if os.environ.get("TENFOLD_DATA"):
        check(entry, card.accuracy["test"], job.whole)


def check(entry: str, expected: float, whole: bool) -> None:
    """Score the shipped file on the test images; raise where it does not do as well as its card says."""
    from tenfold.data.cifar10 import cifar10

    test = cifar10(whole=whole).test
    data = ResidentImages.of(test, torch.device("cpu"), "test")
    found = right_answers(zoo_network(entry), data, Precision()) / len(data)
    if abs(found - expected) > ALLOWED:
        raise RuntimeError(f"zoo:{entry} scores {found:.4f} on the test images, its card says {expected:.4f}")
    print(f"zoo:{entry}: scored again through the zoo, {found:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("networks", nargs="+", choices=list(JOBS))
    options = parser.parse_args()
    for name in options.networks:
        ship(name, options.folder)


if __name__ == "__main__":
    main()
