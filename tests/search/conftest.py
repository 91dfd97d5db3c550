"""Runs of the search in tests: first timings are short, since what is reported comes from the last one of all points."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenfold.search import job


@pytest.fixture(scope="session", autouse=True)
def short_first_timings() -> Iterator[None]:
    """A tenth of a second for each point, where a user's run takes a whole one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "QUICK_SECONDS", 0.1)
        yield
