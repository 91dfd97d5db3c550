"""The bits of each layer's weight: the same for all, or an allocation by what rounding is expected to cost."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, fx

from tenfold.compress.quantize.allocation import Average, allocate, fisher_diagonals
from tenfold.compress.quantize.grid import Grid
from tenfold.compress.quantize.layer_inputs import matrix_of
from tenfold.compress.quantize.layers import Layer, leaders
from tenfold.compress.technique import Json, Run
from tenfold.cost import Inputs


def bits_by_layer(
    bits: int | Average,
    module: fx.GraphModule,
    layers: dict[str, Layer],
    weights: dict[str, Tensor],
    fit: Callable[[Tensor, int], Grid],
    examples: Inputs,
    run: Run,
    name: str,
) -> tuple[dict[str, int], Json | None]:
    """The bits of each of the `layers`, and where they are allocated what that is expected to gain.

    `fit` gives the grid of a matrix (R, K) for so many bits. Raises `OutOfTime`, as the technique called `name`.
    """
    if not isinstance(bits, Average):
        return dict.fromkeys(layers, bits), None

    def before(share: float) -> None:
        run.require_time(f"{name}: allocating bits")
        run.progress(share, f"{name}: allocating bits")

    first = leaders(layers)
    once = {leader: layers[leader] for leader in dict.fromkeys(first.values())}
    fisher = fisher_diagonals(module, once, examples, run.seed, before)
    choices, curves = bits.choices, []
    for leader, layer in once.items():
        matrix, importance = matrix_of(weights[leader], layer.axis), matrix_of(fisher[leader], layer.axis)
        curve = []
        for choice in choices:
            error = fit(matrix, choice).rounded(matrix) - matrix
            distortion = 0.5 * float((importance * error.square()).double().sum())
            curve.append((float(choice * matrix.numel()), distortion))
        curves.append(curve)
    number = sum(weights[leader].numel() for leader in once)
    chosen = allocate(curves, bits.bits * number)
    found = dict(zip(once, (choices[i] for i in chosen), strict=True))
    # Beside it, as a measure: the most bits that all layers can have alike.
    alike = choices.index(max(choice for choice in choices if choice <= bits.bits))
    return {each: found[first[each]] for each in layers}, {
        "expected_loss": sum(curve[i][1] for curve, i in zip(curves, chosen, strict=True)),
        "bits": sum(curve[i][0] for curve, i in zip(curves, chosen, strict=True)) / number,
        "uniform_bits": choices[alike],
        "uniform_expected_loss": sum(curve[alike][1] for curve in curves),
    }
