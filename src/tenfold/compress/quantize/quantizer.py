"""`Quantize`: a network whose layers compute on 8-bit integers."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import fx, nn

from tenfold.compress.quantize.affine import Affine, affine_of_range
from tenfold.compress.quantize.aware_static import train_static
from tenfold.compress.quantize.bias import correct_biases, output_means
from tenfold.compress.quantize.capture import attribute, shape_of
from tenfold.compress.quantize.equalize import equalize
from tenfold.compress.quantize.insert import ROOT, insert_dynamic, insert_static
from tenfold.compress.quantize.layers import convolution_arguments, unshared
from tenfold.compress.quantize.naming import stable_names
from tenfold.compress.quantize.observe import Observer, check_values, observe, require_finite
from tenfold.compress.quantize.plan import Plan, make_plan
from tenfold.compress.quantize.simplify import capture_folded
from tenfold.compress.quantize.tables import insert_tables
from tenfold.compress.technique import Applied, Json, Problem, Run
from tenfold.cost import Device, Inputs, has_int8_dot_product
from tenfold.data import Split, Task
from tenfold.errors import NetworkError, RecipeError

BATCH = 32
UNTRAINED = 0.4  # share of the work before training, as it is told
CORRECTION_BYTES = 2**28  # the largest activation of one bias correction, over all its examples
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class Mode(enum.Enum):
    """STATIC: activation ranges are calibrated beforehand. DYNAMIC: they are measured at every call."""

    STATIC = "static"
    DYNAMIC = "dynamic"


@dataclass(frozen=True)
class Quantize:
    """INT8 convolutions and linear layers: int8 weights, a scale for each channel; uint8 activations.

    `embeddings` stores the rows of embedding tables in int8 too, a scale for each.

    `weight_bits` is 8, 7, or None for what this CPU computes without saturation (8 bits served by a CPU with AVX2
    alone would saturate: give 7 for a file that must run anywhere). `observer` chooses the activation
    ranges of the static mode from `examples` training examples. `bias_correction` keeps the mean of every channel.
    `equalize` scales the channels between layers to weights of equal ranges first. `epochs` passes over the training
    data teach a static network afterwards to answer as the original does (quantisation-aware training).
    """

    mode: Mode = Mode.STATIC
    weight_bits: int | None = None
    bias_correction: bool = True
    observer: Observer = Observer.MSE
    examples: int = 128
    equalize: bool = False
    epochs: float = 0.0
    embeddings: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.mode, Mode) or not isinstance(self.observer, Observer):
            raise ValueError("Quantize: mode must be a Mode and observer an Observer")
        if self.weight_bits not in (None, 7, 8):
            raise ValueError(f"Quantize: weight_bits must be 8, 7 or None, not {self.weight_bits!r}")
        if not isinstance(self.examples, int) or self.examples < 1:
            raise ValueError(
                f"Quantize: examples must be a whole number of at least 1, not {self.examples!r}"
            )
        if not (math.isfinite(self.epochs) and self.epochs >= 0):
            raise ValueError(f"Quantize: epochs must be a finite number of at least 0, not {self.epochs!r}")
        if self.epochs and self.mode is not Mode.STATIC:
            raise ValueError("Quantize: epochs are for the static mode, whose steps can be learnt")

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """Weights that are not finite, a network without layers to quantise, or one quantised already."""
        if is_quantized(model):
            return [Problem("", "the network is already quantised; quantise the float network instead")]
        problems = [
            Problem(name, "its values hold NaN or infinity; train or load the network again")
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
        ]
        if target.runtime != "onnxruntime":
            text = f"INT8 runs in onnxruntime; {target.runtime} would compute its floats, slower than before"
            problems.append(Problem("", text))
        return problems + without_layers(model)

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """The network over integers and scales, in PyTorch, and the quantiser of each tensor by name.

        Reads up to `examples` training examples. Raises `NetworkError` for weights or activations that are not
        finite and for a network without layers, `ExportError` for one that cannot be traced, `OutOfTime` past the
        run's deadline.
        """
        check_finite(model)
        check_type(model)
        before = UNTRAINED if self.epochs else 1.0
        whole, run = run, run.part(0.0, before)
        run.progress(0.0, "quantize: tracing")
        module, plan, names = _planned(model, task.example(2), self.mode)
        examples = task.train.take(self.examples, seed=run.seed)
        bits = self.weight_bits or (8 if has_int8_dot_product() else 7)
        few, equalized = correction_inputs(module.graph, examples), {}
        if self.equalize:
            check_values(module, {layer.node: names[layer.node] for layer in plan.layers}, lambda: [few])
            equalized = equalize(module, unshared(module.graph, plan.layers), few)
        affines: dict[str, Affine] = {}
        if self.mode is Mode.STATIC:
            run.progress(0.2, "quantize: calibrating")
            affines = self._calibrated(module, plan, names, examples, run)
        layers = {layer.node: layer for layer in plan.layers}
        means, dims = {}, {names[node]: layer.channel_dim for node, layer in layers.items()}
        run.require_time("quantize: tracing and calibrating")
        if self.bias_correction:
            means = {names[n]: m for n, m in output_means(module, layers, few).items()}
            for name, mean in means.items():
                require_finite(name, mean)
        module, computed = _inserted(module, plan, names, self.mode, affines, bits, self.bias_correction)
        module, tables = insert_tables(module, ROOT, None if self.embeddings else [])
        if self.bias_correction:
            run.progress(0.6, "quantize: correcting biases")
            correct_biases(
                module, computed, means, dims, few, lambda: run.require_time("quantize: correcting biases")
            )
        trained = None
        if self.epochs:
            trained = asdict(train_static(module, task, whole.part(before, 1.0), self.epochs))
            affines = {
                name: replace(a, scale=float(attribute(module, f"{ROOT}.{name}.scale")))
                for name, a in affines.items()
            }
        resolved: Json = {
            "mode": self.mode.value,
            "weight_bits": bits,
            "bias_correction": self.bias_correction,
            "equalized": equalized,
            "trained": trained,
            "layers": list(computed),
            "embeddings": tables,
            "tensors": {n: {"scale": a.scale, "zero_point": a.zero_point} for n, a in affines.items()},
        }
        whole.progress(1.0, "quantize: done")
        return Applied(module, resolved)

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """The module that `apply` made, with the integers of `model`'s own weights until a state is loaded."""
        try:
            mode, bits = Mode(resolved["mode"]), int(resolved["weight_bits"])
            affines = {
                str(name): Affine(float(a["scale"]), int(a["zero_point"]))
                for name, a in resolved["tensors"].items()
            }
            add_bias, layers = bool(resolved["bias_correction"]), list(resolved["layers"])
            tables = [str(name) for name in resolved.get("embeddings", ())]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecipeError(f"quantize: the resolved step is malformed ({error!r})") from error
        if bits not in (7, 8):
            raise RecipeError(f"quantize: weight_bits must be 8 or 7, not {bits}")
        module, plan, names = _planned(model, inputs, mode)
        keepers = {names[node] for node, keeper in plan.tensors.items() if node is keeper}
        expected = [*(names[layer.node] for layer in plan.layers), *(sorted(keepers) if affines else ())]
        given = [*layers, *sorted(affines)]
        if expected != given or (mode is Mode.STATIC and not affines):
            odd = sorted(set(expected) ^ set(given)) or ["the order of layers"]
            raise RecipeError(f"quantize: made for another network; they differ at {odd[0]}")
        module = _inserted(module, plan, names, mode, affines, bits, add_bias)[0]
        return insert_tables(module, ROOT, tables)[0]

    def _calibrated(
        self, module: fx.GraphModule, plan: Plan, names: dict[fx.Node, str], examples: Split, run: Run
    ) -> dict[str, Affine]:
        """The quantiser of each tensor of the plan that has its own, by name."""
        keepers = {node: names[node] for node, keeper in plan.tensors.items() if node is keeper}

        ranges = observe(
            module, keepers, lambda: _batches(examples, run, "quantize: calibrating"), self.observer
        )
        return {name: affine_of_range(*ranges[node]) for node, name in keepers.items()}


def is_quantized(model: nn.Module) -> bool:
    """Was this module made by `Quantize`?"""
    return any(name.startswith(f"{ROOT}.") for name, _ in model.named_buffers())


def check_finite(model: nn.Module) -> None:
    """Raise a `NetworkError` that names the first parameter or buffer with NaN or infinity in it."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NetworkError(f"{name}: its values hold NaN or infinity; train or load the network again")


def without_layers(model: nn.Module) -> list[Problem]:
    """That there is no layer to quantise, or none of the type that is quantised, where that is so."""
    if not any(isinstance(module, LAYERS) for module in model.modules()):
        return [Problem("", "it has no convolution and no linear layer to quantise")]
    try:
        check_type(model)
    except NetworkError as error:
        return [Problem("", str(error))]
    return []


def check_type(model: nn.Module) -> None:
    """Raise a `NetworkError` that names the first layer where no layer has weights of float32."""
    weights = [
        (name, module.weight.dtype)
        for name, module in model.named_modules()
        if isinstance(module, LAYERS) and isinstance(module.weight, torch.Tensor)
    ]
    if weights and all(dtype != torch.float32 for _, dtype in weights):
        name, dtype = weights[0]
        raise NetworkError(
            f"{name or type(model).__name__}: its weight is {str(dtype).removeprefix('torch.')}, and only float32 is "
            "quantised; convert the network and its data by .float()"
        )


def _batches(examples: Split, run: Run, work: str) -> Iterator[Inputs]:
    """The inputs of the examples, a few at a time, as long as there is time for the work."""
    for _, inputs, _ in examples.batches(BATCH):
        run.require_time(work)
        yield inputs


def _planned(model: nn.Module, inputs: Inputs, mode: Mode) -> tuple[fx.GraphModule, Plan, dict[fx.Node, str]]:
    if is_quantized(model):
        raise NetworkError("the network is already quantised; quantise the float network instead")
    module = capture_folded(model, inputs)
    plan = make_plan(module.graph)
    if mode is Mode.DYNAMIC:  # its operator takes numbers for the padding
        plan.layers = [
            layer for layer in plan.layers if not layer.is_convolution or convolution_arguments(layer)
        ]
    if not plan.layers:
        raise NetworkError(
            f"{type(model).__name__} has no convolution and no linear layer with constant float32 weights to quantise"
        )
    return module, plan, stable_names(module.graph)


def _inserted(
    module: fx.GraphModule,
    plan: Plan,
    names: dict[fx.Node, str],
    mode: Mode,
    affines: dict[str, Affine],
    bits: int,
    add_bias: bool,
) -> tuple[fx.GraphModule, dict[str, str]]:
    if mode is Mode.STATIC:
        return insert_static(module, plan, names, affines, bits, add_bias)
    return insert_dynamic(module, plan, names, bits, add_bias)


def correction_inputs(graph: fx.Graph, examples: Split, limit: int = CORRECTION_BYTES) -> Inputs:
    """As many examples as keep the largest activation within `limit` bytes, at least one."""
    largest = max((4 * _numel_of_one(node) for node in graph.nodes if node.op == "call_function"), default=1)
    number = max(1, min(len(examples), limit // max(largest, 1)))
    return examples.select(list(range(number)))[0]


def _numel_of_one(node: fx.Node) -> int:
    """Elements that one example has in this tensor: the product of the shape without its (symbolic) batch."""
    count = 1
    for size in shape_of(node):
        count *= size if isinstance(size, int) else 1
    return count
