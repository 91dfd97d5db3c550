"""What is handed over: the files that a runtime needs, their size on disk, and the way to run them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_model
from torch import Tensor, fx, nn

from tenfold.compress.quantize import is_quantized
from tenfold.cost import Inputs
from tenfold.deploy.onnx_export import export_onnx
from tenfold.deploy.runners import EagerRunner, OnnxRunner
from tenfold.errors import OutputError
from tenfold.files import written

Runner = Callable[[Inputs], Tensor]


class Precision(enum.Enum):
    """What the layers of an artefact compute in."""

    FLOAT32 = "fp32"
    INT8_STATIC = "int8-static"
    INT8_DYNAMIC = "int8-dynamic"


@dataclass(frozen=True)
class Artifact:
    """A network as a runtime takes it. `paths` are all the files that the runtime needs.

    For the runtime torch the code of the network is needed as well: `model` holds it.
    """

    runtime: str
    paths: tuple[Path, ...]
    precision: Precision
    model: nn.Module | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of every file."""
        try:
            return sum(path.stat().st_size for path in self.paths)
        except OSError as error:
            raise OutputError(f"a file of the artefact is gone: {error}") from error

    def session(self, threads: int = 1) -> Runner:
        """A callable that runs it with `threads` threads: inputs in, the main output as a tensor out."""
        if self.model is not None:
            return EagerRunner(self.model, threads)
        return OnnxRunner(self.paths[0], threads)

    def run(self, inputs: Inputs) -> Tensor:
        """The main output for `inputs`, by a new session of one thread. To run it often, keep a `session`."""
        return self.session()(inputs)


def deploy_onnx(model: nn.Module, inputs: Inputs, path: Path | str) -> Artifact:
    """Export `model`, float or quantised, to `path` for ONNX Runtime. Raises as `export_onnx`."""
    export_onnx(model, inputs, path)
    return Artifact("onnxruntime", (Path(path),), precision_of(model))


def deploy_eager(model: nn.Module, path: Path | str) -> Artifact:
    """Write the weights of `model` to `path` as safetensors, to be run by PyTorch as it is."""
    with written(path) as temporary:
        save_model(model, str(temporary))
    return Artifact("torch", (Path(path),), precision_of(model), model.eval())


def precision_of(model: nn.Module) -> Precision:
    """Float, as with the codes of `QuantizeWeights` too, or which of the two INT8 forms `Quantize` gave it."""
    if not is_quantized(model) or not isinstance(model, fx.GraphModule):
        return Precision.FLOAT32
    called = [str(node.target) for node in model.graph.nodes if node.op == "call_function"]
    if any("unpack_weight" in name for name in called):
        return Precision.FLOAT32
    dynamic = any("dynamic_" in name for name in called)
    return Precision.INT8_DYNAMIC if dynamic else Precision.INT8_STATIC
