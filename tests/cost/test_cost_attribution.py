"""What belongs to which layer, and operators that nobody registered."""

from __future__ import annotations

import pytest
import torch
from count_networks import Function
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.cost import arithmetic, profile


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 8)
        self.head = nn.Linear(8, 100, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def test_tied_weights_count_once_and_an_embedding_has_no_macs_but_bytes():
    counted = profile(Tied(), torch.zeros(2, 3, dtype=torch.long))
    assert counted.params == 800
    assert counted.weight_bytes == 3200
    assert counted.macs == 2 * 3 * 8 * 100
    embed, head = counted.layers
    assert (embed.name, embed.macs, embed.params) == ("embed", 0, 800)
    assert embed.bytes_read == 2 * 3 * 8 * 4 + 2 * 3 * 8  # six rows of floats and six 8-byte indices
    assert (head.name, head.params) == ("head", 0)


def test_two_parameters_over_one_memory_count_once():
    a = nn.Linear(4, 4, bias=False)
    b = nn.Linear(4, 4, bias=False)
    b.weight = nn.Parameter(a.weight.data)
    assert profile(nn.Sequential(a, b), torch.empty(1, 4)).params == 16


def test_a_module_called_several_times_counts_each_call():
    shared = nn.Linear(8, 8)
    counted = profile(Function(lambda net, x: shared(shared(shared(x)))), torch.empty(2, 8))
    assert counted.macs == 3 * 2 * 8 * 8
    inside = profile(nn.Sequential(shared, nn.ReLU(), shared), torch.empty(2, 8))
    layer = inside.layers[0]
    assert (layer.name, layer.calls, layer.params) == ("0", 2, 72)
    assert layer.macs == inside.macs == 2 * 2 * 8 * 8


def test_functional_calls_belong_to_the_module_that_makes_them():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.linear(x, self.weight))

    counted = profile(nn.Sequential(nn.Identity(), Block()), torch.empty(5, 4))
    assert [(layer.name, layer.op) for layer in counted.layers] == [("1", "mm"), ("1", "relu")]
    assert counted.layers[0].output_shape == (5, 6)


def test_bytes_and_intensity_of_a_linear_layer():
    counted = profile(nn.Linear(64, 32), torch.empty(16, 64))
    (layer,) = counted.layers
    assert layer.bytes_read == 4 * (16 * 64 + 64 * 32 + 32)
    assert layer.bytes_written == 4 * 16 * 32
    assert layer.intensity == 2 * 16 * 64 * 32 / (layer.bytes_read + layer.bytes_written)


def test_depthwise_intensity_counts_flops():
    """A 3×3 depthwise convolution in fp32: about 2·9 / (2·4) = 2.25 FLOPs a byte."""
    conv = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
    assert profile(conv, torch.empty(1, 64, 112, 112)).intensity == pytest.approx(2.25, rel=0.01)


def test_half_precision_halves_the_bytes():
    x = torch.empty(4, 16)
    full, half = profile(nn.Linear(16, 16), x), profile(nn.Linear(16, 16).half(), x.half())
    assert half.weight_bytes * 2 == full.weight_bytes
    assert half.bytes_read * 2 == full.bytes_read
    assert half.macs == full.macs


def test_trainable_parameters():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    counted = profile(model, torch.empty(1, 4))
    assert (counted.params, counted.trainable_params) == (40, 20)


def test_views_cost_nothing():
    counted = profile(
        Function(lambda _, x: x.view(4, 6).t()[1:].unsqueeze(0).expand(3, -1, -1)), torch.empty(24)
    )
    assert counted.layers == ()
    assert counted.activation_bytes == 0


# ---- unknown operators ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def custom_operator():
    @torch.library.custom_op("tenfold_tests::scan", mutates_args=())
    def scan(x: Tensor) -> Tensor:
        return x.cumsum(0)

    @scan.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    return scan


def test_an_unknown_operator_is_named_and_a_registered_one_counted(custom_operator):
    model = Function(lambda _, x: custom_operator(x))
    x = torch.empty(10, 4)
    before = profile(model, x)
    assert before.unknown == ("tenfold_tests::scan",)
    assert before.layers[0].kind == "unknown"
    assert before.layers[0].bytes_written == 160
    assert "tenfold_tests::scan" in str(before)
    try:
        arithmetic.register("tenfold_tests::scan", macs=lambda x, out: 3 * x[0] * x[1])
        after = profile(model, x)
        assert (after.unknown, after.macs) == ((), 120)
    finally:
        del arithmetic.MACS["tenfold_tests::scan"], arithmetic.OTHER_FLOPS["tenfold_tests::scan"]
        arithmetic.formulas_of.cache_clear()


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="older versions lack some of them"
)
def test_every_registered_operator_exists():
    """A name that torch does not have would be a formula that never applies."""

    def exists(name: str) -> bool:
        library, _, short = name.partition("::")
        home = getattr(torch.ops, library)
        return hasattr(home, short) or hasattr(home, f"{short}_")

    missing = [name for name in arithmetic.MACS if name.startswith("aten::") and not exists(name)]
    assert missing == []
