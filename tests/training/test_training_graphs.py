"""Passes replayed from CUDA graphs give what plain passes give; what a graph would freeze runs plainly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tenfold.data import Split
from tenfold.models import create
from tenfold.training import AdamW, Precision, Supervised, fit
from tenfold.training.graphs import Plain, alike, graphed, hooked, passes
from tenfold.training.zeros import held_zeros

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PLAIN = Precision()


def network() -> nn.Module:
    torch.manual_seed(0)
    return create("resnet20", num_classes=10, in_channels=1)


def images(number: int = 640) -> Split:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(number) % 10
    return Split((torch.randn(number, 1, 16, 16, generator=generator) + labels.view(-1, 1, 1, 1) / 5, labels))


def test_on_a_processor_everything_runs_plainly() -> None:
    model, (inputs, _) = network(), images().select(range(4))
    with graphed(model, inputs, PLAIN) as forward:
        assert isinstance(forward, Plain)
        assert torch.equal(forward(inputs), model(inputs))


def test_hooks_and_other_outputs_are_seen() -> None:
    model = network()
    assert not hooked(model)
    handle = model.get_submodule("conv1").register_forward_hook(lambda *_: None)
    assert hooked(model)
    handle.remove()
    assert not hooked(model)
    (inputs, _) = images().select(range(8))
    found = passes(Plain(model, PLAIN), inputs)
    assert found[1].numel() == sum(p.numel() for p in model.parameters())
    assert alike([found, found])
    assert not alike([found, [found[0], 1.1 * found[1]]])
    assert not alike([found, [found[0] + 0.1 * found[0].norm(), found[1]]])


@GPU
@pytest.mark.parametrize("precision", [PLAIN, Precision(channels_last=True, bf16=True)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_graphs_answer_as_the_network_does_and_leave_it_as_it_was(
    precision: Precision, training: bool
) -> None:
    model = precision.model(network().cuda()).train(training)
    before = copy.deepcopy(model.state_dict())
    inputs = precision.inputs(images().select(range(64))[0], torch.device("cuda"))
    random = torch.cuda.get_rng_state()
    with graphed(model, inputs, precision) as forward:
        assert not isinstance(forward, Plain)
        assert torch.equal(random, torch.cuda.get_rng_state())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        other = inputs.flip(0) * 2
        forward(other).float().square().mean().backward()
        found = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        Plain(model, precision)(other).float().square().mean().backward()
        for one, parameter in zip(found, model.parameters(), strict=True):
            torch.testing.assert_close(one, parameter.grad, rtol=2e-2, atol=2e-2 * float(one.abs().max()))
        assert torch.equal(forward(inputs[:10]), Plain(model, precision)(inputs[:10]))  # another shape


@GPU
@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Identity()], ids=["dropout", "none"])
def test_what_draws_random_numbers_is_not_frozen(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(8, 8), layer, nn.Linear(8, 2)).cuda().train()
    inputs = torch.randn(16, 8, device="cuda")
    with graphed(model, inputs, PLAIN) as forward:
        answers = [forward(inputs) for _ in range(2)]
        assert torch.equal(*answers) == isinstance(layer, nn.Identity)


class Waits(nn.Module):
    """A step that asks the GPU for a number, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * (2 if x.mean().item() > 0 else 1)


@GPU
def test_what_cannot_be_captured_runs_plainly_and_the_gpu_is_left_usable() -> None:
    model, inputs = Waits().cuda().train(), torch.ones(4, 8, device="cuda")
    with graphed(model, inputs, PLAIN) as forward:
        assert torch.equal(forward(inputs), 2 * model.layer(inputs))
        assert torch.equal(forward(-inputs), model.layer(-inputs))
    assert torch.rand(3, device="cuda").isfinite().all()
    with graphed(network().cuda(), torch.randn(4, 1, 16, 16, device="cuda"), PLAIN) as after:
        assert after(torch.randn(4, 1, 16, 16, device="cuda")).shape == (4, 10)


@GPU
@pytest.mark.parametrize("hold", [True, False])
def test_training_from_graphs_goes_the_way_of_plain_training(hold: bool) -> None:
    found = {}
    for graph in (False, True):
        model = network().cuda()
        with torch.no_grad():  # a pruned layer, whose zeros stay
            model.get_submodule("layer1.0.conv1").weight[:, ::2] = 0
        with held_zeros(model) as held:
            result = fit(
                model, images(), Supervised(), epochs=4, batch_size=64, optimizer=AdamW(1e-3), seed=5,
                precision=PLAIN, hold_norms=hold, graph=graph,
            )  # fmt: skip
        assert held
        assert (model.get_submodule("layer1.0.conv1").weight[:, ::2] == 0).all()
        found[graph] = torch.tensor(result.losses)
    torch.testing.assert_close(found[True], found[False], rtol=0.05, atol=0.02)
    assert found[True][-1] < found[True][0] - 0.2
