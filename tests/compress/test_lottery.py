"""Lottery tickets: which weights stay, what they begin as, and what the controls share with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tenfold.compress.layers import weighted_layers
from tenfold.compress.prune import Kind, Ticket, lottery
from tenfold.compress.prune.tickets import masked
from tenfold.data import Split
from tenfold.errors import NetworkError
from tenfold.training import Course, Sgd, TrainingRecipe
from tenfold.training.resident import ResidentImages


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


class Recorder:
    """Stands for training: notes what each begins as, then adds a fixed amount to what may move."""

    def __init__(self) -> None:
        self.began: list[tuple[int, int, dict[str, torch.Tensor]]] = []
        torch.manual_seed(9)
        self.moves = {name: torch.randn_like(value) for name, value in network().named_parameters()}

    def __call__(self, model: nn.Module, start: int, stop: int) -> None:
        self.began.append((start, stop, {k: v.detach().clone() for k, v in model.state_dict().items()}))
        for name, parameter in model.named_parameters():
            gone = parameter.detach() == 0
            parameter.data += (stop - start) * self.moves[name].masked_fill(gone, 0.0)


def drawn(teach: Recorder, **options: object) -> list[Ticket]:
    return list(lottery(network(), teach, lambda model: 0.5, steps=10, rounds=2, **options))


def test_tickets_are_the_largest_once_trained_at_their_early_values() -> None:
    teach = Recorder()
    found = drawn(teach, cut=0.5, rewind=3)
    assert [(t.kind, t.round) for t in found] == [
        (Kind.DENSE, 0),
        (Kind.TICKET, 1),
        (Kind.RANDOM_PLACES, 1),
        (Kind.TICKET, 2),
        (Kind.RANDOM_PLACES, 2),
    ]
    assert [t.density for t in found] == [1.0, 0.5, 0.5, 0.25, 0.25]
    assert [(start, stop) for start, stop, _ in teach.began] == [
        (0, 3),
        (3, 10),
        (3, 10),
        (3, 10),
        (3, 10),
        (3, 10),
    ]
    # By hand: the values of step 3, and the 32 of 64 weights of both layers that are largest at step 10.
    early = {k: v + 3 * teach.moves[k] for k, v in network().state_dict().items()}
    late = {k: v + 7 * teach.moves[k] for k, v in early.items()}
    threshold = torch.cat([late[f"{i}.weight"].abs().flatten() for i in (0, 2)]).sort().values[32]
    began = teach.began[2][2]
    for key, value in early.items():
        wanted = value * (late[key].abs() >= threshold) if "weight" in key else value
        torch.testing.assert_close(began[key], wanted, rtol=0, atol=0)
    first, second = (weighted_layers(found[i].model) for i in (1, 3))
    for name, layer in second.items():
        assert bool(((layer.weight != 0) <= (first[name].weight != 0)).all())  # what is cut stays cut


def test_controls_have_the_same_places_or_as_many_in_each_layer() -> None:
    teach = Recorder()
    found = drawn(teach, cut=0.6, fresh=lambda: network(1), controls=[2])
    assert [t.kind for t in found[2:]] == [Kind.TICKET, Kind.REINITIALISED, Kind.RANDOM_PLACES]
    ticket, again, chance = teach.began[2:]
    assert again[:2] == (0, 10)
    for name in ("0.weight", "2.weight"):
        places = ticket[2][name] != 0
        assert torch.equal(again[2][name], network(1).state_dict()[name] * places)
        assert int((chance[2][name] != 0).sum()) == int(places.sum())
        assert not torch.equal(chance[2][name] != 0, places)


def test_cut_weights_stay_zero_in_real_training_and_the_draw_repeats() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    data = ResidentImages.of(Split((x, (x[:, 0] > 0).long())), torch.device("cpu"), "train")
    course = Course(data, TrainingRecipe(epochs=6, batch_size=16, optimizer=Sgd(0.2)))

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) == (x[:, 0] > 0).long()).double().mean())

    def draw() -> list[Ticket]:
        return list(
            lottery(
                network(), course, score, steps=course.steps, rounds=2, rewind=4, fresh=lambda: network(1)
            )
        )

    first, second = draw(), draw()
    assert [t.score for t in first] == [t.score for t in second]
    assert first[0].score > 0.9
    for ticket in first[1:]:
        weights = [layer.weight for layer in weighted_layers(ticket.model).values()]
        held = sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert held == ticket.density == 0.5**ticket.round


def test_masks_hold_only_while_they_last() -> None:
    model = network()
    mask = {"0": torch.zeros(8, 6, dtype=torch.bool)}
    with masked(model, mask):
        model(torch.randn(3, 6)).sum().backward()
        assert not bool(model[0].weight.grad.any())
    model.zero_grad()
    torch.nn.init.ones_(model[0].weight)
    model(torch.ones(3, 6)).sum().backward()
    assert bool(model[0].weight.grad.any())


def test_what_is_refused() -> None:
    for options in ({"cut": 1.0}, {"rewind": 10}, {"rewind": -1}):
        with pytest.raises(ValueError, match="a lottery needs"):
            drawn(Recorder(), **options)
    with pytest.raises(NetworkError, match=r"is named conv\*"):
        drawn(Recorder(), layers=("conv*",))
