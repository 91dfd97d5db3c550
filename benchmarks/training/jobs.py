"""The networks that are trained on CIFAR-10 and how: the recipe `cifar`, or `vit-small-data`, with what is changed in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tenfold.models import create
from tenfold.training import AdamW, Augmentation, Sgd, TrainingRecipe, training_recipe

CLASSES, SIDE = 10, 32


@dataclass(frozen=True)
class Job:
    """`options` go to `create`; `load` is how much of a GPU's time it takes beside the others, to share them out."""

    architecture: str
    options: dict[str, Any]
    recipe: TrainingRecipe
    load: float

    def network(self) -> nn.Module:
        """The network with random weights from torch's generator."""
        return create(self.architecture, num_classes=CLASSES, in_channels=3, **self.options)


CIFAR = replace(training_recipe("cifar"), batch_size=256, half=True)
CROP = Augmentation(padding=4, flip=True)

MOBILE = replace(
    CIFAR,
    epochs=100,
    optimizer=Sgd(0.2, 0.9, 4e-4),
    augmentation=replace(CROP, erasing=0.25),
    label_smoothing=0.1,
    average=0.998,
)

JOBS: dict[str, Job] = {
    "resnet20": Job(
        "resnet20",
        {},
        replace(
            CIFAR,
            epochs=120,
            optimizer=Sgd(0.3, 0.9, 5e-4),
            augmentation=CROP,
            label_smoothing=0.0,
            average=0.998,
        ),
        load=0.8,
    ),
    "resnet56": Job(
        "resnet56",
        {},
        replace(
            CIFAR,
            epochs=100,
            optimizer=Sgd(0.3, 0.9, 5e-4),
            augmentation=CROP,
            label_smoothing=0.05,
            average=0.998,
        ),
        load=2.0,
    ),
    "mobilenet_v2": Job(
        "mobilenet_v2",
        {"resolution": SIDE, "dropout": 0.0},
        MOBILE,
        load=2.5,
    ),
    "efficientnet_b0": Job(
        "efficientnet_b0",
        {"resolution": SIDE, "dropout": 0.0},
        replace(MOBILE, clip=5.0),
        load=3.0,
    ),
    "vit_ti": Job(
        "vit_ti_16",
        {"resolution": SIDE, "patch_size": 4},
        replace(
            training_recipe("vit-small-data"),
            batch_size=256,
            half=True,
            optimizer=AdamW(1e-3, (0.9, 0.98), 0.05),
            augmentation=Augmentation(padding=4, flip=True, affine=0.3, colour=0.3, erasing=0.1),
        ),
        load=1.5,
    ),
}
