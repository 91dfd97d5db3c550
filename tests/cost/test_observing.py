"""Samples as calibration times them: on a GPU every network twice, apart, since what launches is disturbed at times."""

from __future__ import annotations

import time
from itertools import chain, repeat

import pytest
from torch import nn

from tenfold.cost import Device, calibration_networks, observing
from tenfold.cost.calibration_networks import Sample


@pytest.mark.parametrize(
    ("kind", "first", "second", "expected"),
    [
        ("cuda", 2.0, 1.0, 1.0),  # it was disturbed the first time
        ("cuda", 1.0, 2.0, 1.0),  # and here the second
        ("cpu", 2.0, 1.0, 2.0),  # what runs where it is launched is timed once
    ],
)
def test_a_gpus_networks_are_timed_again_and_the_shorter_time_counts(
    kind, first, second, expected, monkeypatch
):
    timed, now = [], [0.0]
    one, other = nn.Linear(4, 4).eval(), nn.Linear(4, 4).eval()

    def drawn(seed, batches, work):
        yield from (Sample("network", one, (1, 4), True), Sample("network", other, (1, 4), True))
        yield from repeat(Sample("chain", nn.Linear(4, 4).eval(), (1, 4)))

    def time_of(call):
        again = call in timed
        timed.append(call)
        now[0] += 0.1
        return (second if again else first, 0.01)

    monkeypatch.setattr(calibration_networks, "samples", drawn)
    monkeypatch.setattr(observing, "heartbeat", lambda device: chain(repeat(1.0)).__next__)
    monkeypatch.setattr(observing, "_timed", time_of)
    monkeypatch.setattr(observing, "AGAIN_BYTES", 4 * (16 + 4 + 4) + 1)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    found, _ = observing.observe(
        Device(kind, "torch"), lambda module, x: object(), 0.0, 5.0, 0, lambda *_: None
    )
    assert [one.seconds for one in found[:2]] == [expected, expected]
    assert all(one.seconds == first for one in found[2:])
    monkeypatch.setattr(observing, "AGAIN_BYTES", 1)  # what is too large to be kept is timed once
    timed.clear()
    now[0] = 0.0
    found, _ = observing.observe(
        Device(kind, "torch"), lambda module, x: object(), 0.0, 5.0, 0, lambda *_: None
    )
    assert found[0].seconds == first
