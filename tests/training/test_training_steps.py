"""Steps from graphs are the plain steps: tested on a processor with captures that do the work again, and on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.training import AdamW, OptimizerSettings, Precision, Sgd
from tenfold.training import steps as steps_module
from tenfold.training.steps import MOVED_PLAINLY, Replayed, Steps, replayed, steps_of
from tenfold.training.zeros import held_zeros

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PLAIN = Precision()


class Net(nn.Module):
    """(N, 2, 5, 5) -> (N, 3): two parameters with one gradient, one with none, one whose gradient lies transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.weight = nn.Parameter(torch.randn(36, 3) / 6)
        self.one, self.other, self.unused = (nn.Parameter(torch.zeros(8, 3)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.convolution(x)).relu().flatten(1)
        weight = self.weight.t().contiguous()  # the gradient of the weight is that of its transpose
        return nn.functional.linear(y, weight) + (self.one + self.other).mean(0)


def network(device: str = "cpu") -> Net:
    torch.manual_seed(0)
    made = Net().to(device).train()
    with torch.no_grad():  # a pruned layer, whose zeros stay
        made.convolution.weight[:, 0] = 0
    return made


def taken(
    model: Net, optimizer: OptimizerSettings, clip: float | None, make: Callable[[Steps, Tensor], Steps]
) -> tuple[list[float], Steps]:
    """Losses of steps on batches of which the sixth has another size."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(1)
    parameters = list(model.parameters())
    rate = torch.zeros((), device=device)
    rule = optimizer.build(parameters, learning_rate=rate, fused=device.type == "cuda")
    batches = [torch.randn(4 if i == 5 else 8, 2, 5, 5, generator=generator).to(device) for i in range(10)]
    losses = []
    with held_zeros(model) as held:
        assert held == ["convolution.weight"]
        steps = make(steps_of(model, parameters, rule, PLAIN, clip=clip), batches[0])
        for number, batch in enumerate(batches):
            outputs = steps.outputs(batch)
            loss = (outputs - 1).square().mean()
            losses.append(loss.item())
            steps.learn(loss, 0.05 / (1 + number))
    assert (model.convolution.weight[:, 0] == 0).all()
    return losses, steps


def done_again(work: Callable[[], None], pool: Any) -> Callable[[], None]:
    """A capture for a processor: what is found is there at once, and no weight moves yet."""
    if work.__name__ != "_move":
        work()
    return work


def from_graphs(steps: Steps, example: Tensor) -> Steps:
    made = replayed(steps, example)
    assert made is not None
    return made


@pytest.mark.parametrize("optimizer", [Sgd(), AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_they_are_the_plain_steps(
    optimizer: OptimizerSettings, clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "recorded", done_again)
    model, other = network(), network()
    wanted, _ = taken(model, optimizer, clip, lambda steps, example: steps)
    found, steps = taken(other, optimizer, clip, from_graphs)
    assert found == wanted
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert isinstance(steps, Replayed)
    assert steps._replay_move is not None
    assert len(wanted) > MOVED_PLAINLY


def test_capturing_leaves_the_network_and_its_generator_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "recorded", done_again)
    model = network()
    rule, example = Sgd().build(model.parameters()), torch.randn(8, 2, 5, 5)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert isinstance(steps_of(model, list(model.parameters()), rule, PLAIN, example=example), Replayed)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Turning(Net):
    """A network that Python turns around at every call."""

    sign = 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.sign = -self.sign
        return self.sign * super().forward(x)


def test_what_a_graph_would_freeze_is_taken_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "recorded", done_again)
    example = torch.randn(8, 2, 5, 5)

    def made(model: nn.Module, **options: Any) -> Steps:
        parameters = [*model.parameters(), *options.pop("beside", [])]
        return steps_of(model, parameters, Sgd().build(parameters), PLAIN, **{"example": example, **options})

    assert isinstance(made(network()), Replayed)
    assert type(made(network(), example=None)) is Steps
    assert type(made(network(), example={"x": example})) is Steps
    assert type(made(network(), beside=[nn.Parameter(torch.zeros(2))])) is Steps
    assert type(made(Turning().train())) is Steps
    assert type(made(nn.Sequential(network(), nn.Dropout(0.5)))) is Steps
    hooked = network()
    hooked.norm.register_forward_hook(lambda *_: None)
    assert type(made(hooked)) is Steps


@GPU
@pytest.mark.parametrize("optimizer", [Sgd(), AdamW()], ids=["sgd", "adamw"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_gpu_replays_the_plain_steps(optimizer: OptimizerSettings, clip: float | None) -> None:
    model, other = network("cuda"), network("cuda")
    wanted, _ = taken(model, optimizer, clip, lambda steps, example: steps)
    found, steps = taken(other, optimizer, clip, from_graphs)
    assert found == pytest.approx(wanted, rel=1e-3)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-2, atol=1e-3)
    assert isinstance(steps, Replayed)
    assert steps._replay_move is not None


class Waits(Net):
    """It asks the GPU for a number, which no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if x.mean().item() > 0 else 1)


@GPU
def test_what_cannot_be_captured_is_taken_plainly_and_the_gpu_is_left_usable() -> None:
    example = torch.randn(8, 2, 5, 5, device="cuda")
    for model, kind in ((Waits().cuda().train(), Steps), (network("cuda"), Replayed)):
        parameters = list(model.parameters())
        rule = Sgd().build(parameters, fused=True)
        steps = steps_of(model, parameters, rule, PLAIN, example=example)
        assert type(steps) is kind
        steps.learn(steps.outputs(example).square().mean(), 0.01)
        assert all(p.isfinite().all() for p in parameters)
