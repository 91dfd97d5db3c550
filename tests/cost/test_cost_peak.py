"""What lives at the peak of memory: it adds up to the peak, and each tensor has its maker's name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tenfold.cost import profile


class Kept(nn.Module):
    """Keeps every output until the end, as networks that return hidden states do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]).relu_())
        return tuple(outputs)


NETWORKS = {
    "convolutions": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(True)), (2, 3, 9, 9)),
    "transformer": (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 7, 16)),
    "recurrent": (nn.LSTM(8, 16, 2), (5, 2, 8)),
    "kept": (Kept(), (4, 8)),
    "nothing": (nn.Identity(), (4, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_at_the_peak_add_up_to_it(name: str) -> None:
    network, shape = NETWORKS[name]
    counted = profile(network, torch.zeros(shape))
    assert sum(tensor.bytes for tensor in counted.peak_tensors) == counted.peak_activation_bytes
    assert [t.bytes for t in counted.peak_tensors] == sorted(
        (t.bytes for t in counted.peak_tensors), reverse=True
    )
    assert counted.to_json()["peak_tensors"] == [tensor.to_json() for tensor in counted.peak_tensors]


def test_every_kept_output_is_named() -> None:
    network, shape = NETWORKS["kept"]
    counted = profile(network, torch.zeros(shape))
    makers = sorted((tensor.layer, tensor.op, tensor.shape) for tensor in counted.peak_tensors)
    assert makers == [("", "input", None), *((f"layers.{n}", "addmm", (4, 8)) for n in range(5))]
