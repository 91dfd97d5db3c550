"""Every family of `tenfold.models` through ONNX: exported, opened in ONNX Runtime and compared with PyTorch.

    PYTHONPATH=src:. python -m benchmarks.networks.exports

The smallest network of each family for 10 classes, fp32, on two random images; random weights, and the statistics of
norms are those of 40 such images, as they would be after training. Writes `exports.json`.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tenfold.cost import environment
from tenfold.data import Split
from tenfold.deploy import OnnxRunner, export_onnx, verify
from tenfold.errors import TenfoldError
from tenfold.files import write_json
from tenfold.models import create, describe, names
from tenfold.training.norms import refresh_statistics

SIDES = (64, 224)  # the first that the network takes
SEEN = 40  # images that settle the statistics of norms


def smallest() -> dict[str, str]:
    """The network with the fewest multiply-adds of each family."""
    found: dict[str, str] = {}
    for name in sorted(names(), key=lambda name: describe(name).macs):
        found.setdefault(describe(name).family, name)
    return found


def made(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """The network in eval mode and two images for it."""
    torch.manual_seed(0)
    for side in SIDES:
        images = torch.randn(2, 3, side, side)
        try:
            model = create(name, num_classes=10, in_channels=3, resolution=side)
        except TenfoldError:
            try:
                model = create(name, num_classes=10, in_channels=3)
                with torch.no_grad():
                    model.eval()(images)
            except (TenfoldError, RuntimeError):
                continue
        seen = torch.randn(SEEN, 3, side, side)
        refresh_statistics(model, Split((seen, torch.zeros(SEEN, dtype=torch.long))), batch_size=8)
        return model.eval(), images
    raise RuntimeError(f"{name} takes images of no side of {SIDES}")


def main() -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for family, name in smallest().items():
            started = time.monotonic()
            row: dict[str, Any] = {"family": family, "network": name}
            try:
                model, images = made(name)
                path = Path(scratch) / f"{name}.onnx"
                export_onnx(model, images, path)
                check = verify(model, OnnxRunner(path), images)
                check.require()
                row |= {"side": images.shape[-1], "bytes": path.stat().st_size, "verified": True}
                row["snr_db"] = check.snr_db if math.isfinite(check.snr_db) else None  # None: exactly equal
                path.unlink()
            except TenfoldError as error:
                row |= {"verified": False, "error": str(error)}
            rows.append(row)
            print(row, f"{time.monotonic() - started:.1f} s", flush=True)
            write_json(Path(__file__).with_name("exports.json"), {"rows": rows, "environment": environment()})


if __name__ == "__main__":
    main()
