"""Small networks for the tests of deployment, and what ONNX Runtime makes of a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from tenfold.compress import Run
from tenfold.compress.quantize import Mode, Quantize
from tenfold.data import Task
from tenfold.deploy.runners import session_options


class Block(nn.Module):
    """(N, 3, 10, 10) -> (N, 4): convolutions with odd widths, batch norm, ReLU6, a residual sum, a global mean."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.expand = nn.Conv2d(width, 3, 1, bias=False)
        self.reduce = nn.Conv2d(3, width, 1)
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.reduce(torch.relu(self.expand(torch.relu(self.depthwise(x)))))
        return self.fc(x.mean(dim=(2, 3)))


class Pair(nn.Module):
    """Two inputs, by position or by name, over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 8, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.tanh(self.left(a) + self.right(b)))}


def seeded(build: type[nn.Module], *args: int) -> nn.Module:
    """A network with weights and statistics from a fixed seed, in eval mode."""
    torch.manual_seed(0)
    model = build(*args)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def images(number: int = 16) -> Tensor:
    return torch.randn(number, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def quantised(model: nn.Module, inputs: object, mode: Mode = Mode.STATIC, **choices: Any) -> nn.Module:
    """`model` after `Quantize(mode, **choices)`, calibrated on `inputs`."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    first = first[0] if isinstance(first, tuple) else first
    split = (inputs, torch.zeros(len(first), dtype=torch.long))  # type: ignore[arg-type]
    return Quantize(mode, **choices).apply(model, Task(model, train=split, validation=split), Run()).model


def file_operators(path: Path) -> Counter[str]:
    """How often each operator stands in the file."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def fused_operators(path: Path) -> Counter[str]:
    """How often each operator stands in the graph that ONNX Runtime runs in its place."""
    options = session_options(1)
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return file_operators(path.with_suffix(".optimized.onnx"))
