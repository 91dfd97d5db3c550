"""A frontier of a ResNet-56 as `tenfold shrink` would write it, made up but of realistic size, for the report's tests.

`python tests/report/frontier_sample.py FOLDER` draws the variants, to look at.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

RECIPE = """\
version: 1
steps:
  - technique: prune
    criterion: taylor
    keep: 0.42
    stream: 0.75
    blocks: [layer1.3, layer1.5, layer2.4, layer3.6]
  - technique: distill
    temperature: 4.0
    alpha: 0.3
    seconds: 42
  - technique: quantize
    scheme: static
    granularity: per-channel
    weight_bits: 7
    bias_correction: true
"""

BASELINES = [  # id, label, accuracy, bytes, ms, iqr, memory
    ("eager", "PyTorch eager, fp32", 0.9460, 3_400_000, 9.05, 0.31, 212e6),
    ("onnx-fp32", "ONNX Runtime, fp32", 0.9460, 3_430_000, 1.10, 0.021, 61e6),
    ("onnx-int8-static", "ONNX Runtime, static INT8", 0.9451, 952_000, 0.552, 0.014, 52e6),
    ("onnx-int8-dynamic", "ONNX Runtime, dynamic INT8", 0.9448, 951_000, 3.02, 0.08, 55e6),
]
CANDIDATES = [  # label, accuracy, bytes, ms, iqr, on the frontier
    ("prune 18 blocks, width 0.75, static INT8", 0.9428, 588_000, 0.402, 0.012, True),
    ("prune 20 blocks, width 0.62, static INT8", 0.9419, 421_000, 0.361, 0.010, True),
    ("prune 21 blocks, width 0.5, static INT8", 0.9412, 306_000, 0.323, 0.009, True),
    ("prune 22 blocks, width 0.42, static INT8", 0.9371, 243_000, 0.281, 0.011, True),
    ("prune 24 blocks, width 0.36, static INT8", 0.9275, 190_000, 0.188, 0.006, True),
    ("prune 25 blocks, width 0.3, static INT8", 0.9003, 151_000, 0.104, 0.004, True),
    ("prune 12 blocks, width 0.8, fp32", 0.9422, 1_960_000, 0.640, 0.015, False),
    ("factorise all, energy 0.9, fp32", 0.9390, 2_310_000, 1.310, 0.040, False),
    ("prune 21 blocks, width 0.5, dynamic INT8", 0.9408, 304_000, 0.905, 0.030, False),
    ("width 0.25, all blocks, static INT8", 0.9251, 402_000, 0.648, 0.019, False),
]


def _point(**known: Any) -> dict[str, Any]:
    drop = round(0.9460 - known["score"], 4)
    return {
        "recipe": None,
        "recipe_text": None,
        "score_low": known["score"] - 0.0047,
        "score_high": known["score"] + 0.0044,
        "drop": drop,
        "drop_low": drop - 0.0028 if drop else 0.0,
        "drop_high": drop + 0.0028 if drop else 0.0,
        "validation_score": known["score"] + 0.0031,
        "validation_drop": drop,
        "validation_drop_low": drop - 0.004 if drop else 0.0,
        "validation_drop_high": drop + 0.004 if drop else 0.0,
        "meets_budget": None,
        "note": None,
        "runs": 200,
        "params": known["size_bytes"] // 4,
        "macs": int(known["latency_ms"] * 1.1e8),
        "predicted_latency_ms": None,
        "verification": {"max_error": 2.1e-6, "snr_db": 118.4, "agreement": 0.9962},
        **known,
    }


def sample() -> dict[str, Any]:
    """A feasible run: four baselines, ten candidates, `c3` the best."""
    points = []
    for name, label, score, size, ms, iqr, memory in BASELINES:
        points.append(
            _point(id=name, kind="baseline", label=label, score=score, size_bytes=size, latency_ms=ms, latency_iqr_ms=iqr,
                   peak_memory_bytes=memory, on_frontier=name in ("onnx-fp32", "onnx-int8-static"),
                   meets_budget=False, artifact=None if name == "eager" else f"points/{name}/model.onnx")
        )  # fmt: skip
    for index, (label, score, size, ms, iqr, frontier) in enumerate(CANDIDATES, start=1):
        points.append(
            _point(id=f"c{index}", kind="candidate", label=label, score=score, size_bytes=size, latency_ms=ms,
                   latency_iqr_ms=iqr, peak_memory_bytes=44e6 + 4 * size, on_frontier=frontier,
                   meets_budget=index in (2, 3), recipe=f"points/c{index}/recipe.yaml", recipe_text=RECIPE,
                   artifact=f"points/c{index}/model.onnx", predicted_latency_ms=ms * 1.08)
        )  # fmt: skip
    points[11]["note"] = "neither smaller nor faster than a baseline"
    return {
        "schema": 1,
        "best": "c3",
        "original": "onnx-fp32",
        "feasible": True,
        "binding": None,
        "message": None,
        "budget": {"latency_ms": 0.4, "size_mb": 0.5, "memory_mb": None, "max_drop": 0.01},
        "minimize": "latency",
        "metric": "accuracy",
        "points": points,
        "layers": layers(),
        "timeline": [
            {"phase": "checks and profile", "seconds": 4.1},
            {"phase": "baselines: export and verify", "seconds": 17.9},
            {"phase": "teacher outputs", "seconds": 18.4},
            {"phase": "sensitivity scan", "seconds": 26.0},
            {"phase": "proposals", "seconds": 21.3},
            {"phase": "healing of 10 finalists", "seconds": 148.8},
            {"phase": "export, verify and measure", "seconds": 38.2},
            {"phase": "test set", "seconds": 11.5},
        ],
        "provenance": {
            "tenfold": "0.1.0",
            "command": "tenfold shrink zoo:resnet56 --data sample --latency 0.4ms --size 0.5MB --max-drop 1% --time 5m",
            "network": "zoo:resnet56",
            "data": "Fashion-MNIST sample",
            "examples": {"train": 10_000, "validation": 5_000, "test": 10_000},
            "runtime": "onnxruntime",
            "threads": 1,
            "batch": 1,
            "seed": 0,
            "started": "2026-01-31T09:12:44+00:00",
            "seconds": 286.2,
            "time_limit": 300,
            "machine": {"processor": "x86-64, AVX2, no VNNI", "cores": 2, "system": "Linux 6.8"},
            "versions": {"python": "3.11.9", "torch": "2.13.0", "onnx": "1.23.2", "onnxruntime": "1.31.1"},
        },
    }


def layers() -> dict[str, Any]:
    """55 convolutions and a classifier; the changed network lacks 21 blocks and is half as wide."""
    before: list[dict[str, Any]] = [{"name": "conv1", "op": "conv2d", "macs": 112_896, "params": 144}]
    after: list[dict[str, Any]] = [{"name": "conv1", "op": "conv2d", "macs": 84_672, "params": 108}]
    for stage, (width, side) in enumerate(((16, 28), (32, 14), (64, 7)), start=1):
        for block in range(9):
            for conv in ("conv1", "conv2"):
                inputs = width // 2 if stage > 1 and block == 0 and conv == "conv1" else width
                params = 9 * inputs * width
                row = {"name": f"layer{stage}.{block}.{conv}", "op": "conv2d", "params": params}
                before.append(row | {"macs": params * side * side})
                if block in (0, 2, 7)[: 3 if stage > 1 else 1]:
                    narrow = int(params * 0.36)
                    after.append(row | {"params": narrow, "macs": narrow * side * side})
    before.append({"name": "fc", "op": "linear", "macs": 640, "params": 650})
    after.append({"name": "fc", "op": "linear", "macs": 480, "params": 490})
    return {"before": before, "after": after}


def infeasible() -> dict[str, Any]:
    """No point is fast enough."""
    data = sample()
    data |= {
        "feasible": False,
        "binding": "latency_ms",
        "best": "c6",
        "budget": {"latency_ms": 0.05, "size_mb": 0.5, "memory_mb": 40, "max_drop": None},
        "message": "The fastest found is 0.104 ms; you asked for 0.05 ms.",
    }
    for point in data["points"]:
        point["meets_budget"] = False
    data["points"][9]["peak_memory_bytes"] = None
    return data


def no_budget() -> dict[str, Any]:
    """The whole frontier, nothing asked."""
    data = sample()
    data |= {"budget": {}, "feasible": None, "best": "c3", "message": None}
    for point in data["points"]:
        point["meets_budget"] = None
    return data


def one_candidate() -> dict[str, Any]:
    """A run that time allowed a single candidate, scored on validation alone, with much not measured."""
    data = sample()
    data["points"] = data["points"][:5]
    data["best"] = "c1"
    for key in ("score", "score_low", "score_high", "drop", "drop_low", "drop_high", "peak_memory_bytes"):
        data["points"][4][key] = None
    data["layers"] = {}
    del data["timeline"]
    return data


def many_layers() -> dict[str, Any]:
    """A network of a hundred layers under one name, with times, and a broken candidate far below."""
    data = sample()
    rows = [
        {"name": f"blocks.{i // 14}.{i % 14}.conv_pw_with_a_long_name", "op": "conv2d", "macs": 10**6 * (1 + i % 7), "params": 900 * (i + 1), "ms": 0.01 * (1 + i % 5)}
        for i in range(98)
    ]  # fmt: skip
    data["layers"] = {"before": rows, "after": [row | {"macs": row["macs"] // 3} for row in rows[::2]]}
    broken = copy.deepcopy(data["points"][-1])
    broken |= {"id": "c11", "score": 0.11, "score_low": 0.10, "score_high": 0.12, "drop": 0.836, "drop_low": 0.83, "drop_high": 0.84, "validation_score": 0.1}  # fmt: skip
    data["points"].append(broken)
    return data


VARIANTS = {
    "sample": sample,
    "infeasible": infeasible,
    "no_budget": no_budget,
    "one_candidate": one_candidate,
    "many_layers": many_layers,
}

if __name__ == "__main__":
    from rich.console import Console

    from tenfold.report import frontier_table, static_plot, write_report

    for name, make in VARIANTS.items():
        write_report(make(), Path(sys.argv[1]) / f"{name}.html")
        static_plot(make(), Path(sys.argv[1]) / f"{name}.png")
        Console(width=80).print(frontier_table(make()))
