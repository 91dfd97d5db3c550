"""Every step on timm's ResNet-50: does it run, verify, save and reload, and what does it cost afterwards?

    python -m benchmarks.resnet50.steps

Weights are random, so nothing is said about accuracy; sizes, counts and speeds do not depend on them. The last
norm of each block is not zero and statistics are not those of initialisation, or a runtime could fold branches
away. ONNX Runtime's own quantiser is timed in the same run.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import fresh_answer, int8_note, print_table, write_result
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, Technique, apply_recipe, load_network, save
from tenfold.compress.factorize import Cost, Factorize, Share
from tenfold.compress.prune import Prune
from tenfold.compress.quantize import Quantize
from tenfold.cost import batch_size, call, has_int8_dot_product, measure, profile, ratio
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, deploy_onnx, verify
from tenfold.deploy.verification import signal_to_noise_db

HERE = Path(__file__).resolve().parent
FP32, INT8 = "fp32 export", "int8"
EXAMPLES = 16
TARGET = 1.8  # times faster than fp32 for ONNX Runtime's static INT8, where the CPU has no VNNI

HALF = Prune(ratio=0.5, residual=0.5, examples=EXAMPLES)
THIN = Factorize(keep=Share(0.5, Cost.MACS))
STATIC = Quantize(examples=EXAMPLES)
RECIPES: dict[str, tuple[Technique, ...]] = {
    INT8: (STATIC,),
    "half the channels": (HALF,),
    "factorised to half the MACs": (THIN,),
    "half the channels, factorised": (HALF, THIN),
    "half the channels, int8": (HALF, STATIC),
    "half the channels, factorised, int8": (HALF, THIN, STATIC),
}

# ONNX Runtime's own quantiser, as it comes and with the type that its documentation names for x86.
PEERS = {
    "onnxruntime's int8, per channel": {"per_channel": True},
    "onnxruntime's int8, per channel, uint8 activations": {
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
    },
}


def network() -> nn.Module:
    """ResNet-50 with the same random weights and statistics at every call: (N, 3, 224, 224) -> (N, 1000)."""
    torch.manual_seed(0)
    model, _ = load_network("timm:resnet50?zero_init_last=false")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def task_of(model: nn.Module) -> Task:
    """One batch of random images, whose labels are the network's own answers."""
    images = torch.randn(EXAMPLES, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        labels = call(model, images).argmax(1)
    return Task(model, train=(images, labels.clone()), validation=(images, labels.clone()))


def made(name: str, task: Task, folder: Path) -> tuple[dict[str, Any], OnnxRunner]:
    """Apply a recipe, export, verify, save, reload in a fresh process; the figures, and the file to be timed."""
    inputs, place = task.example(2), folder / name.replace(", ", "-").replace(" ", "_")
    model, steps = apply_recipe(Recipe(RECIPES.get(name, ())), task, Run())
    artifact = deploy_onnx(model, inputs, place / "model.onnx")
    runner = OnnxRunner(artifact.paths[0])
    checked = verify(model, runner, task.example(4))
    checked.require()
    figures: dict[str, Any] = {"size_bytes": artifact.size_bytes, "verified": checked.text}
    figures["macs"] = profile(model, inputs).macs // batch_size(inputs)
    save(place, model, steps, inputs=inputs, overwrite=True)
    answer = fresh_answer(place, f"{__spec__.name if __spec__ else __name__}:network", "", inputs)
    with torch.inference_mode():
        figures["reloads_equal"] = torch.equal(answer, call(model, inputs))
    return figures, runner


def peer(task: Task, source: Path, path: Path, options: dict[str, Any]) -> OnnxRunner:
    """ONNX Runtime's `quantize_static` of the same export on the same images."""
    runner = OnnxRunner(source)

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(task.train.select(range(EXAMPLES))[0].split(1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            image: Tensor | None = next(self.left, None)
            return None if image is None else runner.feeds(image)

    quantize_static(str(source), str(path), Images(), **options)
    return OnnxRunner(path)


def compared(folder: Path, seconds: float) -> dict[str, Any]:
    """Make every network, then time all of them in one interleaved run: one thread, batch 1."""
    task = task_of(network())
    rows: dict[str, dict[str, Any]] = {}
    runners: dict[str, OnnxRunner] = {}
    for name in (FP32, *RECIPES):
        print(f"making: {name}", flush=True)
        rows[name], runners[name] = made(name, task, folder)
    images = task.example(EXAMPLES)
    original = runners[FP32](images)
    for number, (name, options) in enumerate(PEERS.items()):
        path = folder / f"peer{number}.onnx"
        runners[name] = peer(task, runners[FP32].path, path, options)
        rows[name] = {"macs": rows[FP32]["macs"], "size_bytes": path.stat().st_size}
    for name in (INT8, *PEERS):
        rows[name]["snr_to_fp32_db"] = signal_to_noise_db(original, runners[name](images))
    timings = measure(
        {name: partial(runner, images[:1]) for name, runner in runners.items()}, seconds=seconds, min_runs=30
    )
    for name, row in rows.items():
        row["latency"] = timings[name].to_json()
        row["times_faster"] = ratio(timings[FP32], timings[name]).to_json()
    return {"networks": rows}


def show(figures: dict[str, Any]) -> None:
    rows = figures["networks"]
    first = rows[FP32]
    table = [
        [
            name,
            f"{row['macs'] / 1e9:.3f} G",
            f"{row['size_bytes']:,}",
            f"{first['size_bytes'] / row['size_bytes']:.2f}×",
            f"{row['latency']['median_ms']:.2f}",
            "{value:.2f}× [{low:.2f}, {high:.2f}]".format(**row["times_faster"]),
            {True: "equal", False: "DIFFERS", None: "–"}[row.get("reloads_equal")],
        ]
        for name, row in rows.items()
    ]
    columns = ["network", "MACs", "bytes", "smaller", "ms", "faster", "reloaded"]
    print_table(f"ResNet-50, batch 1, one thread; this CPU {figures['cpu']}", columns, table)
    faster = rows[INT8]["times_faster"]["value"]
    if has_int8_dot_product():
        print(f"INT8 {faster:.2f}× faster than fp32; the target of {TARGET}× is for CPUs without VNNI")
    else:
        print(
            f"{'reached' if faster >= TARGET else 'MISSED '}  INT8 at least {TARGET}× faster: {faster:.2f}×"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/resnet50"), help="for the networks")
    parser.add_argument("--seconds", type=float, default=120.0, help="for the timings")
    parser.add_argument("--result", type=Path, default=HERE / "steps.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = {"cpu": int8_note()} | compared(options.folder, options.seconds)
    show(figures)
    write_result(options.result, figures, packages=("timm",))


if __name__ == "__main__":
    main()
