"""Healing and other forms take turns until neither adds anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tenfold.search import shrinking


def test_healing_and_forms_take_turns_until_nothing_is_added(monkeypatch: pytest.MonkeyPatch):
    points, turns = ["original"], []
    job: Any = SimpleNamespace(store=SimpleNamespace(points=lambda: points, failures=dict))

    def heal(job: Any, structures: Any) -> None:
        turns.append("heal")
        if len(turns) < 4:  # what the forms left of their time is enough for one more
            points.append("healed")

    def forms(job: Any) -> None:
        turns.append("forms")

    monkeypatch.setattr(shrinking, "in_time", lambda job: True)
    monkeypatch.setattr(shrinking, "heal_finalists", heal)
    monkeypatch.setattr(shrinking, "add_variants", forms)
    shrinking.add_candidates(job, SimpleNamespace())  # type: ignore[arg-type]
    assert turns == ["heal", "forms"] * 3
    assert points == ["original", "healed", "healed"]


def test_without_structures_there_are_forms_alone(monkeypatch: pytest.MonkeyPatch):
    turns: list[str] = []
    job: Any = SimpleNamespace(store=SimpleNamespace(points=list, failures=dict))
    monkeypatch.setattr(shrinking, "in_time", lambda job: True)
    monkeypatch.setattr(shrinking, "add_variants", lambda job: turns.append("forms"))
    shrinking.add_candidates(job, None)
    assert turns == ["forms"]
