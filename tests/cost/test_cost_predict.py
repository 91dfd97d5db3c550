"""The predictor on synthetic machines whose coefficients are known, on very few observations, and its bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tenfold.cost import LatencyModel, fused, predicted_size, profile
from tenfold.cost.predict import PRIORS, Coefficients, nonnegative_least_squares
from tenfold.cost.record import OperatorCost, Profile
from tenfold.models.resnet_cifar import CifarResNet


def network(generator: np.random.Generator) -> Profile:
    """A made-up network of random depth, width, kind and sizes."""
    operators = []
    for number in range(generator.integers(5, 80)):
        kind = generator.choice(["dense", "dense", "depthwise", "reduction"])
        moved = int(10 ** generator.uniform(4, 6.5))
        operators.append(
            OperatorCost(
                layer=f"layer{number}",
                op=str(kind),
                kind=str(kind),
                macs=0 if kind == "reduction" else int(10 ** generator.uniform(4, 7)),
                other_flops=0,
                weight_bytes=moved // 3,
                bytes_read=moved,
                bytes_written=moved // 2,
                output_shape=(1,),
                reads=(number - 1,),
            )
        )
    return Profile("made up", (), 0, 0, 0, 0, 0, 0, 0, (), tuple(operators))


def truth(counted: Profile, c: Coefficients) -> float:
    """Milliseconds on a machine with these coefficients, written out separately."""
    dense = sum(op.macs for op in counted.operators if op.kind != "depthwise")
    depthwise = sum(op.macs for op in counted.operators if op.kind == "depthwise")
    weights = sum(op.weight_bytes for op in counted.operators)
    rest = sum(op.bytes_read - op.weight_bytes + op.bytes_written for op in counted.operators)
    moved = c.weights * weights + c.activations * rest
    return c.operator * len(counted.operators) + c.dense * dense + c.depthwise * depthwise + c.byte * moved


MACHINE = Coefficients(operator=1e-2, dense=5e-8, depthwise=4e-7, byte=3e-8)


def test_known_coefficients_are_recovered():
    generator = np.random.default_rng(0)
    networks = [network(generator) for _ in range(180)]
    model = LatencyModel.fit([(one, "fp32", truth(one, MACHINE)) for one in networks[:150]])
    state, prior = model._fits["fp32"], PRIORS["fp32"].vector()
    found = state.scale * state.u * prior
    assert found[1:] == pytest.approx(MACHINE.vector()[1:], rel=0.05)
    assert found[0] == pytest.approx(MACHINE.operator, rel=0.1)  # a few percent of these times
    for one in networks[150:]:
        assert model.predict(one).ms == pytest.approx(truth(one, MACHINE), rel=0.02)


def test_intervals_hold_the_truth_of_a_noisy_machine():
    generator = np.random.default_rng(1)
    held, widths = [], []
    for trial in range(20):
        networks = [network(generator) for _ in range(40)]
        noisy = [truth(one, MACHINE) * np.exp(0.1 * generator.normal()) for one in networks]
        n = (6, 12, 20)[trial % 3]
        model = LatencyModel.fit([(one, "fp32", ms) for one, ms in zip(networks[:n], noisy[:n], strict=True)])
        for one, ms in zip(networks[n:], noisy[n:], strict=True):
            found = model.predict(one)
            held.append(found.low <= ms <= found.high)
            widths.append(found.high / found.low)
    assert 0.85 <= np.mean(held) <= 0.99
    assert np.median(widths) < 1.8


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1000),
    st.floats(1e-3, 1e4),
    st.sampled_from(list(PRIORS)),
)
def test_one_observation_is_met_exactly(seed, ms, precision):
    counted = network(np.random.default_rng(seed))
    model = LatencyModel.fit([(counted, precision, ms)])
    found = model.predict(counted, precision)
    assert found.ms == pytest.approx(ms, rel=1e-6)
    assert found.low < found.ms < found.high


def test_the_interval_narrows_with_observations_and_is_wide_without():
    generator = np.random.default_rng(2)
    networks = [network(generator) for _ in range(21)]
    observations = [(one, "fp32", truth(one, MACHINE)) for one in networks]
    spreads = []
    for n in (0, 1, 5, 20):
        found = LatencyModel.fit(observations[:n]).predict(networks[20])
        assert found.low < found.ms < found.high
        spreads.append(found.high / found.low)
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 3
    assert spreads[3] < 1.5


def test_a_precision_never_measured_takes_the_scale_of_another():
    counted = network(np.random.default_rng(3))
    slow = LatencyModel.fit([(counted, "fp32", 10 * LatencyModel().predict(counted, "fp32").ms)])
    ahead = LatencyModel().predict(counted, "int8")
    found = slow.predict(counted, "int8")
    assert found.ms == pytest.approx(10 * ahead.ms)
    fp32 = slow.predict(counted, "fp32")
    assert found.high / found.low > fp32.high / fp32.low


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 500), st.integers(1, 10**9), st.integers(0, 12), st.integers(0, 4))
def test_more_work_never_takes_less_time(seed, more, n, position):
    generator = np.random.default_rng(seed)
    observations = [(network(generator), "fp32", float(10 ** generator.uniform(-1, 3))) for _ in range(n)]
    model = LatencyModel.fit(observations)
    counted = network(generator)
    operators = list(counted.operators)
    operators[position] = replace(operators[position], macs=operators[position].macs + more)
    heavier = replace(counted, operators=tuple(operators))
    assert model.predict(heavier).ms > model.predict(counted).ms > 0


def test_nothing_is_free_because_it_is_unknown():
    strange = OperatorCost("x", "mylib::scan", "unknown", 0, 0, 0, 1000, 1000, (1,), reads=(-1,))
    counted = Profile("one", (), 0, 0, 0, 0, 0, 0, 0, (), (strange,), ("mylib::scan",))
    generator = np.random.default_rng(4)
    # A machine without any overhead for an operator or a byte: the floor holds all the same.
    machine = Coefficients(0, 1e-7, 1e-7, 0)
    networks = [network(generator) for _ in range(20)]
    model = LatencyModel.fit([(one, "fp32", truth(one, machine)) for one in networks])
    (found,) = model.operators(counted)
    assert found.ms > 0
    assert found.layer == "x"


def test_operators_add_up_to_the_network():
    counted = profile(CifarResNet(20), torch.empty(1, 3, 32, 32))
    model = LatencyModel.fit([(counted, "fp32", 3.0)])
    parts = model.operators(counted)
    assert sum(part.ms for part in parts) == pytest.approx(model.predict(counted).ms) == pytest.approx(3.0)
    assert {part.bound for part in parts} <= {"compute", "memory", "overhead"}
    assert len(parts) == len(fused(counted.operators))


def test_eager_execution_runs_more_operators():
    counted = profile(CifarResNet(20), torch.empty(1, 3, 32, 32))
    assert LatencyModel(fuse=False).predict(counted).ms > LatencyModel().predict(counted).ms


def test_bad_observations_and_precisions():
    counted = network(np.random.default_rng(5))
    with pytest.raises(ValueError, match="above 0"):
        LatencyModel.fit([(counted, "fp32", 0.0)])
    with pytest.raises(ValueError, match="no prior for precision 'fp33'"):
        LatencyModel().predict(counted, "fp33")
    with pytest.raises(ValueError, match="runs no operator"):
        LatencyModel().predict(replace(counted, operators=()))


def test_nonnegative_least_squares_meets_the_conditions_of_its_optimum():
    """Karush–Kuhn–Tucker: no descent direction on the support, none inwards off it."""
    generator = np.random.default_rng(6)
    for _ in range(50):
        matrix, target = generator.normal(size=(7, 4)), generator.normal(size=7)
        x = nonnegative_least_squares(matrix, target)
        gradient = matrix.T @ (matrix @ x - target)
        assert (x >= 0).all()
        assert gradient[x > 0] == pytest.approx(0, abs=1e-9)
        assert (gradient[x == 0] >= -1e-9).all()


# ---- fusion ---------------------------------------------------------------------------------------------------


def kinds(model: nn.Module, x: torch.Tensor) -> list[tuple[str, int]]:
    return [(group.op, group.members) for group in fused(profile(model, x).operators)]


def test_convolution_norm_and_activation_run_as_one():
    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    x = torch.empty(1, 3, 8, 8)
    assert kinds(block, x) == [("convolution", 3), ("max_pool2d_with_indices", 1)]
    conv, _ = fused(profile(block, x).operators)
    assert conv.activation_bytes == 4 * (3 * 64 + 8 * 36)  # read once, written once


def test_a_residual_block_is_two_operators():
    """The second convolution takes the sum and the last activation; the shortcut is read from memory."""
    model = CifarResNet(20)
    groups = fused(profile(model, torch.empty(1, 3, 32, 32)).operators)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert len(groups) == convolutions + 2  # the pooling and the classifier
    second = next(group for group in groups if group.layer == "layer1.0.conv2")
    assert second.members == 4
    assert second.activation_bytes == 3 * 4 * 16 * 32 * 32


def test_an_output_that_others_read_is_kept():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.cat([y.relu(), y.mean((2, 3), keepdim=True).expand_as(y)])

    assert [op for op, _ in kinds(Shared(), torch.empty(1, 3, 4, 4))] == [
        "convolution",
        "relu",
        "mean",
        "cat",
    ]


def test_what_the_input_does_not_reach_is_folded_away():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.weight / self.weight.norm() + torch.arange(4))

    assert kinds(Constant(), torch.empty(2, 4)) == [("mm", 1)]


# ---- size -----------------------------------------------------------------------------------------------------


def test_sizes_of_layers():
    assert predicted_size([1000, 24], 8, 0) == 1024
    assert predicted_size([1000, 24], 4, 10) == 512 + 20
    with pytest.raises(ValueError, match="bits"):
        predicted_size([1], 0)


def test_size_of_a_counted_network():
    """Batch norm folds away; layer norm stays at 32 bits; a tied weight is stored once."""
    counted = profile(
        nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)), torch.empty(1, 3, 8, 8)
    )
    assert predicted_size(counted, 8, 0) == 3 * 8 * 9
    counted = profile(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), torch.empty(1, 8))
    assert predicted_size(counted, 8, 0) == 72 + 16 * 4


def test_size_of_the_measured_network():
    """A probe of ResNet-56 at 28×28 wrote 3,435 KB in fp32 and 991 KB as INT8."""
    counted = profile(CifarResNet(56, in_channels=1), torch.empty(1, 1, 28, 28))
    assert predicted_size(counted, 32) == pytest.approx(3_435_000, rel=0.01)
    assert predicted_size(counted, 8) == pytest.approx(991_000, rel=0.01)
