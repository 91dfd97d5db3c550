"""Peak memory of activations, by hand and against the allocator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.cost import profile


def test_peak_memory_of_a_chain_by_hand():
    """Input 1, then 4, then 2 units: while the third exists, its input and the network's input do too."""
    model = nn.Sequential(nn.Linear(10, 40), nn.Linear(40, 20), nn.Linear(20, 5))
    unit = 10 * 4 * 8
    counted = profile(model, torch.empty(8, 10))
    assert counted.peak_activation_bytes == 7 * unit
    assert counted.peak_layer == "1"
    assert counted.activation_bytes == (4 + 2 + 0.5) * unit


def test_in_place_operators_allocate_nothing():
    def peak(inplace: bool) -> int:
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=inplace))
        return profile(model, torch.empty(1, 3, 10, 10)).peak_activation_bytes

    assert peak(inplace=True) == 4 * 100 * (3 + 8)
    assert peak(inplace=False) == 4 * 100 * (3 + 8 + 8)


def test_peak_memory_equals_what_the_allocator_saw():
    """Against torch's profiler on the CPU, for a network whose operators need no workspace."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
            x = x + torch.softmax(q @ k.mT, -1) @ v
            return x + self.down(F.gelu(self.up(x)))

    model, x = nn.Sequential(*(Block(32) for _ in range(3))).eval(), torch.rand(4, 24, 32)
    assert profile(model, x).peak_activation_bytes == pytest.approx(_allocated(model, x), rel=0.01)


def _allocated(model: nn.Module, x: Tensor) -> int:
    """The peak that torch's profiler saw the allocator reach, and the input, which was there before."""
    with torch.no_grad():
        model(x)
        with torch.profiler.profile(profile_memory=True) as recorded:
            model(x)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    assert peak > 0
    return peak + x.nbytes


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_fast_path_of_attention_stores_its_scores(norm_first):
    """96×96 scores of 8 heads outweigh the rest here; the plain path would fuse them away."""
    layer = nn.TransformerEncoderLayer(64, 8, 64, batch_first=True, norm_first=norm_first).eval()
    x = torch.rand(2, 96, 64)
    assert profile(layer, x).peak_activation_bytes == pytest.approx(_allocated(layer, x), rel=0.02)


def test_fused_execution_keeps_what_crosses_groups():
    """Convolution, norm and activation are one group: its input and its output are all that is stored."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False), nn.ReLU()
    )  # fmt: skip
    counted = profile(model, torch.empty(1, 3, 10, 10))
    assert counted.fused_peak_activation_bytes == 4 * 100 * (8 + 4)  # the input of the network is done with
    assert counted.peak_activation_bytes == 4 * 100 * (3 + 8 + 8)


def test_a_shortcut_is_held_until_it_is_added():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(F.relu(self.up(x)))

    counted = profile(nn.Sequential(Residual(), Residual()), torch.empty(1, 4, 10, 10))
    assert counted.fused_peak_activation_bytes == 4 * 100 * (4 + 16 + 4)


def test_mobilenet_v2_fused_by_hand(timm):
    """Its second block: 96 channels at 112×112 go in, and at 56×56 come out, 5.74 MiB in fp32."""
    with torch.device("meta"):
        model = timm.create_model("mobilenetv2_100")
    counted = profile(model, torch.empty(1, 3, 224, 224))
    assert counted.fused_peak_activation_bytes == 4 * 96 * (112**2 + 56**2)
    # Eager: the input; 32 channels that the caller of the blocks holds; a block's 16, expanded to 96; and their norm.
    assert counted.peak_activation_bytes == 4 * (3 * 224**2 + (32 + 16 + 96 + 96) * 112**2)


def test_the_result_of_a_network_stays():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            first = x @ x
            return first, (first @ x).sum()

    assert profile(Two(), torch.empty(10, 10)).fused_peak_activation_bytes == 4 * 300


def test_memory_is_that_of_the_real_run_too():
    model, x = nn.Sequential(nn.Linear(10, 40), nn.Linear(40, 20), nn.Linear(20, 5)), torch.rand(8, 10)
    fake, real = profile(model, x), profile(model, x, real=True)
    assert (real.macs, real.params, real.peak_activation_bytes) == (
        fake.macs, fake.params, fake.peak_activation_bytes
    )  # fmt: skip
    assert real.layers == fake.layers
