"""The networks of the zoo that were trained on ImageNet, scored on 500 photos of it with their own preprocessing.

    TENFOLD_DATA=FOLDER python -m benchmarks.zoo.photos

FOLDER holds `imagenet_even.npz`: one photo for each even class (`jpeg`, `offsets`, `labels`).
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import print_table, write_result
from PIL import Image
from torch import Tensor, nn

from tenfold.cost import wilson_interval
from tenfold.models import named_network, zoo_card, zoo_names

HERE = Path(__file__).parent
BATCH = 25
# What the reference preprocessing scores on these photos: top-1 and top-5 of EfficientNet-Lite0, and the margin.
EXPECTED = {"efficientnet_lite0": (0.882, 0.003)}


def photos(folder: Path) -> tuple[list[Image.Image], Tensor]:
    """The photos and their labels (N,)."""
    with np.load(folder / "imagenet_even.npz", allow_pickle=False) as arrays:
        jpeg, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
        labels = torch.from_numpy(arrays["labels"]).long()
    return [Image.open(io.BytesIO(jpeg[start:end])) for start, end in pairwise(offsets)], labels


def scored(name: str, images: list[Image.Image], labels: Tensor) -> dict[str, Any]:
    """Top-1 with its 95% interval and top-5 of one network, in fp32."""
    card = zoo_card(name)
    assert card.preprocessing is not None
    network = named_network(f"zoo:{name}")
    ranked = torch.cat([answer.topk(5).indices for answer in answers(network, images, card.preprocessing)])
    right = ranked == labels[:, None]
    top1 = wilson_interval(int(right[:, 0].sum()), len(labels))
    return {
        "photos": len(labels),
        "top1": {"value": top1.value, "low": top1.low, "high": top1.high},
        "top5": float(right.any(1).double().mean()),
        "published_top1": next(iter(card.accuracy.values())),
    }


def answers(network: nn.Module, images: list[Image.Image], prepare: Any) -> Iterator[Tensor]:
    """Logits (BATCH, classes), batch by batch."""
    for start in range(0, len(images), BATCH):
        with torch.inference_mode():
            yield network(torch.stack([prepare(image) for image in images[start : start + BATCH]]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--result", type=Path, default=HERE / "photos.json")
    options = parser.parse_args()
    folder = os.environ.get("TENFOLD_DATA")
    if not folder:
        raise SystemExit("set TENFOLD_DATA to the folder that holds imagenet_even.npz")
    torch.set_num_threads(1)
    images, labels = photos(Path(folder))
    networks = {
        name: scored(name, images, labels) for name in zoo_names() if zoo_card(name).preprocessing is not None
    }
    reached = {
        f"{name}: top-1 {100 * share:.1f} ± {100 * margin:.1f}%": abs(networks[name]["top1"]["value"] - share)
        <= margin + 1e-9
        for name, (share, margin) in EXPECTED.items()
    }
    print_table(
        f"{len(labels)} photos of ImageNet, one for each even class",
        ["network", "top-1 %", "top-5 %"],
        [
            [name, f"{100 * row['top1']['value']:.1f}", f"{100 * row['top5']:.1f}"]
            for name, row in networks.items()
        ],
    )
    for text, met in reached.items():
        print(f"{'reached' if met else 'MISSED '}  {text}")
    write_result(
        options.result, {"networks": networks, "targets": reached}, packages=tuple(map(_package, networks))
    )


def _package(name: str) -> str:
    package = zoo_card(name).package
    return package.module.replace("_", "-") if package else "tenfold"


if __name__ == "__main__":
    main()
