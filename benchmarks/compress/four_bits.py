"""Weights of 4 bits kept as codes in an ONNX file: how much smaller, and what reading codes costs in speed.

    TENFOLD_DATA=… python -m benchmarks.compress.four_bits [--network FOLDER]

Two networks through ONNX Runtime, one thread: EfficientNet-Lite0 (convolutions; FOLDER may be a saved one of 4 bits, as
`efficientnet_lite0.py` leaves them) and the linear layers of six encoder layers of 384, on 1 and on 128 tokens, whose
weights are random. The float export, the float export of the same rounded weights, and the codes, interleaved.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import print_table, write_result
from benchmarks.efficientnet_lite0.factory import calibration_and_scoring, network
from torch import Tensor, nn

from tenfold.compress import Run, load
from tenfold.compress.quantize import Nearest, Observer, PerGroup, QuantizeWeights
from tenfold.cost import measure, ratio
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, export_onnx, verify

HERE = Path(__file__).resolve().parent
NEAREST = QuantizeWeights(
    4, PerGroup(32), observer=Observer.MINMAX, rounding=Nearest(), bias_correction=False
)
WIDTH, HIDDEN, LAYERS = 384, 1536, 6


def linear_layers() -> nn.Module:
    """(N, tokens, 384) through the six products of each encoder layer, without what stands between them."""
    torch.manual_seed(0)
    sizes = [(WIDTH, WIDTH)] * 4 + [(WIDTH, HIDDEN), (HIDDEN, WIDTH)]
    layers = [part for _ in range(LAYERS) for size in sizes for part in (nn.Linear(*size), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).eval()


def rounded(model: nn.Module, x: Tensor) -> nn.Module:
    """The network with weights of 4 bits in groups of 32, rounded to nearest."""
    targets = torch.zeros(len(x)).long()
    return NEAREST.apply(model, Task(model, train=(x, targets), validation=(x, targets)), Run()).model


def compared(name: str, model: nn.Module, made: nn.Module, inputs: dict[str, Tensor], folder: Path, seconds: float) -> dict[str, Any]:  # fmt: skip
    """Sizes of the three files, and their times on each of the inputs."""
    x = next(iter(inputs.values()))
    paths = {form: folder / f"{name}-{form}.onnx" for form in ("float", "rounded", "codes")}
    export_onnx(model, x, paths["float"])
    export_onnx(made, x, paths["rounded"], codes=False)
    export_onnx(made, x, paths["codes"])
    runners = {form: OnnxRunner(path) for form, path in paths.items()}
    verify(made, runners["codes"], torch.cat([x, x])).require()
    figures: dict[str, Any] = {
        "bytes": {form: path.stat().st_size for form, path in paths.items()},
        "times_smaller": paths["float"].stat().st_size / paths["codes"].stat().st_size,
        "speed": {},
    }
    for text, each in inputs.items():
        timings = measure(
            {form: partial(runner, each) for form, runner in runners.items()}, seconds=seconds, min_runs=30
        )
        figures["speed"][text] = {
            form: ratio(timings["float"], timings[form]).to_json() for form in ("rounded", "codes")
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", type=Path, help="a saved EfficientNet-Lite0 of 4 bits")
    parser.add_argument("--folder", type=Path, default=Path("runs/four_bits"), help="for the ONNX files")
    parser.add_argument("--seconds", type=float, default=8.0, help="for the timings of each network")
    parser.add_argument("--result", type=Path, default=HERE / "four_bits.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    (photos, _), _ = calibration_and_scoring()
    lite, products = network(), linear_layers()
    made = load(options.network, base=network) if options.network else rounded(lite, photos[:4])
    tokens = torch.randn(1, 128, WIDTH, generator=torch.Generator().manual_seed(0))
    networks = {
        "EfficientNet-Lite0": compared(
            "lite0", lite, made, {"one photo": photos[:1]}, options.folder, options.seconds
        ),
        "linear layers of an encoder": compared(
            "products", products, rounded(products, tokens),
            {"128 tokens": tokens, "1 token": tokens[:, :1].contiguous()}, options.folder, options.seconds,
        ),
    }  # fmt: skip
    rows = [
        [
            name,
            text,
            f"{figures['times_smaller']:.2f}×",
            *("{value:.2f}× [{low:.2f}, {high:.2f}]".format(**speed[form]) for form in ("rounded", "codes")),
        ]
        for name, figures in networks.items()
        for text, speed in figures["speed"].items()
    ]
    print_table(
        "4 bits in ONNX, one thread",
        ["network", "input", "file smaller", "floats, faster", "codes, faster"],
        rows,
    )
    write_result(options.result, {"networks": networks})


if __name__ == "__main__":
    main()
