"""The result file of a GPU, out of what was measured on it: fitted, counted and predicted on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import print_table, rounded
from benchmarks.cost.networks import DEVELOPMENT, network
from benchmarks.cost.raw import calibrated_from, read_raw
from benchmarks.cost.summaries import COLUMNS, summaries, table_row

from tenfold.cost import Device, Profile, profile
from tenfold.cost.prediction_check import checked
from tenfold.files import write_json

FOLDER = Path(__file__).parent


def step_report(work: Path) -> None:
    """Fit to the samples, predict the networks, and write `CARD.json`."""
    raw = read_raw(work / "gpu.json.gz")
    device = calibrated_from(raw, Device("cuda", "torch"), "fp16")
    assert device.calibration is not None
    rows, batches = [], {}
    for batch in sorted({int(batch) for times in raw["networks"].values() for batch in times}):
        checks = [
            checked(name, _counted(name, batch), batch, twice(times[str(batch)]), device)
            for name, times in raw["networks"].items()
        ]
        batches[f"batch {batch}"] = found = summaries(checks)
        for row in found["rows"]:
            row["passes_ms"] = raw["networks"][row["network"]][str(batch)]
        rows += [table_row(f"batch {batch}, {title}", found[title]) for title in found if title != "rows"]
    card = raw["card"].split()[1].lower()  # "NVIDIA H200", "NVIDIA H100 80GB HBM3"
    print_table(f"{raw['card']}, fp16: networks that calibration never saw", COLUMNS, rows)
    figures: dict[str, Any] = {
        "card": raw["card"], "environment": raw["environment"], "calibration": device.calibration.summary,
        "machine": raw["machine"], "development": [name for name in DEVELOPMENT if name in raw["networks"]],
        "left_out": raw["left_out"], **batches, "memory": raw["memory"],
    }  # fmt: skip
    write_json(FOLDER / f"{card}.json", rounded(figures))


def twice(passes: Sequence[float]) -> tuple[float, float]:
    """Two figures for a network, each the least of every other pass: what disturbs a processor only adds to a time."""
    return min(passes[::2]), min(passes[1::2])


def _counted(name: str, batch: int) -> Profile:
    example = torch.empty(batch, 3, 224, 224, dtype=torch.float16)
    return profile(network(name).half(), example)
