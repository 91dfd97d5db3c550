"""Train networks on CIFAR-10 side by side on the GPUs there are, and measure training throughput beside timm.

    TENFOLD_DATA=FOLDER OUT=results PYTHONPATH=src python -m benchmarks.training.h200 --seconds 165

Each network is a process of its own; they are shared out over the GPUs, several on one if need be. `--seconds` bounds
the whole: what is trained by then is scored and kept, its learning rate run down. A network that fails early is
started again without what may have failed: compiling, or else the CUDA graph. With `--teachers`, those are trained
first, for `--teacher-seconds`, while the others have themselves compiled; then their mean teaches the others. OUT
receives, as they finish, `NAME.safetensors` (fp16), `results.json` and `curves.png`. While throughput is timed, the
other processes on that GPU are stopped. With `--folder`, teachers, checkpoints and the weights that others start from
lie there, and a call with the same folder goes on; `--pause` ends a call with a checkpoint, as far as it came, in place
of a learning rate run down.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.files import write_json

if TYPE_CHECKING:
    from benchmarks.training.jobs import Job
    from torch import nn

    from tenfold.data import Splits
    from tenfold.training import TrainingRecipe

ROOT = Path(__file__).resolve().parents[2]
SPARE = 10.0  # seconds of the whole kept for scoring and writing
WORTH_RETRYING = 40.0  # seconds that must be left to start a network again
READY, DONE = "READY", "DONE"
PAUSED = 75  # the exit status of a child that is to go on in another call


@dataclass
class Process:
    """A child at work: what it does, the GPU it is on, and where its result goes."""

    name: str
    kind: str  # "train" or "throughput"
    gpu: int
    result: Path
    child: subprocess.Popen[str]
    options: list[str] = field(default_factory=list)


@dataclass
class Turns:
    """Whose turn it is to time something on each GPU; everything else there is stopped meanwhile."""

    timing: dict[int, Process] = field(default_factory=dict)
    waiting: list[Process] = field(default_factory=list)

    def ready(self, process: Process, running: list[Process]) -> None:
        """Give the process its GPU to itself, as soon as nobody else has that."""
        if process.gpu in self.timing:
            self.waiting.append(process)
            return
        self.timing[process.gpu] = process
        for other in beside(process, running):
            os.kill(other.child.pid, signal.SIGSTOP)
        time.sleep(1.0)  # what they had started on the GPU runs out
        assert process.child.stdin is not None
        process.child.stdin.write("go\n")
        process.child.stdin.flush()

    def done(self, process: Process, running: list[Process]) -> None:
        """Let the others on its GPU go on, and the next one have its turn."""
        if self.timing.get(process.gpu) is not process:
            self.waiting = [other for other in self.waiting if other is not process]
            return
        del self.timing[process.gpu]
        for other in beside(process, running):
            os.kill(other.child.pid, signal.SIGCONT)
        following = next((other for other in self.waiting if other.gpu == process.gpu), None)
        if following is not None:
            self.waiting.remove(following)
            self.ready(following, running)


def beside(process: Process, running: list[Process]) -> list[Process]:
    """The other processes that live on the same GPU."""
    return [p for p in running if p.gpu == process.gpu and p is not process and p.child.poll() is None]


def main() -> None:
    options = parsed()
    if options.pause and options.folder is None:
        sys.exit("--pause needs --folder")
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    check_starts(options)
    if options.child:
        child(options)
        return
    started = time.monotonic()
    deadline = started + options.seconds
    out = results_in()
    out.mkdir(parents=True, exist_ok=True)
    gpus = 1 if options.device == "cpu" else count_gpus()
    print(f"{gpus} {options.device} device(s), {options.seconds:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="h200-") as scratch:
        run(options, Path(scratch), out, gpus, deadline)
    print(f"{time.monotonic() - started:.0f} s in all", flush=True)


def run(options: argparse.Namespace, scratch: Path, out: Path, gpus: int, deadline: float) -> None:
    """Start everything, collect results as they come, and restart once what fails early."""
    lines: queue.Queue[tuple[Process, str]] = queue.Queue()
    places, load = shared_out(options.networks, gpus)
    places |= shared_out(options.teachers, gpus)[0]
    running: list[Process] = []
    turns = Turns()
    for name in options.throughput:  # first, since compiling takes longest
        gpu = min(range(gpus), key=lambda g: load[g])
        load[gpu] += 1.0
        running.append(started_process(options, scratch, lines, name, "throughput", gpu, deadline))
    # Without a folder of its own, what lies in OUT may be of another run.
    ready = {n for n in options.teachers if options.folder and (options.folder / f"{n}.safetensors").exists()}
    untrained = [name for name in options.teachers if name not in ready]
    for name in untrained:
        (kept_in(options) / f"{name}.safetensors").unlink(missing_ok=True)
    for name in (*untrained, *options.networks):
        running.append(started_process(options, scratch, lines, name, "train", places[name], deadline))
    found: dict[str, dict[str, Any]] = {"networks": {}, "throughput": {}, "failures": {}}
    while running:
        try:
            process, line = lines.get(timeout=1.0)
        except queue.Empty:
            if time.monotonic() > deadline + SPARE:
                for process in running:
                    process.child.kill()
                    found["failures"][f"{process.kind} {process.name}"] = "not finished in time"
                break
            continue
        if line == READY:
            turns.ready(process, running)
            continue
        if line and line != DONE:
            print(f"[{process.kind} {process.name}] {line}", flush=True)
            continue
        turns.done(process, running)
        if line == DONE:
            continue
        running.remove(process)
        if process.child.wait() == 0 and process.result.exists():
            kind = "networks" if process.kind == "train" else "throughput"
            found[kind][process.name] = json.loads(process.result.read_text())
        elif process.child.returncode == PAUSED:
            print(f"{process.name} goes on in the next call", flush=True)
        elif process.kind == "train" and not process.options and deadline - time.monotonic() > WORTH_RETRYING:
            less = "--no-compile" if compiles(process.name) else "--no-graph"
            print(f"{process.name} failed; again with {less}", flush=True)
            running.append(
                started_process(options, scratch, lines, process.name, "train", process.gpu, deadline, [less])
            )
            continue
        else:
            found["failures"][f"{process.kind} {process.name}"] = f"exit status {process.child.returncode}"
        store(found, out)
    store(found, out)
    summarise(found)


def check_starts(options: argparse.Namespace) -> None:
    """Leave where weights that a network is to begin with do not lie in the folder."""
    from benchmarks.training.jobs import JOBS

    for name in options.networks:
        start = JOBS[name].start if name in JOBS else None
        path = None if start is None else kept_in(options) / f"{start}.safetensors"
        if path is not None and not path.is_file():
            sys.exit(f"{name} begins with the weights of {start}: {path} does not exist")


def results_in() -> Path:
    """Where results go."""
    return Path(os.environ.get("OUT", "runs/h200"))


def kept_in(options: argparse.Namespace) -> Path:
    """Where the weights of teachers, and those that others start from, lie."""
    return options.folder or results_in()


def compiles(name: str) -> bool:
    """Whether the network's recipe has it compiled."""
    from benchmarks.training.jobs import JOBS

    from tenfold.training.recipes import Compiling

    return JOBS[name].recipe.compile is Compiling.ON


def shared_out(names: list[str], gpus: int) -> tuple[dict[str, int], list[float]]:
    """A GPU for each network, the heaviest first to the one with least to do; and the load of each GPU."""
    from benchmarks.training.jobs import JOBS

    load = [0.0] * gpus
    places = {}
    for name in sorted(names, key=lambda n: -JOBS[n].load):
        gpu = min(range(gpus), key=lambda g: load[g])
        places[name] = gpu
        load[gpu] += JOBS[name].load
    return places, load


def started_process(
    options: argparse.Namespace,
    scratch: Path,
    lines: queue.Queue[tuple[Process, str]],
    name: str,
    kind: str,
    gpu: int,
    deadline: float,
    extra: list[str] | None = None,
) -> Process:
    """A child for one network; its lines arrive in `lines`, an empty one when it has ended."""
    result = scratch / f"{kind}-{name}.json"
    left = deadline - time.monotonic()
    command = [sys.executable, "-u", "-m", "benchmarks.training.h200", "--child", kind, "--networks", name]
    command += ["--seconds", f"{left:.1f}", "--device", options.device, "--result", str(result)]
    command += [
        "--examples",
        str(options.examples),
        "--batch",
        str(options.batch),
    ]
    command += ["--teachers", ",".join(options.teachers), "--teacher-seconds", str(options.teacher_seconds)]
    command += [] if options.epochs is None else ["--epochs", str(options.epochs)]
    command += [] if options.folder is None else ["--folder", str(options.folder)]
    command += ["--pause"] if options.pause else []
    command += extra or []
    # One child shares the cores with all others; compiling with as many workers as cores would stall them.
    children = 1 + len(options.networks) + len(options.teachers) + len(options.throughput)
    share = str(max(2, (os.cpu_count() or 2) // children))
    environment = os.environ | {"OMP_NUM_THREADS": share, "TORCHINDUCTOR_COMPILE_THREADS": share}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    )
    if options.device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible != [""] else str(gpu)
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    process = Process(name, kind, gpu, result, child, extra or [])

    def listen() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip():
                lines.put((process, line.strip()))
        lines.put((process, ""))

    threading.Thread(target=listen, daemon=True).start()
    return process


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


def store(found: dict[str, dict[str, Any]], out: Path) -> None:
    """Write what has been found so far, and its picture where matplotlib is there."""
    from tenfold.errors import OutputError
    from tenfold.report import learning_curves

    write_json(out / "results.json", found)
    curves = {name: result["curve"] for name, result in found["networks"].items()}
    if not any(curves.values()):
        return
    try:
        learning_curves(curves, out / "curves.png")
    except OutputError as error:
        print(error, flush=True)


def summarise(found: dict[str, dict[str, Any]]) -> None:
    """A line for each result."""
    for name, result in found["networks"].items():
        test, speed = result["test"], result["images_per_second"]
        print(
            f"{name:18} test {100 * test['value']:.2f}% [{100 * test['low']:.2f}, {100 * test['high']:.2f}], "
            f"{result['epochs']:.1f} epochs, {result['seconds']:.0f} s, {speed or 0:,.0f} images/s, "
            f"graph {result['captured']}",
            flush=True,
        )
    for name, result in found["throughput"].items():
        print(f"{name:18} {result['ratio']:.2f} times timm's throughput", flush=True)
    for name, text in found["failures"].items():
        print(f"{name:18} FAILED: {text}", flush=True)


def count_gpus() -> int:
    """The number of GPUs, without a CUDA context in this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return len(visible.split(","))
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--networks", type=names, default=names("resnet20,resnet56,mobilenet_v2,efficientnet_b0,vit_ti")
    )
    parser.add_argument("--teachers", type=names, default=[], help="networks that teach the others")
    parser.add_argument("--teacher-seconds", type=float, default=145.0, help="for each teacher")
    parser.add_argument(
        "--throughput", type=names, default=[], help="networks to compare with timm's, as mobilenet_v2@224"
    )
    parser.add_argument("--seconds", type=float, default=165.0, help="for everything")
    parser.add_argument("--folder", type=Path, help="keeps teachers and checkpoints from call to call")
    parser.add_argument("--pause", action="store_true", help="stop with checkpoints when the time is over")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--epochs", type=float, help="instead of each recipe's")
    parser.add_argument(
        "--examples", type=int, default=0, help="of each split, to try the script; 0 takes all"
    )
    parser.add_argument("--batch", type=int, default=256, help="in the comparison with timm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-graph", action="store_true", help="no CUDA graphs")
    parser.add_argument("--no-compile", action="store_true", help="no torch.compile")
    parser.add_argument("--child", choices=("train", "throughput"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    main()
