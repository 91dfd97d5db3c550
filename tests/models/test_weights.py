"""Weights by name and shape: all or nothing, and what does not fit is summarised."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.errors import NetworkError
from tenfold.models import create, load_weights


def network() -> nn.Module:
    return create("mobilenet_v1", width=0.25, num_classes=5, resolution=32)


def timm_names(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` under timm's names."""
    naming = model.namings()["timm"]
    renamed = {}
    for name, value in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        renamed[f"{naming.get(module, module)}.{leaf}"] = value.clone()
    return renamed


def test_own_and_foreign_names() -> None:
    source = network()
    for state, origin in ((source.state_dict(), "tenfold"), (timm_names(source), "timm")):
        target = network()
        assert load_weights(target, state) == origin
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def refused(state: dict[str, Tensor], words: str) -> None:
    """The state is refused with these words and nothing of it is loaded."""
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(NetworkError, match=words):
        load_weights(target, state)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_missing_and_unexpected_names_are_summarised() -> None:
    state = timm_names(network())
    for name in [name for name in state if name.startswith("blocks.2")]:
        del state[name]
    state["extra.weight"] = torch.zeros(1)
    refused(
        state,
        r"read as timm's: 20 missing \(blocks\.2\.0\.conv_dw\.weight, .*, …\); 1 unexpected \(extra\.weight\)",
    )


def test_another_number_of_classes() -> None:
    other = create("mobilenet_v1", width=0.25, num_classes=6, resolution=32)
    refused(dict(other.state_dict()), r"2 of another shape \(classifier.weight is 5×256, given 6×256")


def test_a_checkpoint_of_another_network() -> None:
    refused(
        dict(create("resnet20").state_dict()),
        r"MobileNetwork cannot take these weights.* missing .* unexpected",
    )
    refused({}, "holds no tensor")


def test_a_linear_layer_is_a_pointwise_convolution_and_counters_may_lack() -> None:
    state = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}
    state["classifier.weight"] = state["classifier.weight"][:, :, None, None]
    assert load_weights(network(), state) == "tenfold"
    refused(
        state | {"classifier.weight": state["classifier.weight"].reshape(256, 5, 1, 1)}, "given 256×5×1×1"
    )


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (lambda value: value.to("meta"), "classifier.*without values"),
        (lambda value: value.long(), "classifier.*of torch.int64"),
        (lambda value: value.to(torch.complex64), "classifier.*of torch.complex64"),
    ],
)
def test_values_that_cannot_be_taken_leave_the_network_as_it_was(last: Any, message: str) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: value + 1 for name, value in model.state_dict().items()}
    name = list(state)[-1]
    state[name] = last(state[name])
    with pytest.raises(NetworkError, match=message):
        load_weights(model, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_no_state_dict_is_refused() -> None:
    with pytest.raises(NetworkError, match="this is of type NoneType"):
        load_weights(network(), None)  # type: ignore[arg-type]


def test_every_naming_that_was_tried_is_told() -> None:
    own = len(network().state_dict())
    refused(
        dict(create("resnet20").state_dict()),
        rf"they fit no naming that it knows; .* \(of its {own} names it finds 0 as tenfold's, 5 as timm's\)",
    )
    state = timm_names(network())
    state.pop("conv_stem.weight")
    refused(
        state,
        rf"read as timm's: 1 missing .*\(of its {own} names it finds \d+ as tenfold's, {own - 1} as timm's\)",
    )
