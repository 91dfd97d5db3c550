"""`QuantizeWeights`: weights of 2 to 8 bits, packed, beside float activations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from tenfold.compress.quantize.allocation import Average
from tenfold.compress.quantize.aware import train_aware
from tenfold.compress.quantize.bits import bits_by_layer
from tenfold.compress.quantize.capture import attribute, rebuilt
from tenfold.compress.quantize.checks import captured, check_finite, check_type, not_finite, without_layers
from tenfold.compress.quantize.equalize import equalize
from tenfold.compress.quantize.examples import BATCH, LARGEST_INPUT, correction_inputs
from tenfold.compress.quantize.grid import BITS, Granularity, Grid, PerGroup, ZeroPoint
from tenfold.compress.quantize.layer_inputs import matrix_of
from tenfold.compress.quantize.layers import Layer, find_layers, readable, unshared
from tenfold.compress.quantize.learned import ROUND
from tenfold.compress.quantize.observe import Observer, check_values
from tenfold.compress.quantize.quantizer import UNTRAINED
from tenfold.compress.quantize.ranges import fit_grid
from tenfold.compress.quantize.rounding import Gptq, Rounding
from tenfold.compress.quantize.walk import Target, Walk, packed_targets
from tenfold.compress.quantize.weight_insert import Form
from tenfold.compress.technique import Applied, Json, Problem, Run, misplaced, quantized
from tenfold.cost import Device, Inputs, batch_size, map_inputs
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError


@dataclass(frozen=True)
class QuantizeWeights:
    """Convolutions and linear layers whose weights are codes of `bits` bits, packed without gaps.

    What is computed stays float: files become smaller, an ONNX export too (but for real zero points, for which ONNX has
    no form), and nothing becomes faster. `observer` chooses the range of each scale's weights; `rounding` and
    `bias_correction` read up to `examples` training examples. `Average(bits)` gives each layer its own width, by what
    its rounding is expected to cost. `equalize` first scales the channels between layers to equal ranges, which serves
    where channels share a scale. `epochs` passes over the training data teach the rounded network afterwards to answer
    as the original does. A weight that several layers share is rounded once, on the inputs of the first, and stored
    once; one that something else reads too, an embedding for instance, stays float.
    """

    bits: int | Average = 4
    granularity: Granularity = PerGroup(32)  # noqa: RUF009 - frozen, so it may be shared
    zero_point: ZeroPoint = ZeroPoint.SYMMETRIC
    observer: Observer = Observer.MSE
    rounding: Rounding = Gptq()  # noqa: RUF009
    bias_correction: bool = True
    examples: int = 128
    equalize: bool = False
    epochs: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.bits, Average) and (type(self.bits) is not int or self.bits not in BITS):
            raise ValueError(f"bits must be {BITS[0]} to {BITS[-1]}, not {self.bits!r}")
        if not isinstance(self.rounding, Rounding):
            raise ValueError(f"rounding must be Nearest(), Gptq() or Learned(), not {self.rounding!r}")
        if type(self.examples) is not int or self.examples < 1:
            raise ValueError(f"examples must be a whole number of at least 1, not {self.examples!r}")
        if not (math.isfinite(self.epochs) and self.epochs >= 0):
            raise ValueError(f"epochs must be a finite number of at least 0, not {self.epochs!r}")

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """Weights that are not finite, a network without layers to quantise, or one quantised already."""
        if already := quantized(model):
            return already
        problems = misplaced(model, task) or not_finite(model)
        return problems + without_layers(model)

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """The network over packed codes, and the bits of each layer by name.

        Raises `NetworkError` for weights or activations that are not finite, a network without layers,
        `OutOfTime` past the deadline, `ExportError` for one that cannot be traced.
        """
        check_finite(model)
        check_type(model)
        before = UNTRAINED if self.epochs else 1.0
        whole, run = run, run.part(0.0, before)
        run.progress(0.0, "quantize-weights: tracing")
        module = captured(model, task.example(2))
        layers = quantizable(module)
        examples = correction_inputs(
            module.graph, task.train.take(self.examples, seed=run.seed), LARGEST_INPUT
        )
        check_values(module, {layer.node: name for name, layer in layers.items()}, lambda: _parts(examples))
        alone = unshared(module.graph, list(layers.values()))
        equalized = equalize(module, alone, examples) if self.equalize else {}
        weights = {
            name: attribute(module, str(layer.weight.target)).detach() for name, layer in layers.items()
        }
        bits, allocation = bits_by_layer(
            self.bits,
            module,
            layers,
            weights,
            lambda matrix, b: fit_grid(matrix, b, self.granularity, self.zero_point, self.observer),
            examples,
            run.part(0.05, 0.1),
            "quantize-weights",
        )
        targets = self._inserted(module, layers, bits, self.bias_correction)

        def fit(target: Target, importance: Tensor | None) -> Grid:
            return fit_grid(
                target.matrix, bits[target.name], self.granularity, self.zero_point, self.observer, importance
            )

        walk = Walk(
            module,
            targets,
            examples,
            unit=self.rounding.unit,
            effort=self.rounding.effort,
            correct=self.bias_correction,
            run=run,
            progress=lambda share, name: run.progress(0.1 + 0.9 * share, f"quantize-weights: {name}"),
        )
        walk.run(partial(ROUND[type(self.rounding)], fit=fit, rounding=self.rounding))
        trained = None
        if self.epochs:
            trained = asdict(train_aware(module, targets, task, whole.part(before, 1.0), self.epochs))
        whole.progress(1.0, "quantize-weights: done")
        shapes = {name: matrix_of(weights[name], layer.axis).shape for name, layer in layers.items()}
        resolved: Json = {
            "bias_correction": self.bias_correction,
            "equalized": equalized,
            "trained": trained,
            "allocation": allocation,
            "layers": {
                name: {"bits": bits[name], "rows": rows, "width": width}
                for name, (rows, width) in shapes.items()
            },
        }
        return Applied(rebuilt(module), resolved)

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """The module that `apply` made, its codes zeros until a state is loaded."""
        bits, add_bias = _read(resolved)
        module = captured(model, inputs)
        layers = quantizable(module)
        if list(layers) != list(bits):
            odd = sorted(set(layers) ^ set(bits)) or ["the order of layers"]
            raise RecipeError(f"quantize-weights: made for another network; they differ at {odd[0]}")
        self._inserted(module, layers, bits, add_bias)
        return rebuilt(module)

    def _inserted(
        self, module: fx.GraphModule, layers: dict[str, Layer], bits: dict[str, int], add_bias: bool
    ) -> list[Target]:
        """Packed weights of zeros in the place of the float ones, and where they lie."""
        return packed_targets(module, layers, {name: self._form(bits[name]) for name in layers}, add_bias)

    def _form(self, bits: int) -> Form:
        return Form(bits, self.granularity, self.zero_point)


def quantizable(module: fx.GraphModule) -> dict[str, Layer]:
    """The layers whose weight layers alone read, by name, in the order in which they run."""
    layers = readable(module.graph, find_layers(module.graph))
    if not layers:
        raise NetworkError(
            "the network has no convolution and no linear layer with a constant weight to quantise"
        )
    return layers


def _parts(examples: Inputs) -> Iterator[Inputs]:
    """The examples, a few at a time."""
    for start in range(0, batch_size(examples), BATCH):
        yield map_inputs(lambda tensor, at=start: tensor[at : at + BATCH], examples)  # type: ignore[misc]


def _read(resolved: Json) -> tuple[dict[str, int], bool]:
    """The bits by layer and whether biases are added; `RecipeError` where the resolved step is malformed."""
    layers: Any = resolved.get("layers")
    add_bias = resolved.get("bias_correction")
    if not isinstance(layers, dict) or not isinstance(add_bias, bool):
        raise RecipeError("quantize-weights: resolved must have layers (a mapping) and bias_correction")
    bits: dict[str, int] = {}
    for name, layer in layers.items():
        number = layer.get("bits") if isinstance(layer, dict) else None
        if type(number) is not int or number not in BITS:
            raise RecipeError(
                f"quantize-weights: {name} must have {BITS[0]} to {BITS[-1]} bits, not {number!r:.40}"
            )
        bits[name] = number
    return bits, add_bias
