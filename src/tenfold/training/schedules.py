"""How the learning rate moves with the share of the work that is done."""

from __future__ import annotations

import math

WARMUP = 0.05


def warmup_cosine(done: float, warmup: float = WARMUP, floor: float = 0.0) -> float:
    """The factor on the peak learning rate when the share `done` of the work (0 to 1) is behind.

    Linear from 0 to 1 over the first `warmup`, then half a cosine down to `floor` (Loshchilov and Hutter, 2017,
    "SGDR", equation 5, one period). The share may be of steps or of elapsed time: a run bounded by a clock
    then still ends at the floor, however fast the machine is.
    """
    if not 0.0 <= warmup < 1.0:
        raise ValueError(f"warmup must be at least 0 and below 1, not {warmup}")
    done = min(max(done, 0.0), 1.0)
    if done < warmup:
        return done / warmup
    along = (done - warmup) / (1.0 - warmup)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * along))
