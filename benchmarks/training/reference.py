"""ResNet-20 on CIFAR-10 by Tenfold's trainer and by a plain loop that shares no code with it, one recipe for both.

    TENFOLD_DATA=FOLDER OUT=results PYTHONPATH=src:. python -m benchmarks.training.reference plain captured

Each variant named is trained for `--epochs` and stored as `OUT/reference-VARIANT.json`: accuracy on the validation
and test images, on training images without augmentation, and the loss of each epoch. The plain loop decodes the
mosaics, crops (by `grid_sample`), normalises and moves the weights by itself; of Tenfold it takes the network and
the numbers of the examples that train. What the trainer is held to: that its accuracy is the plain loop's.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tenfold.data import Split
from tenfold.data.cifar10 import cifar10, read_mosaic
from tenfold.files import write_json
from tenfold.models import create
from tenfold.training import Augmentation, Sgd, TrainingRecipe, train
from tenfold.training.recipes import Arithmetic

RECIPE = TrainingRecipe(
    batch_size=128,
    optimizer=Sgd(0.1, 0.9, 5e-4),
    warmup=0.05,
    augmentation=Augmentation(padding=4, flip=True),
    arithmetic=Arithmetic.BF16,
)
# What differs from the recipe above, by the name of the variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "captured": {},
    "stepwise": {},
    "average": {"average": 0.998},
    "light": {"optimizer": Sgd(0.1, 0.9, 1e-4)},
    "fast": {"batch_size": 256, "optimizer": Sgd(0.3, 0.9, 5e-4), "warmup": 0.15, "average": 0.998},
    "still": {"augmentation": Augmentation()},
}


def trained_by_tenfold(name: str, epochs: float, device: str) -> dict[str, Any]:
    """A variant of the recipe through `tenfold.training.train`."""
    torch.manual_seed(0)
    network = create("resnet20", num_classes=10, in_channels=3)
    recipe = replace(RECIPE, epochs=epochs, **VARIANTS[name])
    splits = cifar10()
    result = train(network, splits, recipe, device=device, graph=name != "stepwise")
    assert result.test is not None
    return {
        "validation": result.validation.value,
        "test": result.test.value,
        "train": accuracy(network, *plain_data(device)["train"]),
        "losses": [point.loss for point in result.curve],
        "images_per_second": result.images_per_second,
        "captured": result.captured,
    }


def plain_data(device: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Normalised images (N, 3, 32, 32) and labels, decoded here; the validation images are those of `cifar10`."""
    folder = Path(os.environ["TENFOLD_DATA"])
    Image.MAX_IMAGE_PIXELS = None
    parts = {}
    for split in ("train", "test"):
        mosaic = np.asarray(Image.open(folder / f"cifar10_{split}.jpg"))
        rows, columns = mosaic.shape[0] // 32, mosaic.shape[1] // 32
        tiles = mosaic.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
        labels = np.fromfile(folder / f"cifar10_{split}_labels.u8", dtype=np.uint8)
        images = torch.from_numpy(tiles.copy()).to(device).permute(0, 3, 1, 2).float() / 255
        parts[split] = (images, torch.from_numpy(labels).long().to(device))
    images, labels = parts["train"]
    mean = images.mean(dim=(0, 2, 3), keepdim=True)
    std = images.std(dim=(0, 2, 3), keepdim=True)
    everything = torch.arange(len(labels))
    rest, held = (
        part.select(range(len(part)))[0].to(device)
        for part in Split((everything, read_mosaic(folder, "cifar10_train")[1])).hold_out(0.1)
    )
    images = (images - mean) / std
    test, answers = parts["test"]
    return {
        "train": (images[rest], labels[rest]),
        "validation": (images[held], labels[held]),
        "test": ((test - mean) / std, answers),
    }


def trained_plainly(epochs: float, device: str, *, bf16: bool) -> dict[str, Any]:
    """The recipe as a plain loop."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    data = plain_data(device)
    images, labels = data["train"]
    network = create("resnet20", num_classes=10, in_channels=3).to(device).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    rule = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    per_epoch = len(labels) // 128
    steps = round(epochs * per_epoch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        rule, 0.1, total_steps=steps + 1, pct_start=0.05, div_factor=1e3, cycle_momentum=False
    )
    losses = []
    started = time.monotonic()
    for epoch in range(round(epochs)):
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(labels), device=device)[: per_epoch * 128].split(128):
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                outputs = network(shifted(images[index]))
            loss = F.cross_entropy(outputs.float(), labels[index])
            rule.zero_grad()
            loss.backward()
            rule.step()
            schedule.step()
            total += loss.detach()
        losses.append(total.item() / per_epoch)
        print(f"epoch {epoch + 1}, loss {losses[-1]:.4f}, {time.monotonic() - started:.0f} s", flush=True)
    network.eval()
    return {split: accuracy(network, *pair) for split, pair in data.items()} | {"losses": losses}


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to four pixels either way, and half of them mirrored; what comes in is 0."""
    count, device = len(images), images.device
    moves = torch.randint(-4, 5, (count, 2), device=device) * (2 / 32)
    mirror = 1.0 - 2.0 * torch.randint(0, 2, (count,), device=device)
    maps = torch.zeros(count, 2, 3, device=device)
    maps[:, 0, 0], maps[:, 1, 1], maps[:, :, 2] = mirror, 1.0, moves
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", align_corners=False)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of right answers, in fp32 and eval mode."""
    network.eval()
    right = sum(
        int((network(x).argmax(1) == y).sum())
        for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    )
    return right / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("variants", nargs="+", choices=["plain", "plain-fp32", *VARIANTS])
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    out = Path(os.environ.get("OUT", "runs/reference"))
    out.mkdir(parents=True, exist_ok=True)
    for name in options.variants:
        started = time.monotonic()
        if name.startswith("plain"):
            found = trained_plainly(options.epochs, options.device, bf16=name == "plain")
        else:
            found = trained_by_tenfold(name, options.epochs, options.device)
        found |= {"epochs": options.epochs, "seconds": time.monotonic() - started}
        write_json(out / f"reference-{name}.json", found)
        short = {key: value for key, value in found.items() if key != "losses"}
        print(f"{name:10} {json.dumps(short)} last loss {found['losses'][-1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
