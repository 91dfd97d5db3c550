"""One walk through a network that rounds its weights span by span, the float network beside the rounded one.

Of either network only what lives between two spans is kept in memory, for all examples; a span itself runs on a few
examples at a time. So memory does not grow with depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.bias import channel_means
from tenfold.compress.quantize.capture import attribute, shape_of
from tenfold.compress.quantize.grid import Grid
from tenfold.compress.quantize.insert import ROOT
from tenfold.compress.quantize.layer_inputs import groups_of, matrix_of, weight_of
from tenfold.compress.quantize.layers import Layer, leaders
from tenfold.compress.quantize.observe import placeholders
from tenfold.compress.quantize.spans import Span, Unit, Values, compute, joined, spans, take
from tenfold.compress.quantize.weight_insert import UNPACK, Form, insert_bias, insert_packed, store
from tenfold.compress.technique import Run
from tenfold.cost import Inputs, batch_size
from tenfold.errors import NetworkError, OutOfTime

PART_BYTES = 2**25  # of the largest tensor of a span, over the examples that run at once

Progress = Callable[[float, str], None]  # the share of the work that is done, and the layer that comes next


@dataclass(frozen=True)
class Effort:
    """What rounding a layer asks for: how often Hessians are factored (`factorings`), and examples `shown` to learn from."""

    factorings: int = 0
    shown: int = 0


@dataclass
class Target:
    """A layer to be rounded: its name, its float weight, and where its packed form lies in the module.

    One that is `tied` reads the codes of an earlier layer, and has at most a bias of its own at `path`.
    """

    layer: Layer
    name: str
    weight: Tensor
    path: str
    unpacking: fx.Node
    tied: bool = False

    @property
    def matrix(self) -> Tensor:
        """The float weight as (R, K)."""
        return matrix_of(self.weight, self.layer.axis)

    def weight_of(self, matrix: Tensor) -> Tensor:
        """A weight of the layer from its matrix (R, K)."""
        return weight_of(matrix, tuple(self.weight.shape), self.layer.axis)

    @property
    def places(self) -> int:
        """Positions of one example at which the layer multiplies its weight."""
        count = 1
        for dim, size in enumerate(shape_of(self.layer.node)):
            if dim not in (0, self.layer.channel_dim % len(shape_of(self.layer.node))):
                count *= size if isinstance(size, int) else 1
        return count

    @property
    def work(self) -> float:
        """Multiply-adds of one example."""
        return float(self.places * self.weight.numel())

    def rounding_work(self, examples: int, effort: Effort) -> float:
        """About how many multiply-adds in float64 rounding it takes, to tell how far a walk is.

        A factor of an inverse takes ⅔ K³ for the K inputs of a group, and the codes that go with it 1½ K² for each output.
        The layer itself runs for both networks, and for both again where its bias is corrected; sums over inputs take K²
        at each place, and learning runs forth and back. Those are of float32, which is twice as fast. A `tied` layer has
        no codes of its own to find, and runs alone.
        """
        effort = Effort() if self.tied else effort
        outputs, width = self.matrix.shape
        groups = groups_of(self.layer)
        of_one = groups * width**2 * (2 / 3 * width + 1.5 * outputs / groups)
        sums = groups * width**2 * self.places if effort.factorings else 0
        return examples * (2 * self.work + sums) + effort.factorings * of_one + 1.5 * effort.shown * self.work


def packed_targets(
    module: fx.GraphModule, layers: dict[str, Layer], forms: dict[str, Form], add_bias: bool
) -> list[Target]:
    """Packed weights of zeros in the place of the float ones of the layers, by name, and where they lie."""
    targets: dict[str, Target] = {}
    for name, first in leaders(layers).items():
        layer, path = layers[name], f"{ROOT}.{name}"
        weight = attribute(module, str(layer.weight.target)).detach()
        if name == first:
            path, unpacking = insert_packed(module, layer, name, forms[name], add_bias)
        else:
            unpacking = targets[first].unpacking
            layer.node.replace_input_with(layer.weight, unpacking)
            if add_bias:
                insert_bias(module, layer, path)
        targets[name] = Target(layer, name, weight, path, unpacking, tied=name != first)
    return list(targets.values())


class Walk:
    """The state of a walk: the span that it stands before, and what lives there in both networks.

    `rounded` and `exact` hold the values for all examples, of the network with its weights rounded so far and of the
    float one. `round_` is told each span and stores the codes of its layers by `store`; a weight that several layers
    share is rounded once, for the first of them. `effort` tells how long that takes. With `correct`, each bias then
    gets back what rounding shifted in the mean of its channel: b ← b + E[y] − E[ŷ] (Nagel et al., 2019,
    arXiv:1906.04721, appendix D).
    """

    def __init__(self, module: fx.GraphModule, targets: Sequence[Target], inputs: Inputs, *, unit: Unit, effort: Effort, correct: bool, run: Run, progress: Progress) -> None:  # fmt: skip
        self.module, self.correct, self.progress, self.limits = module, correct, progress, run
        self.by_node = {target.layer.node: target for target in targets}
        unpackings = [node for node in module.graph.nodes if node.target is UNPACK]
        self.spans = spans(module.graph, self.by_node, unit, unpackings)
        self.exact: Values = dict(placeholders(module.graph, inputs))
        self.rounded: Values = dict(self.exact)
        self.examples = torch.arange(batch_size(inputs))
        self.exact_given: dict[fx.Node, Tensor] = {}
        for target in targets:
            self.exact_given[target.unpacking] = target.weight
            for node in target.layer.node.all_input_nodes:
                if node.target == f"{target.path}.bias":  # as it is before it is corrected
                    self.exact_given[node] = attribute(module, str(node.target)).clone()
        self.buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
        self.rounded_given: dict[fx.Node, Tensor] = {}
        self.codes: dict[str, Tensor] = {}  # of the layers of the span that the walk is at
        number = len(self.examples)
        self.work = {target.name: target.rounding_work(number, effort) for target in targets}
        self.done, self.all_work = 0.0, sum(self.work.values())

    def run(self, round_: Callable[[Walk, Span, list[Target], Values], None]) -> None:
        """Round everything; `round_` also gets what the span gives in the float network."""
        last_read: dict[fx.Node, int] = {}
        last_unpacked: dict[fx.Node, int] = {}
        for index, span in enumerate(self.spans):
            last_read.update(dict.fromkeys(span.inputs, index))
            for node in span.nodes:
                if node in self.by_node:
                    last_unpacked[self.by_node[node].unpacking] = index
        with torch.no_grad():
            for index, span in enumerate(self.spans):
                targets = [self.by_node[node] for node in span.nodes if node in self.by_node]
                before = self.done
                exact = self.stream(span, self.exact, self.exact_given)
                untied = [target for target in targets if not target.tied]
                if untied:
                    self.tell(untied[0].name)
                    round_(self, span, untied, exact)
                self.correct_biases(span, targets)
                self.rounded.update(self.stream(span, self.rounded, self.rounded_given))
                self.exact.update(exact)
                for node in span.inputs:
                    if last_read[node] == index:
                        self.exact.pop(node, None)
                        self.rounded.pop(node, None)
                self.codes.clear()
                for target in targets:
                    if last_unpacked[target.unpacking] == index:
                        self.rounded_given.pop(target.unpacking, None)
                self.done = before + self.work_of(targets)

    def tell(self, name: str, share: float = 0.0, work: float = 0.0) -> None:
        """Say how far the walk is, a `share` of the coming `work` included; `OutOfTime` where time has run out."""
        if self.limits.seconds_left() <= 0:
            raise OutOfTime(f"rounding weights ran out of time at {name}")
        self.progress((self.done + share * work) / max(self.all_work, 1.0), name)

    def seconds_for(self, work: float) -> float:
        """The part of the time left that falls to so much work: infinite without a deadline."""
        return self.limits.seconds_left() * work / max(self.all_work - self.done, work, 1.0)

    def work_of(self, targets: Sequence[Target]) -> float:
        """Of the rounding of these layers."""
        return sum(self.work[target.name] for target in targets)

    @property
    def seed(self) -> int:
        """Of what is drawn at random."""
        return self.limits.seed

    def store(self, target: Target, grid: Grid, codes: Tensor) -> None:
        """Keep the codes (R, K) of a layer; the rounded network computes with them from now on."""
        store(self.module, target.path, grid, codes)
        self.codes[target.name] = codes
        self.rounded_given[target.unpacking] = target.weight_of(grid.dequantized(codes))

    def biases(self, targets: Sequence[Target]) -> dict[fx.Node, Tensor]:
        """The biases of these layers that may be moved, as they are now."""
        return {
            node: attribute(self.module, str(node.target))
            for target in targets
            for node in target.layer.node.all_input_nodes
            if self.corrects(target) and node.target == f"{target.path}.bias"
        }

    def stream(self, span: Span, values: Values, given: dict[fx.Node, Tensor]) -> Values:
        """The outputs of a span for all examples, computed a few at a time."""
        return joined(
            [compute(self.module, span, take(values, span.inputs, part), given) for part in self.parts(span)]
        )

    def parts(self, span: Span, examples: Tensor | None = None) -> Iterator[Tensor]:
        """The examples in so many parts that the span's largest tensor keeps within `PART_BYTES` in each."""
        largest = max((4 * _numel(node) for node in span.nodes), default=1)
        yield from (self.examples if examples is None else examples).split(max(1, PART_BYTES // largest))

    def layer_inputs(self, span: Span, target: Target, examples: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What a layer of the span reads in the rounded and in the float network, a few examples at a time."""
        source = target.layer.input
        if source not in span.nodes:  # then it lives before the span
            for part in self.parts(span, examples):
                yield tuple(take(v, [source], part)[source] for v in (self.rounded, self.exact))  # type: ignore[misc]
            return
        before = span.upto(source)
        for part in self.parts(span, examples):
            yield tuple(  # type: ignore[misc]
                compute(self.module, before, take(values, before.inputs, part), given)[source]
                for values, given in ((self.rounded, self.rounded_given), (self.exact, self.exact_given))
            )

    def corrects(self, target: Target) -> bool:
        """Does the layer have a bias that will be corrected?"""
        return self.correct and f"{target.path}.bias" in self.buffers

    def correct_biases(self, span: Span, targets: list[Target]) -> None:
        """Give the layers of the span their float means back, one after the other; again where weights changed since."""
        for target in targets:
            if self.corrects(target):
                self._correct(span, target)

    def _correct(self, span: Span, target: Target) -> None:
        node, dim = target.layer.node, target.layer.channel_dim
        upto, shift = span.upto(node), torch.zeros(())
        for part in self.parts(span):
            exact, rounded = (
                compute(self.module, upto, take(values, upto.inputs, part), given)[node]
                for values, given in ((self.exact, self.exact_given), (self.rounded, self.rounded_given))
            )
            shift = shift + (channel_means(exact, dim) - channel_means(rounded, dim)) * (
                len(part) / len(self.examples)
            )
        if not bool(torch.isfinite(shift).all()):
            raise NetworkError(f"{target.name}: it computes NaN or infinity on the calibration examples")
        attribute(self.module, f"{target.path}.bias").add_(shift)


def _numel(node: fx.Node) -> int:
    count = 1
    for size in shape_of(node)[1:]:
        count *= size if isinstance(size, int) else 1
    return count
