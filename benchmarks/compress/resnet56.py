"""ResNet-56 on CIFAR-10: what the networks of `resnet56_networks` are worth as files, served and scored.

    TENFOLD_DATA=FOLDER python -m benchmarks.compress.resnet56_networks   # makes them, on a GPU in minutes
    TENFOLD_DATA=FOLDER python -m benchmarks.compress.resnet56            # measures them

Each network is exported, verified, scored through ONNX Runtime on 8,000 test images (paired with the original),
timed with all others in one interleaved run (batch 1, one thread), saved and packed, unpacked and compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from benchmarks.common import int8_note, print_table, write_result
from benchmarks.compress.resnet56_networks import JOBS, NETWORK, designs
from benchmarks.compress.techniques import kept
from safetensors.torch import load_file
from torch import Tensor, nn

from tenfold.compress import Step, load_network, pack, save, unpack
from tenfold.cost import measure, paired_difference_interval, ratio, wilson_interval
from tenfold.data import Task, task_from
from tenfold.data.cifar10 import cifar10
from tenfold.deploy import OnnxRunner, deploy_onnx, verify

HERE = Path(__file__).resolve().parent
ALLOWED = 0.005
ORIGINAL = "original"


def network(
    original: nn.Module, figures: dict[str, Any], state: dict[str, Tensor], task: Task
) -> tuple[nn.Module, list[Step]]:
    """The network whose weights these are, and its steps where they are ours."""
    steps: list[Step] = []
    model = original
    if "resolved" in figures:
        steps = [Step(designs(few=False)[figures["design"]], figures["resolved"])]
        model = steps[0].technique.rebuild(original, figures["resolved"], task.zeros(2))
    else:
        model = fitted(original, state)
    model.load_state_dict(state)
    return model.eval(), steps


def fitted(original: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A copy of the original whose convolutions and norms have the sizes of these weights."""

    model = copy.deepcopy(original)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.out_channels, layer.in_channels = state[f"{name}.weight"].shape[:2]
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features = len(state[f"{name}.weight"])
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = state[f"{name}.weight"].shape
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.shape != state[name].shape:
            tensor.data = torch.empty_like(state[name])
    return model


def served(model: nn.Module, steps: list[Step], task: Task, place: Path) -> dict[str, Any]:
    """Export, verify, score, save and pack one network; the figures, and its answers as right or wrong."""
    save(place, model, steps, inputs=task.example(2), base=NETWORK if steps else None, overwrite=True)
    artifact = deploy_onnx(model, task.example(2), place / "model.onnx")
    runner = OnnxRunner(artifact.paths[0])
    verify(model, runner, task.example(8)).require()
    report = pack(place, place / "network.pack")
    unpack(place / "network.pack", place / "again", overwrite=True)
    weights = "weights.safetensors"
    right = right_answers(runner, task)
    return {
        "onnx_bytes": artifact.size_bytes,
        "saved_bytes": (place / weights).stat().st_size,
        "pack_bytes": report.file_bytes,
        "pack": report.to_json(),
        "unpacked_equal": (place / weights).read_bytes() == (place / "again" / weights).read_bytes(),
        "right": right.int().tolist(),
    }


def right_answers(runner: Callable[[Tensor], Tensor], task: Task) -> Tensor:
    return torch.cat([runner(images).argmax(1) == labels for _, images, labels in task.test.batches(100)])


def compared(folder: Path, seconds: float) -> dict[str, Any]:
    original, _ = load_network(NETWORK)
    splits = cifar10(whole=True)
    task = task_from(original, splits, base=NETWORK)
    whole = json.loads((folder / "original.json").read_text())
    first = kept(folder / "served-original.json", lambda: served(original, [], task, folder / ORIGINAL))
    before = torch.tensor(first["right"], dtype=torch.bool).numpy()
    float_bytes = sum(4 * t.numel() for t in original.state_dict().values() if t.is_floating_point())
    rows: dict[str, list[dict[str, Any]]] = {}
    places = {ORIGINAL: folder / ORIGINAL}
    for path in [path for job in JOBS for path in sorted(folder.glob(f"{job}-[0-9].json"))]:
        figures = json.loads(path.read_text())
        name, place = path.stem, folder / f"{path.stem}-served"
        made = network(original, figures, load_file(path.with_suffix(".safetensors")), task)
        own = kept(folder / f"served-{name}.json", partial(served, *made, task, place))
        after = torch.tensor(own.pop("right"), dtype=torch.bool).numpy()
        own.pop("seconds")  # of serving; the figures have those of healing
        figures.pop("resolved", None)
        places.setdefault(figures["job"], place)
        rows.setdefault(figures["job"], []).append(
            figures
            | own
            | {
                "fewer_macs": whole["macs"] / figures["macs"],
                "times_smaller_onnx": first["onnx_bytes"] / own["onnx_bytes"],
                "times_smaller_pack": float_bytes / own["pack_bytes"],
                "accuracy": wilson_interval(int(after.sum()), len(after)).to_json(),
                "drop": paired_difference_interval(before, after).to_json(),
            }
        )
        print(f"{name}: {rows[figures['job']][-1]['drop']}", flush=True)
    example = task.example(1)
    runners = {name: OnnxRunner(place / "model.onnx") for name, place in places.items()}
    timings = measure({n: partial(r, example) for n, r in runners.items()}, seconds=seconds, min_runs=30)
    return {
        "original": {
            "accuracy": wilson_interval(int(before.sum()), len(before)).to_json(),
            "macs": whole["macs"],
            "float_bytes": float_bytes,
            "onnx_bytes": first["onnx_bytes"],
            "pack_bytes": first["pack_bytes"],
        },
        "rows": {
            job: {
                "times_faster": ratio(timings[ORIGINAL], timings[job]).to_json(),
                "mean_drop": statistics.mean(t["drop"]["value"] for t in tries),
                "seeds": tries,
            }
            for job, tries in rows.items()
        },
    }


def targets(rows: dict[str, Any]) -> dict[str, bool]:
    """What must be reached, by the mean over the seeds."""
    reached: dict[str, bool] = {}
    if "structured" in rows:
        row = rows["structured"]
        reached[
            "structured: at least 3 times fewer MACs at no more than 0.5 point by the mean of its seeds"
        ] = min(t["fewer_macs"] for t in row["seeds"]) >= 3 and row["mean_drop"] <= ALLOWED
    if "deep-compression" in rows:
        row = rows["deep-compression"]
        reached[
            "deep compression: at least 25 times smaller at no more than 0.5 point by the mean of its seeds"
        ] = min(t["times_smaller_pack"] for t in row["seeds"]) >= 25 and row["mean_drop"] <= ALLOWED
    return reached


def show(figures: dict[str, Any]) -> None:
    table = [
        [
            job,
            ", ".join(f"{t['fewer_macs']:.2f}×" for t in row["seeds"]),
            f"{row['seeds'][0]['times_smaller_onnx']:.2f}×",
            ", ".join(f"{t['times_smaller_pack']:.1f}×" for t in row["seeds"]),
            "{value:.2f}× [{low:.2f}, {high:.2f}]".format(**row["times_faster"]),
            ", ".join(f"{100 * t['drop']['value']:.2f}" for t in row["seeds"]),
            f"{100 * row['mean_drop']:.2f}",
        ]
        for job, row in figures["rows"].items()
    ]
    columns = [
        "network",
        "fewer MACs",
        "ONNX smaller",
        "packed smaller",
        "faster",
        "points lost, by seed",
        "mean",
    ]
    score = figures["original"]["accuracy"]["value"]
    print_table(f"ResNet-56 on CIFAR-10, {100 * score:.2f}% right, batch 1, one thread", columns, table)
    for text, reached in figures["targets"].items():
        print(f"{'reached' if reached else 'MISSED '}  {text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/resnet56"), help="where the networks lie")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the timings")
    parser.add_argument("--result", type=Path, default=HERE / "resnet56.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        "network": NETWORK,
        "runtime": f"ONNX Runtime {onnxruntime.__version__}, one thread, batch 1",
        "cpu": int8_note(),
        **compared(options.folder, options.seconds),
    }
    figures["targets"] = targets(figures["rows"])
    show(figures)
    write_result(options.result, figures, packages=("torch-pruning", "constriction"))


if __name__ == "__main__":
    main()
