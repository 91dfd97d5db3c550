"""Zero padding before a quantised convolution is the convolution's own, and padding by anything else is not."""

from __future__ import annotations

import pytest
import torch
from deploy_networks import file_operators, fused_operators, images, quantised, seeded
from torch import Tensor, nn

from tenfold.deploy import OnnxRunner, export_onnx, verify


class Padded(nn.Module):
    """(N, 3, 10, 10) -> (N, 4): each of three convolutions behind a padding with `value`, as TensorFlow pads."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.uneven = nn.ConstantPad2d((0, 1, 0, 1), value)  # columns before and after, rows before and after
        self.stem = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.even = nn.ConstantPad2d(1, value)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.odd = nn.ConstantPad2d((2, 1, 0, 3), value)
        self.last = nn.Conv2d(8, 8, (2, 4), padding=(1, 0))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(self.uneven(x)))
        x = torch.relu(self.depthwise(self.even(x)))
        return self.fc(self.last(self.odd(x)).mean(dim=(2, 3)))


class ReadTwice(nn.Module):
    """A padded tensor that a sum reads as well: the padding must stay for it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(torch.relu(self.stem(x)), (1, 1, 1, 1))
        return (x + self.conv(x)).mean(dim=(2, 3))


def test_zero_padding_goes_into_the_convolution(tmp_path):
    model, path = seeded(Padded), tmp_path / "padded.onnx"
    module = quantised(model, images())
    export_onnx(module, images(1), path)
    assert "Pad" not in file_operators(path)
    fused = fused_operators(path)
    assert fused["QLinearConv"] == 3
    assert fused["QuantizeLinear"] == 1  # of the input alone
    assert verify(module, OnnxRunner(path), images(), model).snr_db > 40
    assert verify(model, OnnxRunner(path), images()).snr_db > 25


def test_padding_with_another_value_stays(tmp_path):
    model, path = seeded(Padded, 0.7), tmp_path / "padded.onnx"  # type: ignore[arg-type]
    module = quantised(model, images())
    export_onnx(module, images(1), path)
    assert file_operators(path)["Pad"] == 3
    assert verify(module, OnnxRunner(path), images()).snr_db > 40


@pytest.mark.parametrize("batch", [1, 3])
def test_padding_that_another_call_reads_stays_right(tmp_path, batch):
    model, path = seeded(ReadTwice), tmp_path / "twice.onnx"
    module = quantised(model, images())
    export_onnx(module, images(1), path)
    assert verify(module, OnnxRunner(path), images(batch)).snr_db > 40
