"""How many examples a step of quantisation reads at once."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from tenfold.compress.quantize.capture import shape_of
from tenfold.compress.technique import Run
from tenfold.cost import Inputs
from tenfold.data import Split

BATCH = 32
LARGEST_INPUT = 2**29  # bytes of the largest activation, over all examples, where weights are rounded by them
CORRECTION_BYTES = 2**28  # the largest activation of one bias correction, over all its examples


def timed_batches(examples: Split, run: Run, work: str) -> Iterator[Inputs]:
    """The inputs of the examples, a few at a time, as long as there is time for the work."""
    for _, inputs, _ in examples.batches(BATCH):
        run.require_time(work)
        yield inputs


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
