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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.training.child import DONE, PAUSED, READY, SPARE, child, kept_in, results_in

from tenfold.files import write_json

ROOT = Path(__file__).resolve().parents[2]
WORTH_RETRYING = 40.0  # seconds that must be left to start a network again


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
