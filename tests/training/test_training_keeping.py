"""A run that is stopped and goes on ends where one that was never stopped ends, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from blob_networks import blobs, small
from safetensors.torch import save_file
from torch import Tensor, nn

from tenfold.errors import OutputError, TenfoldWarning
from tenfold.training import AdamW, FitResult, Keeper, Precision, Supervised, fit
from tenfold.training import keeping as keeping_module
from tenfold.training.checkpoint import read_checkpoint, write_checkpoint


class StopError(Exception):
    """Raised in the middle of a run."""


def run(keeper: Keeper | None, stop_after: int | None = None) -> tuple[nn.Module, FitResult]:
    model, steps = small(), 0

    def progress(fraction: float, text: str) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_after:
            raise StopError

    result = fit(
        model,
        blobs(),
        Supervised(),
        epochs=4,
        batch_size=16,
        seed=3,
        optimizer=AdamW(0.02),
        precision=Precision(),
        keeper=keeper,
        progress=progress,
    )
    return model, result


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written after every step."""
    monkeypatch.setattr(keeping_module, "EVERY_SECONDS", -1.0)
    monkeypatch.setattr(keeping_module, "SHARE_OF_TIME", 1e9)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("stop_after", [1, 6, 8, 23])
def test_it_goes_on_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    whole, expected = run(None)
    path, facts = tmp_path / "kept.safetensors", {"network": "a"}
    keeper = Keeper(path, facts)
    keeper.decided = {"epochs": 4}
    with pytest.raises(StopError):
        run(keeper, stop_after)
    again = Keeper(path, facts)
    assert again.holds_a_run
    assert again.decided == {"epochs": 4}
    model, result = run(again)
    assert result.steps_before == stop_after
    assert (result.steps, result.losses) == (expected.steps, expected.losses)
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    # Once it has ended, nothing is left to do.
    done, result = run(Keeper(path, facts))
    assert result.steps_before == result.steps == 24
    assert torch.equal(done[0].weight, whole[0].weight)


@pytest.mark.usefixtures("eager")
def test_another_run_or_a_damaged_file_is_begun_afresh(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    with pytest.raises(StopError):
        run(Keeper(path, {"seed": 1}), 5)
    other = Keeper(path, {"seed": 2})
    assert not other.holds_a_run
    assert other.decided == {}
    path.write_bytes(path.read_bytes()[:200])
    with pytest.warns(
        TenfoldWarning, match=r"kept\.safetensors cannot be read: .* is lost, and it begins again"
    ):
        assert not Keeper(path, {"seed": 1}).holds_a_run


def checkpoint(path: Path) -> dict[str, Tensor]:
    """A small one, of every type that a run may hold."""
    tensors = {
        "model.weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
        "model.half": torch.ones(3, dtype=torch.bfloat16),
        "model.none": torch.zeros(0, 3),
        "model.steps": torch.tensor(7),
        "random.cpu": torch.arange(9, dtype=torch.uint8),
    }
    write_checkpoint(path, tensors, {"facts": {"seed": 1}, "decided": {"epochs": 4}})
    return tensors


def test_every_bit_of_a_checkpoint_counts(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    tensors = checkpoint(path)
    found, facts = read_checkpoint(path)
    assert facts["decided"] == {"epochs": 4}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        for damaged in (bytes(flipped), whole[:place]):
            path.write_bytes(damaged)
            with pytest.raises(OutputError, match=r"kept\.safetensors cannot be read: "):
                read_checkpoint(path)


def test_a_checkpoint_of_a_version_without_a_checksum_is_read(tmp_path: Path) -> None:
    path, tensors = tmp_path / "kept.safetensors", {"model.weight": torch.ones(2)}
    save_file(tensors, path, {"tenfold": '{"version": 1, "step": 5}'})
    found, facts = read_checkpoint(path)
    assert torch.equal(found["model.weight"], torch.ones(2))
    assert facts["step"] == 5


def test_it_is_not_written_at_every_step(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(Keeper(tmp_path / "kept.safetensors", {}), 5)
    assert not list(tmp_path.iterdir())
