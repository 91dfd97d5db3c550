"""The networks that are trained on CIFAR-10 and how: the recipe `cifar`, or `vit-small-data`, with what is changed in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tenfold.models import create
from tenfold.training import AdamW, Augmentation, Sgd, TrainingRecipe, training_recipe
from tenfold.training.recipes import Compiling

CLASSES, SIDE = 10, 32


@dataclass(frozen=True)
class Job:
    """`options` go to `create`; `seed` is added to the run's.

    `load` is how much of a GPU's time it takes beside the others, to share them out. `whole` learns from all 50,000 training images; 2,000 of the test images then make its curve. `start` names the
    job whose weights it begins with.
    """

    architecture: str
    options: dict[str, Any]
    recipe: TrainingRecipe
    load: float
    seed: int = 0
    whole: bool = False
    start: str | None = None

    def network(self) -> nn.Module:
        """The network with random weights from torch's generator."""
        return create(self.architecture, num_classes=CLASSES, in_channels=3, **self.options)


CIFAR = replace(
    training_recipe("cifar"),
    epochs=200,
    batch_size=256,
    optimizer=Sgd(0.2, 0.9, 5e-4),
    warmup=0.05,
    label_smoothing=0.0,
    average=0.999,
    half=True,
    compile=Compiling.ON,
)
CROP = Augmentation(padding=4, flip=True)
# Half of the batches are cut and mixed, the others nearly left alone: Beta(0.2, 0.2) lies close to 0 and 1.
MIX = Augmentation(padding=4, flip=True, mixup=0.2, cutmix=1.0)
MILD_MIX = replace(MIX, mixup=0.1, cutmix=0.5)
SMALL = {"resolution": SIDE, "dropout": 0.0}

TAUGHT = replace(CIFAR, augmentation=MIX, teaching=0.9, temperature=2.0)
TEACHER = replace(
    CIFAR,
    epochs=100,
    batch_size=512,
    optimizer=Sgd(0.4, 0.9, 5e-4),
    warmup=0.1,
    augmentation=MIX,
    average=0.998,
)
# Beyer et al. (2022), "Knowledge distillation: a good teacher is patient and consistent": teacher and student see the
# same strongly varied images, for long.
VARIED = replace(MIX, affine=0.2, colour=0.3)
PATIENT = replace(CIFAR, augmentation=VARIED, teaching=0.95, temperature=2.0, batch_size=512, warmup=0.05)


def patient(architecture: str, options: dict[str, Any], epochs: float, load: float, decay: float) -> Job:
    recipe = replace(PATIENT, epochs=epochs, optimizer=Sgd(0.3, 0.9, decay), clip=5.0)
    return Job(architecture, options, recipe, load, whole=True)


def continued(architecture: str, options: dict[str, Any], start: str, load: float, **changes: Any) -> Job:
    """Trained on from the weights of another job."""
    return Job(architecture, options, replace(PATIENT, clip=5.0, **changes), load, whole=True, start=start)


def tuned(architecture: str, options: dict[str, Any], start: str, load: float, decay: float) -> Job:
    """Trained on with images that are mixed, and neither turned nor recoloured."""
    optimizer = Sgd(0.1, 0.9, decay)
    return continued(architecture, options, start, load, epochs=60, optimizer=optimizer, augmentation=MIX)


def long(
    architecture: str,
    options: dict[str, Any],
    start: str,
    load: float,
    decay: float,
    epochs: float,
    augmentation: Augmentation,
    rate: float = 0.2,
) -> Job:
    """Trained on for long, at a high rate again and in smaller batches."""
    changes = {"epochs": epochs, "batch_size": 256, "augmentation": augmentation}
    return continued(architecture, options, start, load, optimizer=Sgd(rate, 0.9, decay), **changes)


def strong_teacher(seed: int, augmentation: Augmentation) -> Job:
    recipe = replace(TEACHER, epochs=150, augmentation=augmentation)
    return Job("resnet18", {"resolution": SIDE}, recipe, load=1.0, seed=seed, whole=True)


# A name is an architecture, or one with a variant of its recipe behind a dash.
JOBS: dict[str, Job] = {
    "resnet20": Job("resnet20", {}, CIFAR, load=0.8),
    "resnet20-decay": Job("resnet20", {}, replace(CIFAR, optimizer=Sgd(0.2, 0.9, 1e-3)), load=0.8),
    "resnet20-erase": Job(
        "resnet20", {}, replace(CIFAR, augmentation=replace(CROP, erasing=0.2, colour=0.15)), load=0.8
    ),
    "resnet20-mix": Job(
        "resnet20", {}, replace(CIFAR, augmentation=replace(MIX, cutmix=0.5, mixup=0.1)), load=0.8
    ),
    "resnet56": Job(
        "resnet56", {}, replace(CIFAR, augmentation=replace(CROP, erasing=0.3), label_smoothing=0.1), load=2.3
    ),
    "resnet56-mix": Job("resnet56", {}, replace(CIFAR, augmentation=MIX), load=2.3),
    "mobilenet_v2": Job(
        "mobilenet_v2", SMALL, replace(CIFAR, epochs=160, augmentation=MIX, label_smoothing=0.05), load=2.8
    ),
    "efficientnet_b0": Job(
        "efficientnet_b0",
        SMALL,
        replace(CIFAR, epochs=140, augmentation=MIX, label_smoothing=0.05, clip=5.0),
        load=4.2,
    ),
    "resnet18-first": Job("resnet18", {"resolution": SIDE}, TEACHER, load=1.0, seed=1),
    "resnet18-second": Job("resnet18", {"resolution": SIDE}, TEACHER, load=1.0, seed=2),
    "resnet20-taught": Job("resnet20", {}, replace(TAUGHT, epochs=250), load=1.8),
    "resnet56-taught": Job("resnet56", {}, replace(TAUGHT, epochs=200), load=2.6),
    "mobilenet_v2-taught": Job("mobilenet_v2", SMALL, replace(TAUGHT, epochs=150), load=2.2),
    "efficientnet_b0-taught": Job("efficientnet_b0", SMALL, replace(TAUGHT, epochs=130, clip=5.0), load=2.3),
    "teacher-1": strong_teacher(1, MIX),
    "teacher-2": strong_teacher(2, VARIED),
    "teacher-3": strong_teacher(3, replace(VARIED, erasing=0.1)),
    "teacher-4": strong_teacher(4, replace(MIX, affine=0.1, colour=0.15)),
    "resnet20-patient": patient("resnet20", {}, 200, 1.5, 2e-4),
    "resnet56-patient": patient("resnet56", {}, 180, 2.3, 3e-4),
    "mobilenet_v2-patient": patient("mobilenet_v2", SMALL, 170, 2.5, 4e-4),
    "efficientnet_b0-patient": patient("efficientnet_b0", SMALL, 150, 3.4, 4e-4),
    "resnet20-tuned": tuned("resnet20", {}, "resnet20-taught", 1.5, 2e-4),
    "resnet56-tuned": tuned("resnet56", {}, "resnet56-patient", 2.3, 3e-4),
    "mobilenet_v2-tuned": tuned("mobilenet_v2", SMALL, "mobilenet_v2-patient", 2.5, 4e-4),
    "resnet20-long": long("resnet20", {}, "resnet20-tuned", 1.5, 1e-4, 400, MILD_MIX),
    "mobilenet_v2-long": long("mobilenet_v2", SMALL, "mobilenet_v2-tuned", 2.5, 3e-4, 200, MIX),
    "mobilenet_v2-longer": long("mobilenet_v2", SMALL, "mobilenet_v2-tuned", 2.5, 4e-4, 300, MIX),
    "mobilenet_v2-again": long("mobilenet_v2", SMALL, "mobilenet_v2-longer", 2.5, 4e-4, 140, MIX, rate=0.1),
    "mobilenet_v2-varied": long(
        "mobilenet_v2", SMALL, "mobilenet_v2-again", 2.5, 3e-4, 150, replace(VARIED, mixup=1.0), rate=0.1
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
