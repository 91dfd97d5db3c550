"""The kernels that ONNX Runtime launches on a CPU, out of the operators that eager execution runs.

The rules are those of its graph optimiser (onnxruntime/core/optimizer, nchwc_transformer.cc above all): what does
not depend on the inputs is folded; batch norm and padding fold into a convolution; simple activations and the
addition of a shortcut join the convolution before them; convolutions keep their channels in blocks as wide as a
vector register, and every operator that does not know that layout is given a copy in the plain one, and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from tenfold.cost.exported_kernels import as_convolution, exported, network_batch
from tenfold.cost.record import OperatorCost
from tenfold.cost.workload import Kernel, kernel_of

ALIGNMENT = 4  # convolutions whose channels are no multiple of it stay in the plain layout
ACTIVATIONS = frozenset(
    [
        "relu",
        "sigmoid",
        "tanh",
        "leaky_relu",
        "clamp",
        "clamp_min",
        "hardtanh",
        "hardsigmoid",
        "hardswish",
        "relu6",
    ]
)
PRODUCTS = frozenset({"bmm", "mm", "baddbmm"})
KEEPS_LAYOUT = frozenset({"pool", "batch norm", "heavy", "gelu", "silu", "hardswish"})


def fused_kernels(operators: Sequence[OperatorCost], block: int = 16) -> tuple[Kernel, ...]:
    """The kernels in order. `block` is the number of channels in a block: 16 with AVX-512, 8 with AVX2."""
    return _Fusion(operators, block).run()


class _Fusion:
    """One walk over the operators, with the layout of each output kept."""

    def __init__(self, operators: Sequence[OperatorCost], block: int) -> None:
        self.operators = operators
        self.block = block
        self.batch = network_batch(operators)
        self.readers = [0] * len(operators)
        for operator in operators:
            for source in operator.reads:
                if source >= 0:
                    self.readers[source] += 1
        self.kernels: list[Kernel] = []
        self.home: dict[int, int] = {}  # operator -> its kernel
        self.blocked: dict[int, bool] = {}  # operator -> whether its output is in blocks
        self.copied: set[tuple[int, bool]] = set()  # outputs that were copied, and into which layout
        self.alias: dict[int, int] = {}  # an operator that vanished -> the one that its readers read

    def run(self) -> tuple[Kernel, ...]:
        constant: list[bool] = []
        for number, operator in enumerate(self.operators):
            constant.append(all(source >= 0 and constant[source] for source in operator.reads))
            if constant[number]:
                continue
            sources = [self._resolved(source) for source in operator.reads]
            sources = [source for source in sources if source < 0 or source in self.home]
            if self._vanishes(number, operator):
                self.alias[number] = sources[-1] if sources else -1
                continue
            host = self._host(operator, sources)
            if host is None:
                self._launch(number, operator, sources)
            else:
                self._join(number, operator, host)
        return tuple(self.kernels)

    def _resolved(self, source: int) -> int:
        return self.alias.get(source, source)

    def _vanishes(self, number: int, operator: OperatorCost) -> bool:
        """What its only reader takes in: padding before a convolution, a number that scales an operand of a product,
        the bias of a linear layer before a GELU."""
        if self.readers[number] != 1:
            return False
        reader = next(later for later in self.operators[number + 1 :] if number in later.reads)
        if operator.op == "constant_pad_nd":
            return "conv" in reader.op
        if operator.op == "mul" and len(operator.input_shapes) == 1:
            return reader.op in PRODUCTS or reader.op == "clone"  # which lays the operand out for the product
        source = self._resolved(operator.reads[0]) if operator.reads else -1
        return (
            operator.op == "add" and reader.op == "gelu" and operator.weight_bytes > 0
            and source in self.home and self.kernels[self.home[source]].family == "linear"
        )  # fmt: skip

    def _host(self, operator: OperatorCost, sources: Sequence[int]) -> int | None:
        """The operator whose kernel this one joins."""
        name = operator.op.strip("_")
        for source in sorted(sources, reverse=True):
            if source < 0 or self.readers[source] != 1:
                continue
            kernel = self.kernels[self.home[source]]
            if not kernel.operators or kernel.operators[-1] != source:
                continue
            # A norm that works on blocks is itself run as a convolution.
            if not _is_convolution(kernel) and not (kernel.family == "batch norm" and self.blocked[source]):
                continue
            joined = [self.operators[member].op.strip("_") for member in kernel.operators[1:]]
            if any(member in ACTIVATIONS for member in joined):
                continue
            if "batch_norm" in name and not joined and _is_convolution(kernel):
                return source
            if name in ACTIVATIONS or (
                name in ("mul", "add", "sub") and operator.weight_bytes and not joined
            ):
                return source  # a constant for each channel folds into the weights
            if name == "add" and self._adds_shortcut(operator, source, sources):
                return source
        return None

    def _adds_shortcut(self, operator: OperatorCost, source: int, sources: Sequence[int]) -> bool:
        shapes = [shape for shape in operator.input_shapes if prod(shape) > 1]
        others = [other for other in sources if other != source]
        return (
            len(shapes) == 2
            and shapes[0] == shapes[1]
            and self.blocked[source]
            and all(other >= 0 and self.blocked[other] for other in others)
        )

    def _join(self, number: int, operator: OperatorCost, host: int) -> None:
        at = self.home[host]
        kernel = self.kernels[at]
        shortcut = max(0, operator.bytes_read - operator.weight_bytes - self.operators[host].bytes_written)
        self.kernels[at] = replace(
            kernel,
            operators=(*kernel.operators, number),
            other_flops=kernel.other_flops + operator.other_flops,
            read_bytes=kernel.read_bytes + shortcut,
        )
        self.home[number] = at
        self.blocked[number] = self.blocked[host]

    def _launch(self, number: int, operator: OperatorCost, sources: Sequence[int]) -> None:
        kernel = kernel_of(number, operator)
        takes, gives = self._layout(kernel, operator, sources)
        for source in sources:
            if source >= 0 and takes is not None and self.blocked[source] != takes:
                self._reorder(source, takes)
            elif source < 0 and takes:
                self._reorder(source, takes, kernel)
        if gives and kernel.family == "batch norm":
            kernel = as_convolution(kernel, operator)
        found = exported(kernel, operator, self.batch, self._gives_bias(number))
        self.kernels += found
        self.home[number] = len(self.kernels) - 1
        self.blocked[number] = gives

    def _gives_bias(self, number: int) -> bool:
        """Whether the only reader of a linear layer is a GELU, which adds the bias itself."""
        if self.readers[number] != 1:
            return False
        return next(later.op for later in self.operators[number + 1 :] if number in later.reads) == "gelu"

    def _layout(
        self, kernel: Kernel, operator: OperatorCost, sources: Sequence[int]
    ) -> tuple[bool | None, bool]:
        """The layout of the inputs that it takes (None: the one they are in), and of its output."""
        if _is_convolution(kernel):
            if not self._has_blocks(kernel, operator):
                return False, False
            return (None if kernel.family == "stem" else True), True
        inside = bool(sources) and all(source >= 0 and self.blocked[source] for source in sources)
        if inside and len(operator.output_shape) == 4 and self._keeps(kernel, operator):
            return None, True
        return False, False

    def _keeps(self, kernel: Kernel, operator: OperatorCost) -> bool:
        """Whether an operator works on blocks as well as on the plain layout."""
        name = operator.op.strip("_")
        if kernel.family in KEEPS_LAYOUT or name in ACTIVATIONS or "nearest" in name:
            return True
        if kernel.family == "reduction":
            return operator.output_shape[2:] == (1, 1)
        if kernel.family == "concat":
            return all(shape[1] % self.block == 0 for shape in operator.input_shapes if len(shape) == 4)
        return name in ("add", "mul") and kernel.family == "light"

    def _has_blocks(self, kernel: Kernel, operator: OperatorCost) -> bool:
        """Whether a convolution runs in the blocked layout (2-d only)."""
        if len(operator.output_shape) != 4 or operator.output_shape[1] % ALIGNMENT:
            return False
        if kernel.family == "grouped convolution":
            inputs = kernel.depth // kernel.window
            return inputs % self.block == 0 and kernel.columns % self.block == 0
        return True

    def _reorder(self, source: int, to_blocks: bool, reader: Kernel | None = None) -> None:
        """A copy of an output in the other layout, made once. It belongs to the layer whose kernel made the output,
        or, of the network's input, to the layer that reads it."""
        if (source, to_blocks) in self.copied:
            return
        self.copied.add((source, to_blocks))
        if source >= 0:
            owner, size = self.kernels[self.home[source]], self.operators[source].bytes_written
        else:
            assert reader is not None
            owner, size = reader, reader.read_bytes
        elements = size // owner.itemsize
        self.kernels.append(
            Kernel("reorder", owner.layer, owner.op, (), 0, 0, elements, 0, size, size, batch=owner.batch)
        )


def _is_convolution(kernel: Kernel) -> bool:
    return "convolution" in kernel.family or kernel.family == "stem"
