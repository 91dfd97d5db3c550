"""Training throughput beside timm: the same network, trained by `Stepper` and by a plain loop under torch.compile.

Both compute in bf16 with channels last. Tenfold's steps crop and mirror bytes that lie on the GPU, and are replayed
from a CUDA graph; the plain loop is handed one finished batch again and again, so that it has no data to prepare at
all. Rounds are interleaved in one process, each long enough to be timed by the wall clock after a synchronisation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tenfold.data.pixels import Scaling
from tenfold.models import create, named_network
from tenfold.training import Augmentation, Precision, Sgd, training_recipe
from tenfold.training.resident import ResidentImages
from tenfold.training.stepper import WARM_UP, Stepper

PEERS = {
    "mobilenet_v2": "mobilenetv2_100",
    "efficientnet_b0": "efficientnet_b0",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "vit_ti_16": "vit_tiny_patch16_224",
}
CLASSES = 1000
ROUNDS = 7

Step = Callable[[], None]


def our_step(
    name: str, side: int, batch: int, device: torch.device, compiled: bool
) -> tuple[Step, nn.Module]:
    """One step of Tenfold's trainer on random bytes, ready to be timed, and its network."""
    model = create(name, num_classes=CLASSES).to(device).train()
    pixels = torch.randint(0, 256, (2 * batch, 3, side, side), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (2 * batch,))
    data = ResidentImages(pixels, labels, Scaling((0.5,) * 3, (0.25,) * 3), device, padding=4)
    precision = Precision(channels_last=True, bf16=True)
    precision.model(model)
    recipe = replace(
        training_recipe("cifar"), optimizer=Sgd(0.01), augmentation=Augmentation(padding=4, flip=True)
    )
    stepper = Stepper(model, data, recipe, batch, precision)
    if compiled:
        stepper.compile()

    def step() -> None:
        stepper(torch.randint(2 * batch, (batch,), device=device), 0.01)

    for _ in range(WARM_UP + 2):
        step()
    return step, model


def plain_step(
    name: str, side: int, batch: int, device: torch.device, compiled: bool
) -> tuple[Step, nn.Module]:
    """One step of a plain mixed-precision loop on timm's network, and the network."""
    model = (
        named_network(f"timm:{name}?num_classes={CLASSES}")
        .to(device, memory_format=torch.channels_last)
        .train()
    )
    images = torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,), device=device)
    forward = torch.compile(model) if compiled else model
    rule = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def step() -> None:
        rule.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            outputs = forward(images)
        F.cross_entropy(outputs.float(), labels, label_smoothing=0.05).backward()
        rule.step()

    for _ in range(WARM_UP + 2):
        step()
    return step, model


def compared(
    name: str,
    device: torch.device,
    *,
    side: int,
    batch: int,
    steps: int,
    compiled: bool,
    ready: Callable[[], None],
) -> dict[str, Any]:
    """Images a second of both, and the median ratio of interleaved rounds. `ready` is called before the timing."""
    started = time.monotonic()
    plain, theirs = plain_step(PEERS[name], side, batch, device, compiled)
    plain_seconds = time.monotonic() - started
    ours, mine = our_step(name, side, batch, device, compiled)
    our_seconds = time.monotonic() - started - plain_seconds
    parameters = [sum(p.numel() for p in model.parameters()) for model in (mine, theirs)]
    if parameters[0] != parameters[1]:
        raise RuntimeError(f"{name} and timm's are not equal: {parameters[0]} and {parameters[1]} parameters")
    ready()
    rates: dict[str, list[float]] = {"tenfold": [], "timm": []}
    for _ in range(ROUNDS):
        for who, step in (("tenfold", ours), ("timm", plain)):
            rates[who].append(steps * batch / seconds_of(step, steps, device))
    ratios = [a / b for a, b in zip(rates["tenfold"], rates["timm"], strict=True)]
    return {
        "network": name,
        "peer": f"timm {PEERS[name]}, torch.compile, bf16, channels last"
        if compiled
        else f"timm {PEERS[name]}, eager",
        "parameters": parameters[0],
        "side": side,
        "batch": batch,
        "images_per_second": {who: statistics.median(values) for who, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "preparing_seconds": {"tenfold": our_seconds, "timm": plain_seconds},
    }


def seconds_of(step: Step, steps: int, device: torch.device) -> float:
    """Seconds that so many steps take, after one that is not timed."""
    step()
    settle(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    settle(device)
    return time.perf_counter() - started


def settle(device: torch.device) -> None:
    """Wait for everything that was started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
