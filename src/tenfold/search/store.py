"""The folder of a run: every point is stored as it is finished, so that nothing is ever done twice.

OUT/run.json says which run it is (digests of network and data, budget, device, seed); OUT/points/<id>/ holds
one finished artefact each; OUT/steps/<name>.json what a step of the job found. Several processes may work in
one folder: a point is claimed by writing OUT/claims/<id>, under a lock, and a claim whose owner stopped touching it
is free again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from tenfold.cost import Inputs, as_args
from tenfold.data import Split, Task
from tenfold.errors import OutputError
from tenfold.files import write_json
from tenfold.search.point import Point

STALE_SECONDS = 120.0  # after so long in silence the owner of a claim is taken for dead
PROCESS = secrets.token_hex(8)  # tells this process from one that had its number before
WAIT_SECONDS = 0.5
LOCK = ".claims.lock"  # held for a moment, while a claim is taken
FAILED = "failed-"  # begins the names of steps that say why a point cannot be made
SAMPLED_EXAMPLES = 64


class Store:
    """The folder `root` of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, root: Path | str, identity: dict[str, Any]) -> Store:
        """Create the folder, or go on with the run it holds; `OutputError` if that is another run."""
        root = Path(root)
        if root.exists() and not root.is_dir():
            raise OutputError(f"--out {root} is a file: name a folder")
        marker = root / "run.json"
        identity = json.loads(json.dumps(identity))
        if marker.exists():
            found = read_json(marker)
            changed = [
                f"{key}{_told(found.get(key), identity[key])}"
                for key in sorted(identity)
                if found.get(key) != identity[key]
            ]
            if changed:
                raise OutputError(
                    f"--out {root} holds another run (different {', '.join(changed)}): "
                    "name another folder, or remove it"
                )
        elif root.exists() and any(path.name[0] != "." for path in root.iterdir()):  # what others write now
            raise OutputError(f"--out {root} is not empty and holds no run: name another folder")
        else:
            write_json(marker, identity)
        for name in ("points", "claims", "steps", "cache"):
            (root / name).mkdir(parents=True, exist_ok=True)
        return cls(root)

    def points(self) -> list[Point]:
        """Every finished point, in the order they were finished."""
        found = [path for path in (self.root / "points").glob("*/point.json") if path.parent.name[0] != "."]
        found.sort(key=lambda path: path.stat().st_mtime)
        return [Point.from_json(read_json(path)) for path in found]

    def has(self, point_id: str) -> bool:
        """Whether this point is finished."""
        return (self.root / "points" / point_id / "point.json").exists()

    def point(self, point_id: str) -> Point:
        """A finished point."""
        return Point.from_json(read_json(self.root / "points" / point_id / "point.json"))

    def update(self, point: Point) -> None:
        """Store what was newly measured of a finished point."""
        write_json(self.root / "points" / point.id / "point.json", point.to_json())

    def forget(self, finalist: str) -> None:
        """Remove the points of a finalist whose step was never finished."""
        for point in self.points():
            if point.finalist == finalist:
                shutil.rmtree(self.root / "points" / point.id, ignore_errors=True)

    @contextmanager
    def adding(self, point_id: str) -> Iterator[Path]:
        """Yield a temporary folder that becomes the point's when the block ends without an error."""
        folder = Path(tempfile.mkdtemp(dir=self.root / "points", prefix=f".{point_id}-"))
        try:
            yield folder
            folder.chmod(0o755)
            target = self.root / "points" / point_id
            if target.exists():
                shutil.rmtree(target)
            folder.replace(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def step(self, name: str) -> Any | None:
        """What a finished step found, or None."""
        path = self.root / "steps" / f"{name}.json"
        return read_json(path) if path.exists() else None

    def finish_step(self, name: str, value: Any) -> None:
        """Store what a step found."""
        write_json(self.root / "steps" / f"{name}.json", value)

    def note_failure(self, point_id: str, why: str) -> None:
        """Store why a point cannot be made, so that nobody tries again."""
        self.finish_step(f"{FAILED}{point_id}", why)

    def failures(self) -> dict[str, str]:
        """Why each point that cannot be made cannot."""
        paths = sorted((self.root / "steps").glob(f"{FAILED}*.json"))
        return {path.stem.removeprefix(FAILED): read_json(path) for path in paths}

    def claim(self, name: str) -> Claim | None:
        """The claim on a piece of work, or None if a living process holds it."""
        path, lock = self.root / "claims" / name, self.root / LOCK
        mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "process": PROCESS})
        # Between seeing that a claim is stale and taking it nobody else may do the same.
        with FileLock(lock):
            if path.exists() and not is_stale(path):
                return None
            path.write_text(mine)
        return Claim(path, mine, lock)

    def in_work(self, names: Iterable[str]) -> bool:
        """Whether a living process holds a claim on one of these."""
        paths = [self.root / "claims" / name for name in names]
        return any(path.exists() and not is_stale(path) for path in paths)

    @contextmanager
    def claimed(self, name: str) -> Iterator[Claim | None]:
        """Hold the claim within the block; yields None if a living process holds it."""
        claim = self.claim(name)
        try:
            yield claim
        finally:
            if claim is not None:
                claim.release()

    @contextmanager
    def waiting_for(self, name: str) -> Iterator[Claim]:
        """Hold the claim within the block, after whoever holds it now has let go."""
        claim = self.claim(name)
        while claim is None:
            time.sleep(WAIT_SECONDS)
            claim = self.claim(name)
        try:
            yield claim
        finally:
            claim.release()

    def spent(self) -> float:
        """Seconds that earlier processes of this run have used."""
        return float((self.step("clock") or {"seconds": 0.0})["seconds"])


class Claim:
    """A piece of work that this process has for itself, until released; meanwhile a thread says that it is alive."""

    def __init__(self, path: Path, mine: str, lock: Path) -> None:
        self.path, self.mine, self.lock = path, mine, lock
        self._over = threading.Event()
        threading.Thread(target=self._say_so, daemon=True).start()

    def touch(self) -> None:
        """Say that the owner is alive."""
        self._if_held(os.utime)

    def release(self) -> None:
        """Let others have it."""
        self._over.set()
        self._if_held(Path.unlink)

    def _if_held(self, act: Callable[[Path], None]) -> None:
        """Others may have taken it from an owner that was silent, as a process is that was halted."""
        with suppress(FileNotFoundError), FileLock(self.lock):
            if self.path.read_text() == self.mine:
                act(self.path)

    def _say_so(self) -> None:
        while not self._over.wait(STALE_SECONDS / 6):
            self.touch()


def is_stale(path: Path) -> bool:
    """Whether the claim's owner is dead: its process is gone, or it was silent for too long."""
    try:
        owner = json.loads(path.read_text())
        if (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid()):
            # A container that was started again has the name and the numbers of the one before.
            return bool(owner.get("process") != PROCESS)
        if owner["host"] == socket.gethostname():
            os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, PermissionError):
        pass  # half written, or of somebody else's process: its age must tell
    except FileNotFoundError:
        return True
    return time.time() - path.stat().st_mtime > STALE_SECONDS


def read_json(path: Path) -> Any:
    """A JSON file of the run; `OutputError` if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot read {path}: {error}; remove it to have it made again") from error


def network_digest(model: torch.nn.Module) -> str:
    """A digest of every parameter and buffer: names, shapes, types and bytes."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def split_digest(split: Split | None) -> str | None:
    """A digest of a split's length, of a fixed draw of its examples and, where it is in memory, of all targets."""
    if split is None:
        return None
    digest = hashlib.sha256(str(len(split)).encode())
    if split.stacked is not None:
        digest.update(split.stacked[1].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    sample = split.take(SAMPLED_EXAMPLES)
    inputs, targets = sample.select(list(range(len(sample))))
    for tensor in (*flat(inputs), targets):
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def flat(inputs: Inputs) -> list[torch.Tensor]:
    """The tensors of the inputs in a fixed order."""
    args, kwargs = as_args(inputs)
    return [*args, *(kwargs[name] for name in sorted(kwargs))]


def _told(before: Any, now: Any) -> str:
    """What of an option was otherwise, as " (size_mb 0.2, now 0.3)"; nothing of a digest, which tells a reader nothing."""
    if isinstance(before, dict) and isinstance(now, dict):
        changed = [name for name in now if before.get(name) != now[name]]
        told = [f"{name} {_or_none(before.get(name))}, now {_or_none(now[name])}" for name in changed]
        return f" ({', '.join(told)})"
    return f" ({before}, now {now})" if isinstance(now, int) else ""


def _or_none(value: Any) -> Any:
    return "none" if value is None else value


def identity_of(task: Task, **options: Any) -> dict[str, Any]:
    """What makes two runs the same run."""
    return {
        "network": network_digest(task.model),
        "train": split_digest(task.train),
        "validation": split_digest(task.validation),
        "test": split_digest(task.test),
        "metric": f"{getattr(task.metric, '__module__', '')}.{getattr(task.metric, '__qualname__', 'metric')}",
        **options,
    }
