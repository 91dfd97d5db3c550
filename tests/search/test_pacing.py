from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.pacing import Pacer

SECONDS = st.integers(0, 50)


@given(st.lists(SECONDS, min_size=1, max_size=12), SECONDS, SECONDS)
def test_none_is_begun_that_would_not_be_done_by_what_the_last_one_took(
    parts: list[int], limit: int, expected: int
) -> None:
    now = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenfold.pacing.time", SimpleNamespace(monotonic=lambda: now))
        pacer, done = Pacer(lambda: limit - now, expected), []
        for seconds in parts:
            if not pacer.may_begin():
                break
            with pacer.one():
                now += seconds
            done.append(seconds)
    starts = [sum(parts[:number]) for number in range(len(parts))]
    guesses = [expected, *parts[:-1]]
    fitting = [start + guess <= limit for start, guess in zip(starts, guesses, strict=True)]
    assert len(done) == [*fitting, False].index(False)


def test_one_that_fails_counts_as_the_last_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tenfold.pacing.time", SimpleNamespace(monotonic=lambda: now))
    pacer = Pacer(lambda: 15.0 - now)
    assert pacer.may_begin()
    with pytest.raises(ValueError, match="broken"), pacer.one():
        now += 10.0
        raise ValueError("broken")
    assert pacer.takes == 10.0
    assert not pacer.may_begin()
