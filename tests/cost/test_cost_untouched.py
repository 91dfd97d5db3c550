"""The network is left as it was, and errors name the layer and the way out."""

from __future__ import annotations

import pytest
import torch
from count_networks import Function
from torch import Tensor, nn

from tenfold.cost import profile
from tenfold.errors import NetworkError


class Busy(nn.Module):
    """Does everything a forward pass may do to its own module."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=0.5)
        self.linear = nn.utils.weight_norm(nn.Linear(4, 4))
        self.register_buffer("steps", torch.zeros(1))
        self.calls = 0
        self.cache: list[Tensor] = []
        self.constant = torch.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1
        self.constant += 1
        self.last = self.linear(self.norm(x)) + self.constant
        self.cache.append(self.last)
        return self.last


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_network_is_left_as_it_was():
    model = Busy().train()
    model.norm.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    weight = model.linear.weight
    x = torch.rand(3, 4)
    random = torch.random.get_rng_state()
    profile(model, x)
    assert model.training
    assert not model.norm.training
    assert (model.calls, model.cache) == (0, [])
    assert torch.equal(model.constant, torch.ones(4))
    assert model.linear.weight is weight
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == pointers[name]
        assert torch.equal(tensor, state[name])
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled()
    model(torch.rand(3, 4)).sum().backward()  # and it still trains


def test_dropout_and_batch_norm_are_counted_in_eval_mode():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    counted = profile(model, torch.rand(1, 4))  # a batch of one: training batch norm would refuse
    assert [layer.op for layer in counted.layers] == ["addmm", "native_batch_norm"]


def test_a_failed_count_leaves_the_network_as_it_was_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(3, 3)).train()
    weight = model[0].weight
    with pytest.raises(NetworkError):
        profile(model, torch.rand(2, 4))
    assert model.training
    assert model[0].weight is weight
    assert type(model[0].weight) is nn.Parameter
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_failing_layer_is_named_with_its_shapes(caplog):
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(9, 2)))
    with pytest.raises(NetworkError, match=r"layer 1\.1 \(Linear\) given 5×8: the forward pass failed"):
        profile(model, torch.empty(5, 4))
    assert caplog.records == []


def test_a_missing_argument_is_an_error_of_the_network():
    with pytest.raises(NetworkError, match="missing 1 required positional argument"):
        profile(nn.Bilinear(2, 2, 2), torch.empty(1, 2))


def test_decisions_by_value_are_explained():
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(NetworkError, match=r"layer 1 \(Gate\).*depends on the values"):
        profile(nn.Sequential(nn.ReLU(), Gate()), torch.ones(3))
    with pytest.raises(NetworkError, match="depends on the values"):
        profile(Function(lambda _, x: x[x > 0]), torch.ones(3))


def test_values_that_are_known_may_be_read():
    """A parameter's own value can decide; what is computed from the input cannot."""
    model = Function(lambda net, x: x * 2 if net.gate.item() > 0 else x @ x, gate=torch.ones(()))
    assert profile(model, torch.ones(3, 3)).macs == 0


def test_lazy_layers_and_other_things_are_refused():
    with pytest.raises(NetworkError, match=r"0\.weight: not initialised"):
        profile(nn.Sequential(nn.LazyLinear(3)), torch.ones(1, 2))
    with pytest.raises(NetworkError, match=r"must be a torch\.nn\.Module, not function"):
        profile(lambda x: x, torch.ones(1))


def test_an_operator_without_a_shape_rule_is_named():
    library = torch.library.Library("tenfold_tests2", "DEF")
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: x.clone(), "CPU")
    with pytest.raises(NetworkError, match="tenfold_tests2::opaque has no shape rule"):
        profile(Function(lambda _, x: torch.ops.tenfold_tests2.opaque(x)), torch.ones(3))


# ---- the real run ---------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """Decides by the values of its input, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return self.linear(x) if x.sum() > 0 else x


def test_the_error_names_the_way_out_and_the_way_out_works():
    model = Gated().train()
    with pytest.raises(NetworkError, match=r"depends on the values.*real=True"):
        profile(model, torch.ones(2, 4))
    assert profile(model, torch.ones(2, 4), real=True).macs == 2 * 4 * 4
    assert profile(model, -torch.ones(2, 4), real=True).macs == 0
    assert model.steps == 0
    assert model.training


def test_a_real_run_needs_data():
    with torch.device("meta"):
        model = nn.Linear(4, 4)
    with pytest.raises(NetworkError, match="on the meta device has no data"):
        profile(model, torch.ones(2, 4), real=True)


def test_constants_of_a_real_run_are_no_activations():
    table = torch.ones(100, 100)
    counted = profile(Function(lambda _, x: x @ table), torch.ones(2, 100), real=True)
    assert counted.peak_activation_bytes == 4 * 2 * (100 + 100)
    assert counted.operators[0].weight_bytes == table.nbytes


def test_packed_sequences_run_for_real():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(nn.utils.rnn.pack_padded_sequence(x, [3, 2]))[1][0]

    with pytest.raises(NetworkError, match=r"real=True"):
        profile(Packed(), torch.rand(3, 2, 4))
    assert profile(Packed(), torch.rand(3, 2, 4), real=True).macs == 5 * 4 * 6 * (4 + 6)


def test_scripted_networks_are_refused_by_name():
    with pytest.raises(NetworkError, match="a scripted network hides its layers"):
        profile(torch.jit.trace(nn.Linear(3, 3), torch.ones(1, 3)), torch.ones(1, 3))


def test_inputs_of_the_wrong_shape():
    with pytest.raises(NetworkError, match=r"layer 0 \(Conv2d\) given 1×4×8×8"):
        profile(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.empty(1, 4, 8, 8))
