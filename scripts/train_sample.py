"""Train the network that ships with the sample: ResNet-56 on 55,000 Fashion-MNIST images.

The three files come from `scripts/make_sample.py --full`; the 5,000 validation images are in none of the
training batches, and the 10,000 test images are scored once, at the end, with the half-precision weights that ship.

    python scripts/train_sample.py --train full.npz --validation validation.npz --test test.npz --out runs/sample

The recipe is `scripts/sample.yaml`: SGD with Nesterov momentum, warm-up and cosine, flips, shifts by up to two pixels,
random erasing, and stochastic depth. The file that ships was made by an earlier form of this script, whose rate fell
linearly and whose erased square had a fixed size; `benchmarks/sample/training.json` is its result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from tenfold.data import Split, Splits
from tenfold.data.pixels import ByteImages, Scaling
from tenfold.data.sample import CLASSES, MEAN, STD
from tenfold.models import create
from tenfold.training import train, training_recipe

RECIPE = Path(__file__).with_name("sample.yaml")


def read(path: Path) -> Split:
    """Images as bytes (N, 1, 28, 28), normalised as they are read, and labels (N,)."""
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = (
            torch.from_numpy(arrays["images"])[:, None],
            torch.from_numpy(arrays["labels"]).long(),
        )
    return Split(ByteImages(images, labels, Scaling((MEAN,), (STD,))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("train", "validation", "test", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()

    name = f"resnet{options.depth}"
    torch.manual_seed(options.seed)
    result = train(
        create(name, num_classes=len(CLASSES), in_channels=1),
        Splits(read(options.train), read(options.validation), read(options.test), CLASSES),
        training_recipe(RECIPE, epochs=options.epochs),
        name=name,
        device="cuda" if torch.cuda.is_available() else "cpu",
        seed=options.seed,
        folder=options.out,
        resume=options.resume,
        progress=lambda fraction, text: print(f"{fraction:4.0%}  {text}", flush=True),
    )
    print(result.summary())


if __name__ == "__main__":
    main()
