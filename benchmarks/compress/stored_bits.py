"""INT8 networks whose files hold fewer bits a weight: bytes, speed, time to load, and what is lost.

    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.compress.stored_bits resnet56
    TENFOLD_DATA=FOLDER PYTHONPATH=src:. python -m benchmarks.compress.stored_bits efficientnet_lite0

Rounding to nearest, and four bits beside float activations, stand beside. Nothing is trained. All are scored on the
test images through ONNX Runtime, and timed and loaded in one interleaved run of one thread. With `--forms` some of
them. Writes `stored_bits_NETWORK.json`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import int8_note, name_of, print_table, write_result
from benchmarks.compress.frontier import NETWORKS
from benchmarks.compress.resnet56 import right_answers
from benchmarks.compress.techniques import kept

from tenfold.compress import Run, Technique
from tenfold.compress.quantize import Nearest, Quantize, QuantizeWeights
from tenfold.cost import cpu_count, measure, paired_difference_interval, ratio
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, deploy_onnx
from tenfold.search.packed import packed

HERE = Path(__file__).resolve().parent
ORIGINAL, INTEGERS = "fp32", "INT8"
FORMS: dict[str, Technique | None] = {
    ORIGINAL: None,
    INTEGERS: Quantize(),
    "INT8, 6 bits": Quantize(stored_bits=6),
    "INT8, 5 bits on average": packed(5.0),
    "INT8, 4 bits": Quantize(stored_bits=4),
    "INT8, 4 bits, to nearest": Quantize(stored_bits=4, rounding=Nearest()),
    "INT8, 4 bits on average": packed(4.0),
    "INT8, 3 bits": Quantize(stored_bits=3),
    "INT8, 3 bits, to nearest": Quantize(stored_bits=3, rounding=Nearest()),
    "float, 4-bit weights": QuantizeWeights(4),
}


def made(technique: Technique | None, task: Task, path: Path) -> dict[str, Any]:
    """The file, and which test images are told right by it."""
    model = task.model
    if technique is not None:
        model = technique.apply(model, task, Run(teacher=model)).model
    deploy_onnx(model, task.example(2), path)
    right = right_answers(OnnxRunner(path, threads=cpu_count()), task)
    return {"bytes": path.stat().st_size, "right": right.int().tolist()}


def compared(task: Task, found: dict[str, dict[str, Any]], folder: Path, seconds: float) -> dict[str, Any]:
    """Bytes, losses and ratios of latencies and of times to load."""
    paths = {form: folder / f"{name_of(form)}.onnx" for form in found}
    image = task.example(1)
    runs = measure({f: partial(OnnxRunner(p), image) for f, p in paths.items()}, seconds=seconds, min_runs=20)
    loads = measure({f: partial(OnnxRunner, p) for f, p in paths.items()}, seconds=seconds, min_runs=10)
    right = {form: torch.tensor(one["right"], dtype=torch.bool).numpy() for form, one in found.items()}
    rows = {}
    for form, one in found.items():
        rows[form] = {
            "bytes": one["bytes"],
            "times_smaller": found[ORIGINAL]["bytes"] / one["bytes"],
            "score": float(right[form].mean()),
            "drop": paired_difference_interval(right[ORIGINAL], right[form]).to_json(),
            "times_faster": ratio(runs[ORIGINAL], runs[form]).to_json(),
            "load_ms": loads[form].median_ms,
        }
    return {"test_images": len(right[ORIGINAL]), "cpu": int8_note(), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("--folder", type=Path, default=Path("runs/stored_bits"))
    parser.add_argument("--seconds", type=float, default=20.0, help="for each of the two timings")
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS), help="beside fp32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = (options.folder / options.network).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    task, found = NETWORKS[options.network](2_000), {}
    for form in dict.fromkeys([ORIGINAL, *options.forms]):
        name = name_of(form)
        found[form] = kept(folder / f"{name}.json", partial(made, FORMS[form], task, folder / f"{name}.onnx"))
        print(f"{form}: {found[form]['seconds']:.0f} s", flush=True)
    figures = {
        "network": options.network,
        **compared(task, found, folder, options.seconds),
    }
    table = [
        [
            form,
            f"{row['times_smaller']:.2f}×",
            "{value:.2f}× [{low:.2f}, {high:.2f}]".format(**row["times_faster"]),
            f"{row['load_ms']:.0f} ms",
            f"{100 * row['drop']['value']:.2f} [{100 * row['drop']['low']:.1f}, {100 * row['drop']['high']:.1f}]",
        ]
        for form, row in figures["rows"].items()
    ]
    print_table(figures["network"], ["form", "smaller", "faster", "loads in", "points lost"], table)
    write_result(HERE / f"stored_bits_{options.network}.json", figures)


if __name__ == "__main__":
    main()
