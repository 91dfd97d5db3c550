"""INT8 of EfficientNet-Lite0: Tenfold's beside ONNX Runtime's own quantiser and NNCF's, on the same photos.

    TENFOLD_DATA=… python -m benchmarks.efficientnet_lite0.quantization

Every quantiser starts from the same fp32 export and calibrates on the same 100 photos; all answers come from
ONNX Runtime on the other 400. NNCF writes its graphs for OpenVINO, so OpenVINO is timed beside, in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from benchmarks.common import int8_note, print_table, write_result
from benchmarks.efficientnet_lite0.factory import calibration_and_scoring, network
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import Tensor

from tenfold.compress import Run
from tenfold.compress.quantize import Quantize
from tenfold.cost import (
    bootstrap_mean,
    has_int8_dot_product,
    measure,
    paired_difference_interval,
    ratio,
    wilson_interval,
)
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, deploy_onnx, verify

HERE = Path(__file__).resolve().parent
BATCH = 20
REFERENCE, OURS = "fp32", "tenfold"  # the export that all are compared with; the technique's own defaults
NNCF, OPENVINO = "nncf, defaults", "openvino"
IN_OPENVINO = (REFERENCE, OURS, NNCF)  # timed there too

Write = Callable[[Path], None]


def tenfold(task: Task, path: Path, technique: Quantize) -> None:
    """Quantise by Tenfold and export; what was exported must answer as the integers in PyTorch do."""
    model = technique.apply(task.model, task, Run()).model
    artifact = deploy_onnx(model, task.example(2), path)
    verify(model, artifact.session(), task.example(8)).require()


def onnx_runtime(source: Path, photos: Tensor, path: Path, **options: Any) -> None:
    """ONNX Runtime's `quantize_static` on the fp32 export, with its defaults but for `options`."""

    class Photos(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(photos.split(1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            photo = next(self.left, None)
            return None if photo is None else {input_name(source): photo.numpy()}

    quantize_static(str(source), str(path), Photos(), **options)


def nncf(source: Path, photos: Tensor, path: Path) -> None:
    """NNCF's post-training quantisation of the fp32 export, with its defaults."""
    import nncf as peer

    name = input_name(source)
    dataset = peer.Dataset(list(photos.split(1)), lambda photo: {name: photo.numpy()})
    onnx.save(peer.quantize(onnx.load(source), dataset, subset_size=len(photos)), path)


def openvino(path: Path) -> Callable[[Tensor], Any]:
    """An ONNX file through OpenVINO, one thread, in fp32 where it is not INT8 (it would take bf16 unasked)."""
    import openvino as peer

    options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = peer.Core().compile_model(path, "CPU", options).create_infer_request()
    return lambda photos: request.infer({0: photos.numpy()})


def input_name(path: Path) -> str:
    """The name of the only input of an ONNX file."""
    return onnx.load(path).graph.input[0].name


def contenders(task: Task, source: Path, photos: Tensor) -> dict[str, Write]:
    """Each quantiser as a function of the path that it writes to."""

    def ours(**options: Any) -> Write:
        return partial(tenfold, task, technique=Quantize(examples=len(photos), **options))

    eight = {  # where products of 8 bits saturate, these are refused by verification
        "tenfold, 8 bits, no bias correction": ours(weight_bits=8, bias_correction=False),
        "tenfold, 8 bits": ours(weight_bits=8),
    }
    return {
        OURS: ours(),
        **(eight if has_int8_dot_product() else {}),
        "tenfold, 7 bits, no bias correction": ours(weight_bits=7, bias_correction=False),
        "tenfold, 7 bits": ours(weight_bits=7),
        "onnxruntime, defaults": partial(onnx_runtime, source, photos),
        "onnxruntime, per channel": partial(onnx_runtime, source, photos, per_channel=True),
        "onnxruntime, per channel, reduced range": partial(
            onnx_runtime, source, photos, per_channel=True, reduce_range=True
        ),
        "onnxruntime, per channel, uint8": partial(
            onnx_runtime, source, photos, per_channel=True, activation_type=QuantType.QUInt8
        ),
        NNCF: partial(nncf, source, photos),
    }


def answers(path: Path, photos: Tensor) -> Tensor:
    """The logits (N, 1000) of an ONNX file through ONNX Runtime."""
    runner = OnnxRunner(path)
    return torch.cat([runner(batch) for batch in photos.split(BATCH)])


def divergence(expected: Tensor, actual: Tensor) -> np.ndarray:
    """KL(expected ‖ actual) of the class probabilities for each photo, in nats: (N,)."""
    p, q = F.log_softmax(expected.double(), dim=1), F.log_softmax(actual.double(), dim=1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(dim=1).numpy()


def judged(logits: Tensor, path: Path, original: Tensor, source: Path, labels: Tensor) -> dict[str, Any]:
    """All figures of one file but its speed, against the fp32 export on the same photos."""
    right, was_right = (each.argmax(1) == labels for each in (logits, original))
    same = logits.argmax(1) == original.argmax(1)
    return {
        "size_bytes": path.stat().st_size,
        "times_smaller": source.stat().st_size / path.stat().st_size,
        "top1": wilson_interval(int(right.sum()), len(labels)).to_json(),
        "drop": paired_difference_interval(was_right, right).to_json(),
        "agreement": wilson_interval(int(same.sum()), len(labels)).to_json(),
        "kl": bootstrap_mean(divergence(original, logits)).to_json(),
    }


def compared(folder: Path, seconds: float) -> dict[str, Any]:
    """Make every file, score it, and time them all in one interleaved run."""
    (photos, calibration_labels), (scored, labels) = calibration_and_scoring()
    task = Task(network(), train=(photos, calibration_labels), validation=(scored[:1], labels[:1]))
    source = folder / "fp32.onnx"
    verify(task.model, deploy_onnx(task.model, task.example(2), source).session(), task.example(8)).require()
    paths = {REFERENCE: source}
    for number, (name, write) in enumerate(contenders(task, source, photos).items()):
        print(f"quantising: {name}", flush=True)
        paths[name] = folder / f"{number}.onnx"
        write(paths[name])
    logits = {name: answers(path, scored) for name, path in paths.items()}
    kl = {name: divergence(logits[REFERENCE], each) for name, each in logits.items()}
    runners: dict[str, Callable[[Tensor], Any]] = {name: OnnxRunner(path) for name, path in paths.items()}
    runners |= {f"{name}, {OPENVINO}": openvino(paths[name]) for name in IN_OPENVINO}
    timings = measure(
        {name: partial(runner, scored[:1]) for name, runner in runners.items()}, seconds=seconds, min_runs=30
    )
    rows = {}
    for name, path in paths.items():
        rows[name] = judged(logits[name], path, logits[REFERENCE], source, labels)
        rows[name]["kl_above_tenfold"] = bootstrap_mean(kl[name] - kl[OURS]).to_json()
    speeds = {
        name: timing.to_json() | {"times_faster": ratio(timings[REFERENCE], timing).to_json()}
        for name, timing in timings.items()
    }
    return {
        "calibration_photos": len(photos),
        "scored_photos": len(labels),
        "networks": {name: row | {"latency": speeds[name]} for name, row in rows.items()},
        OPENVINO: {name: speeds[f"{name}, {OPENVINO}"] for name in IN_OPENVINO},
    }


def targets(rows: dict[str, Any]) -> dict[str, bool]:
    """What Tenfold's defaults must reach, and whether they do. The KL is compared on the same photos."""
    ours = rows[OURS]
    reached = {
        "at least 3.5 times smaller": ours["times_smaller"] >= 3.5,
        "at most 1.0 point of top-1 lost": ours["drop"]["value"] <= 0.01,
        "top-1 agreement at least 97%": ours["agreement"]["value"] >= 0.97,
    }
    for peer in ("onnxruntime, defaults", NNCF):
        reached[f"KL below {peer} (95% interval)"] = rows[peer]["kl_above_tenfold"]["low"] > 0
    return reached


def show(figures: dict[str, Any]) -> None:
    def percent(share: dict[str, float]) -> str:
        return f"{100 * share['value']:.1f}"

    rows = [
        [
            name,
            f"{row['size_bytes']:,}",
            f"{row['times_smaller']:.2f}×",
            percent(row["top1"]),
            f"{percent(row['drop'])} [{100 * row['drop']['low']:.1f}, {100 * row['drop']['high']:.1f}]",
            percent(row["agreement"]),
            f"{row['kl']['value']:.4f} [{row['kl']['low']:.4f}, {row['kl']['high']:.4f}]",
            f"{row['latency']['median_ms']:.2f}",
            f"{row['latency']['times_faster']['value']:.2f}×",
        ]
        for name, row in figures["networks"].items()
    ]
    columns = [
        "network",
        "bytes",
        "smaller",
        "top-1 %",
        "drop, points",
        "same class %",
        "mean KL, nats",
        "ms",
        "faster",
    ]
    print_table(
        f"EfficientNet-Lite0, {figures['scored_photos']} photos; this CPU {figures['cpu']}", columns, rows
    )
    for name, speed in figures[OPENVINO].items():
        print(
            f"{name} in OpenVINO: {speed['median_ms']:.2f} ms, {speed['times_faster']['value']:.2f}× fp32 in ONNX Runtime"
        )
    for text, reached in figures["targets"].items():
        print(f"{'reached' if reached else 'MISSED '}  {text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/efficientnet_lite0"), help="for the ONNX files"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="for the timings")
    parser.add_argument("--result", type=Path, default=HERE / "quantization.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = {"cpu": int8_note()} | compared(options.folder, options.seconds)
    figures["targets"] = targets(figures["networks"])
    show(figures)
    write_result(options.result, figures, packages=("nncf",))


if __name__ == "__main__":
    main()
