"""Progress where there is no terminal: a line as each phase begins, and now and then in a long one."""

import io

import pytest
from rich.console import Console as Terminal

from tenfold.search import console
from tenfold.search.console import Console


def test_a_long_phase_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    written = io.StringIO()
    with Console(Terminal(file=written)) as report:
        report("healing", 0.0, "c1")
        now += 20
        report("healing", 0.2, "c1: pass 1")
        now += 20
        report("healing", 0.4, "c1: pass 2 [of 4]")
        now += 5
        report("healing", 0.5, "c1: pass 3")
        report("measuring", 0.0, "round 1")
    assert written.getvalue().splitlines() == [
        "healing",
        "healing 40% (about 1 min left) c1: pass 2 [of 4]",
        "measuring",
    ]
