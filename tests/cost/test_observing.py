"""Samples as calibration times them: on a GPU every network twice, apart, since what launches is disturbed at times."""

from __future__ import annotations

import time
from itertools import chain, repeat

import pytest
from torch import nn

from tenfold.cost import Device, calibration_networks, observing
from tenfold.cost.calibration_networks import Sample

BYTES = 4 * (16 + 4 + 4)  # of one network here and its inputs


@pytest.fixture
def times(monkeypatch):
    """Runs `observe` on two networks and then chains, with given first and second times; returns what it found."""

    def run(kind, first, second, room):
        timed, now = [], [0.0]

        def drawn(seed, batches, work):
            yield from (Sample("network", nn.Linear(4, 4).eval(), (1, 4), True) for _ in range(2))
            yield from repeat(Sample("chain", nn.Linear(4, 4).eval(), (1, 4)))

        def time_of(call):
            again = call in timed
            timed.append(call)
            now[0] += 0.1
            return (second if again else first, 0.01)

        monkeypatch.setattr(calibration_networks, "samples", drawn)
        monkeypatch.setattr(observing, "heartbeat", lambda device: chain(repeat(1.0)).__next__)
        monkeypatch.setattr(observing, "_timed", time_of)
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        if room is not None:
            monkeypatch.setattr(observing, "_room", lambda device: room)
        found, _ = observing.observe(
            Device(kind, "torch"), lambda module, x: object(), 0.0, 5.0, 0, lambda *_: None
        )
        return [one.seconds for one in found]

    return run


@pytest.mark.parametrize(
    ("kind", "first", "second", "room", "expected"),
    [
        ("cuda", 2.0, 1.0, 2 * BYTES, [1.0, 1.0]),  # they were disturbed the first time
        ("cuda", 1.0, 2.0, 2 * BYTES, [1.0, 1.0]),  # and here the second
        ("cuda", 2.0, 1.0, 2 * BYTES - 1, [1.0, 2.0]),  # there is no room to keep the second
        ("cuda", 2.0, 1.0, BYTES - 1, [2.0, 2.0]),
        ("cpu", 2.0, 1.0, None, [2.0, 2.0]),  # what runs where it is launched is timed once
    ],
)
def test_a_gpus_networks_are_timed_again_and_the_shorter_time_counts(
    kind, first, second, room, expected, times
):
    found = times(kind, first, second, room)
    assert found[:2] == expected
    assert len(found) > 10
    assert all(seconds == first for seconds in found[2:])


def test_what_is_kept_takes_a_share_of_the_gpus_free_memory(monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1 << 30, 1 << 34))
    assert observing._room(Device("cuda", "torch")) == observing.KEPT_SHARE * (1 << 30)
    assert observing._room(Device("cpu", "torch")) == 0
