"""What predictions of latency and size rest on: everything that was exported and timed so far.

Before any finalist that is the untouched network and a probe: an unhealed structure, whose weights do not matter
but whose shapes and runtime do.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.compress.quantize import Quantize
from tenfold.cost import Profile, measure, predicted_size
from tenfold.deploy import deploy_onnx
from tenfold.errors import TenfoldError
from tenfold.pacing import Pacer
from tenfold.search.finalist import PRECISIONS
from tenfold.search.finish import seconds_spare
from tenfold.search.frontier import ORIGINAL, PLAIN_INT8
from tenfold.search.job import Job
from tenfold.search.proposals import BITS
from tenfold.search.space import Plan, Space
from tenfold.search.structures import Structures

PROBE_SECONDS = 0.6  # of timing each
SHARE_OF_TIME = 0.04  # of the limit, in which another precision must be done, by what the last one took


@dataclass(frozen=True)
class Seen:
    """A structure that was exported and timed in a precision."""

    counts: Profile
    precision: str
    latency_ms: float
    size_bytes: int

    @property
    def size_factor(self) -> float:
        """Measured bytes over predicted ones."""
        return self.size_bytes / predicted_size(self.counts, BITS[self.precision])


def seen(job: Job, structures: Structures) -> list[Seen]:
    """The baselines, the probe, and the finalists so far."""
    served = {"fp32": ORIGINAL, "int8": PLAIN_INT8}
    points = {point.id: point for point in job.store.points()}
    found = [
        Seen(
            job.original_profile(),
            precision,
            float(points[name].latency_ms or 0),
            points[name].size_bytes or 0,
        )
        for precision, name in served.items()
        if name in points
    ]
    precisions = [entry.precision for entry in found]
    stored = job.store.step("probes")
    # The first probe takes no longer than the original did. Where there is no time for it, a run that goes on makes it.
    if stored is None and seconds_spare(job) > (points[ORIGINAL].seconds or 0.0):
        stored = made(job, structures, precisions)
        job.store.finish_step("probes", stored)
    for entry in stored or ():
        counts = structures.count(Plan.from_json(entry["plan"]))
        found.append(Seen(counts, entry["precision"], entry["latency_ms"], entry["size_bytes"]))
    for point in points.values():
        made_of = job.store.step(f"finalist-{point.finalist}")
        if made_of is None or point.precision not in PRECISIONS:
            continue
        if point.latency_ms and point.size_bytes:
            precision = point.precision.split("-")[0]
            counts = structures.count(Plan.from_json(made_of["proposal"]["plan"]))
            found.append(Seen(counts, precision, point.latency_ms, point.size_bytes))
    return found


def made(job: Job, structures: Structures, precisions: list[str]) -> list[dict[str, Any]]:
    """Export and time the probe; a precision that cannot be served is left out."""
    results: list[dict[str, Any]] = []
    plan = probe_plan(structures.space)
    if plan.untouched:
        return results
    with job.clock.phase("probes") as progress:
        limit = job.clock.spent() + SHARE_OF_TIME * job.clock.limit
        pacer = Pacer(lambda: limit - job.clock.spent())
        for number, precision in enumerate(precisions):
            if not pacer.may_begin():
                break
            progress(number / len(precisions), f"{precision} of half the network")
            with suppress(TenfoldError), pacer.one():
                results.append(
                    {
                        "plan": plan.to_json(),
                        "precision": precision,
                        **timed(job, structures, plan, precision),
                    }
                )
    return results


def probe_plan(space: Space) -> Plan:
    """Half of each stage's blocks dropped, or, in a network without blocks, half of every group's channels kept."""
    depth = {stage: len(blocks) // 2 for stage, blocks in space.stages.items()}
    return space.plan(depth, {}) if any(depth.values()) else space.plan({}, dict.fromkeys(space.groups, 0.5))


def timed(job: Job, structures: Structures, plan: Plan, precision: str) -> dict[str, Any]:
    """Latency in milliseconds and bytes of a structure with the weights that happen to be left in it."""
    model = structures.outline(plan, job.task.model)
    if precision == "int8":
        model = Quantize(examples=8, bias_correction=False).apply(model, job.task, job.run()).model
    with tempfile.TemporaryDirectory(prefix="tenfold-probe-") as folder:
        artifact = deploy_onnx(model, job.task.example(2), Path(folder, "model.onnx"))
        session, inputs = artifact.session(job.device.threads), job.task.example(job.device.batch)
        timing = measure({"probe": lambda: session(inputs)}, seconds=PROBE_SECONDS)["probe"]
        return {"latency_ms": timing.median_ms, "size_bytes": artifact.size_bytes}
