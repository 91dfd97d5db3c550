"""Running a network: a file through ONNX Runtime, or a module through PyTorch. Both are called in the same way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from tenfold.cost import Inputs, as_args, call
from tenfold.errors import NetworkError


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """`threads` threads within an operator, operators one after another, every graph optimisation, no spinning.

    Threads that spin between calls would slow whatever is measured in turn with this session.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


class OnnxRunner:
    """An ONNX file on the CPU through ONNX Runtime: inputs in, the first output as a float tensor out."""

    def __init__(self, path: Path | str, threads: int = 1, *, profile_to: Path | None = None) -> None:
        """With `profile_to` the session writes its profile to a file of that beginning (`node_times`)."""
        self.path, self.threads = Path(path), threads
        options = session_options(threads)
        if profile_to is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise NetworkError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error
        self.input_names = [value.name for value in self.session.get_inputs()]

    def feeds(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """`inputs` as ONNX Runtime takes them; `NetworkError` if they are not the file's inputs."""
        args, kwargs = as_args(inputs)
        named = dict(zip(self.input_names, args, strict=False)) | kwargs
        if len(args) > len(self.input_names) or set(named) - set(self.input_names):
            raise NetworkError(
                f"{self.path} takes the inputs {', '.join(self.input_names)}, "
                f"not {len(args)} positional and {sorted(kwargs)}"
            )
        return {name: np.ascontiguousarray(t.detach().numpy()) for name, t in named.items()}

    def __call__(self, inputs: Inputs) -> Tensor:
        feeds = self.feeds(inputs)
        try:
            outputs = self.session.run(None, feeds)
        except Exception as error:
            raise NetworkError(f"ONNX Runtime cannot run {self.path}: {_first_line(error)}") from error
        return torch.from_numpy(np.asarray(outputs[0]))


class EagerRunner:
    """A module through PyTorch, as it is, in inference mode, with `threads` threads while it runs."""

    def __init__(self, model: nn.Module, threads: int = 1) -> None:
        self.model, self.threads = model.eval(), threads

    def __call__(self, inputs: Inputs) -> Tensor:
        with torch_threads(self.threads), torch.inference_mode():
            return call(self.model, inputs)


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let PyTorch use `number` threads within the block."""
    before = torch.get_num_threads()
    if before != number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if before != number:
            torch.set_num_threads(before)


def _first_line(error: Any) -> str:
    return next(
        (line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__
    )
