"""What a child of `h200.py` does: train one network, or measure its throughput beside timm's, on the one GPU it sees."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tenfold.files import write_json

if TYPE_CHECKING:
    from benchmarks.training.jobs import Job
    from torch import nn

    from tenfold.data import Splits
    from tenfold.training import TrainingRecipe

SPARE = 10.0  # seconds of the whole kept for scoring and writing
READY, DONE = "READY", "DONE"
PAUSED = 75  # the exit status of a child that is to go on in another call


def results_in() -> Path:
    """Where results go."""
    return Path(os.environ.get("OUT", "runs/h200"))


def kept_in(options: argparse.Namespace) -> Path:
    """Where the weights of teachers, and those that others start from, lie."""
    return options.folder or results_in()


def child(options: argparse.Namespace) -> None:
    """What a child does."""
    if options.child == "train":
        train_one(options)
    else:
        measure_one(options)


def train_one(options: argparse.Namespace) -> None:
    """Train one network; its weights go to OUT, its result to `--result`."""
    deadline = time.monotonic() + options.seconds
    import torch
    from benchmarks.training.jobs import JOBS

    from tenfold.data.cifar10 import cifar10
    from tenfold.training import Ensemble, train
    from tenfold.training.checkpoint import (
        CHECKPOINT,
        load_weights,
        read_checkpoint,
        read_weights,
        write_weights,
    )
    from tenfold.training.recipes import Compiling

    name = options.networks[0]
    job = JOBS[name]
    splits = cifar10(whole=job.whole)
    if options.examples:
        splits = replace(
            splits,
            train=splits.train.take(options.examples),
            validation=splits.validation.take(options.examples),
            test=splits.test.take(options.examples),
        )
    teaching = name in options.teachers
    seed = options.seed + job.seed
    torch.manual_seed(seed)
    network = job.network()
    recipe = job.recipe if options.epochs is None else replace(job.recipe, epochs=options.epochs)
    if options.no_compile:
        recipe = replace(recipe, compile=Compiling.OFF)
    last = time.monotonic()

    def progress(fraction: float, text: str) -> None:
        nonlocal last
        if time.monotonic() - last > 15:
            last = time.monotonic()
            print(text, flush=True)

    out = results_in()
    teacher = None
    if options.teachers and not teaching:
        teacher = Ensemble([JOBS[one].network() for one in options.teachers])
        if not options.no_compile:
            rehearse(job, splits, recipe, teacher, options)
        print("waiting for the teachers", flush=True)
        for one, member in zip(options.teachers, teacher.members, strict=True):
            path = kept_in(options) / f"{one}.safetensors"
            while not path.exists():
                time.sleep(0.5)
            load_weights(member, read_weights(path), one)
    if job.start is not None:
        load_weights(network, read_weights(kept_in(options) / f"{job.start}.safetensors"), job.start)
    print("training", flush=True)
    left = deadline - SPARE - time.monotonic()
    pausing = options.pause and not teaching
    timer = threading.Timer(left, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    seconds = min(left, options.teacher_seconds) if teaching else left
    folder = None if teaching or options.folder is None else options.folder / name
    resume = folder is not None and (folder / CHECKPOINT).exists()
    if resume:  # a run counts the time of all its calls
        seconds += read_checkpoint(folder / CHECKPOINT)[1]["seconds"]
    try:
        if pausing:
            timer.start()
        result = train(
            network,
            splits,
            recipe,
            name=name,
            seconds=None if pausing else seconds,
            device=options.device,
            seed=seed,
            folder=folder,
            resume=resume,
            teacher=teacher,
            graph=not options.no_graph,
            progress=progress,
        )
    except KeyboardInterrupt:
        if not pausing:
            raise
        sys.exit(PAUSED)
    finally:
        timer.cancel()
    for place in {kept_in(options), *(() if teaching else (out,))}:
        write_weights(network, place / f"{name}.safetensors", half=recipe.half)
    made = result.to_json() | {"architecture": job.architecture, "options": job.options, "whole": job.whole}
    made |= {"start": job.start, "teachers": [] if teaching else options.teachers}
    write_json(options.result, made)
    print(result.summary(), flush=True)


def rehearse(
    job: Job, splits: Splits, recipe: TrainingRecipe, teacher: nn.Module, options: argparse.Namespace
) -> None:
    """A few steps of a network like this one: what they compile, the run in earnest finds ready."""
    from tenfold.training import train

    few = replace(recipe, epochs=12 * recipe.batch_size / len(splits.train))
    train(job.network(), splits, few, device=options.device, teacher=teacher, graph=not options.no_graph)


def measure_one(options: argparse.Namespace) -> None:
    """Measure one network beside timm's, alone on its GPU while it is timed."""
    import torch
    from benchmarks.training.throughput import compared

    from tenfold.cost import environment

    def ready() -> None:
        print(READY, flush=True)
        sys.stdin.readline()

    name, _, side = options.networks[0].partition("@")
    on_gpu = options.device == "cuda"
    if on_gpu:
        torch.backends.cudnn.benchmark = True
    try:
        found = compared(
            name,
            torch.device(options.device),
            side=int(side or 224),
            batch=options.batch,
            steps=20 if on_gpu else 1,
            compiled=on_gpu,
            ready=ready,
        )
    finally:
        print(DONE, flush=True)
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    write_json(options.result, found | {"device": device, "environment": environment()})
    rates = found["images_per_second"]
    print(
        f"tenfold {rates['tenfold']:,.0f} images/s, timm {rates['timm']:,.0f}, ratio {found['ratio']:.2f}",
        flush=True,
    )
