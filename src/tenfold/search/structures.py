"""The structures of one network: what a scan with little data says of its parts, and what a plan of them costs."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.compress.prune import (
    ChannelGraph,
    Criterion,
    Family,
    Prune,
    block_sensitivity,
    channel_graph,
    importance,
    residual_blocks,
)
from tenfold.compress.prune.importance import BATCH, Scores
from tenfold.compress.prune.pruning import TRACED_BATCH, rounded
from tenfold.cost import Inputs, Profile, call, profile, vector_lanes
from tenfold.errors import NetworkError
from tenfold.pacing import Pacer
from tenfold.search.job import Job, Progress
from tenfold.search.pace import TRAINING_OVER_FORWARD, forward_pace
from tenfold.search.space import NARROWEST, STEP, Plan, Space, by_loss, groups_of, stages_of

SCAN_EXAMPLES = 128
SCAN_SHARE = 0.05  # of the time limit, for the blocks and again for the widths
SCAN_WIDTH = 0.5
MOST_MOVED = 1e9  # nats, where answers are not finite or nothing is known


def prune_step(plan: Plan) -> Prune:
    """The technique that makes a plan's structure, in widths that the processor's vectors fill."""
    return Prune(ratio=0.0, widths=dict(plan.keep), blocks=plan.blocks, round_to=vector_lanes())


@dataclass(frozen=True)
class Structures:
    """The channel graph of the job's network with its blocks, and what the scan found."""

    job: Job
    graph: ChannelGraph
    blocks: Mapping[str, bool]
    block_loss: Mapping[str, float]
    group_loss: Mapping[str, float]
    space: Space
    skeleton: nn.Module  # the network without data, on the meta device
    counted: dict[Plan, Profile] = field(default_factory=dict)
    moved: dict[Plan, float] = field(default_factory=dict)  # divergence of whole structures that were run

    def outline(self, plan: Plan, model: nn.Module) -> nn.Module:
        """A network of the plan's shapes, made from `model` without data."""
        blocks = {name: self.blocks[name] for name in plan.blocks}
        return prune_step(plan).outline(model, self.graph, blocks).eval()

    def count(self, plan: Plan) -> Profile:
        """Exact counts of the plan's network, from its shapes alone."""
        if plan not in self.counted:
            outline = self.outline(plan, self.skeleton)
            self.counted[plan] = profile(outline, self.job.task.zeros(self.job.device.batch))
        return self.counted[plan]

    def divergence(self, plan: Plan) -> float:
        """How far in nats the answers move before healing: as `run` found, or else guessed."""
        return self.moved[plan] if plan in self.moved else self.guessed_divergence(plan)

    def guessed_divergence(self, plan: Plan) -> float:
        """The parts' own figures in nats added up.

        Blunt where much goes at once, for parts make up for each other only while the others are there.
        """
        keep = dict(plan.keep)
        total = sum(self.block_loss[name] for name in plan.blocks)
        for group, families in self.space.groups.items():
            share = min((keep[name] for name in families if name in keep), default=1.0)
            total += self.group_loss.get(group, 0.0) * ((1 - share) / (1 - SCAN_WIDTH)) ** 2
        return total

    def run(self, plan: Plan) -> float:
        """Find by running the plan's network, as it is before healing, how far its answers are from the original's.

        Returns the seconds that took, without those of asking the original, which is done once.
        """
        batch, targets, wanted = sample(self.job)
        began = time.monotonic()
        blocks = {name: self.blocks[name] for name in plan.blocks}
        outline = prune_step(plan).outline(self.job.task.model, self.graph, blocks, self._magnitudes)
        with torch.no_grad():
            self.moved[plan] = divergence(wanted, call(outline.eval(), batch).float(), targets)
        return time.monotonic() - began

    @cached_property
    def _magnitudes(self) -> Scores:
        return importance(self.graph, self.job.task.model, Criterion.MAGNITUDE, self.job.task, self.job.run())


def narrowing_share(family: Family) -> float | None:
    """The largest share that, once rounded, leaves the family narrower than it is; None if there is none."""
    steps = range(round((1 - NARROWEST) / STEP) + 1)
    shares = (1 - STEP * step for step in steps)
    return next((s for s in shares if rounded(s * family.size, family, vector_lanes()) < family.size), None)


def scan(job: Job) -> Structures | None:
    """Find what can go, and how much each part matters, on a few hundred training examples.

    None where the network's structure cannot be changed: it cannot be traced or trained, or no part of it can go.
    """
    with job.clock.phase("sensitivity scan") as progress:
        inputs = job.task.zeros(TRACED_BATCH)
        progress(0.0, "tracing")
        try:
            graph = channel_graph(job.task.model, inputs, job.run(progress))
        except NetworkError as error:
            job.store.note_failure("pruning", str(error))
            return None
        blocks = residual_blocks(job.task.model, inputs, graph.program)
        if not blocks and not graph.families:
            job.store.note_failure("pruning", "the network has no block and no channel that can go")
            return None
        stored = scanned(job)
        shares = {family.name: narrowing_share(family) for family in graph.families}
        narrows = {name: share for name, share in shares.items() if share is not None}
        groups = groups_of([family for family in graph.families if family.name in narrows])
        if stored is None:
            limit = job.clock.limit * SCAN_SHARE
            block_loss = dict.fromkeys(blocks, math.inf)
            if 2 * seconds_of_sample(job) <= limit:  # the original's answers, and those without a block
                block_loss = block_sensitivity(
                    job.task.model, job.task, blocks, job.run(progress, limit), examples=SCAN_EXAMPLES
                )
            try:
                group_loss = group_sensitivity(job, graph, groups, progress, limit)
            except NetworkError as error:  # what cannot be trained cannot be healed either
                job.store.note_failure("pruning", str(error))
                return None
            # A part that there was no time for counts as one that matters, a width somewhat.
            stored = {
                "blocks": {name: bounded(loss) for name, loss in block_loss.items()},
                "groups": {group: group_loss.get(group, math.log(2)) for group in groups},
                "unseen": [
                    *(name for name, loss in block_loss.items() if math.isinf(loss)),
                    *(group for group in groups if group not in group_loss),
                ],
                "time_limit": job.clock.limit,
            }
            if job.store.step("front") is not None:  # found by an earlier scan, which saw only a part
                job.store.finish_step("front", None)
            job.store.finish_step("scan", stored)
    losses = stored["blocks"]
    space = Space(stages_of(losses), groups, narrows, by_loss(losses))
    skeleton = copy.deepcopy(job.task.model).to("meta")
    return Structures(job, graph, blocks, stored["blocks"], stored["groups"], space, skeleton)


def scanned(job: Job) -> dict[str, Any] | None:
    """What a scan found; None where there was none, or one that saw only a part and had less time than there is now."""
    stored: dict[str, Any] | None = job.store.step("scan")
    if stored is not None and stored.get("unseen") and job.clock.limit > stored["time_limit"]:
        return None
    return stored


def group_sensitivity(
    job: Job, graph: ChannelGraph, groups: Mapping[str, tuple[str, ...]], progress: Progress, seconds: float
) -> dict[str, float]:
    """For each group of families, how far the answers move when all of them keep half of their channels.

    Groups that `seconds` leave no time for are not in it.
    """
    model, task = job.task.model, job.task
    run, each = job.run(progress, seconds), seconds_of_sample(job)
    training = TRAINING_OVER_FORWARD * forward_pace(job) * min(BATCH, len(task.train), SCAN_EXAMPLES)
    # A batch for the importance, the original's answers, and those of one group.
    if training + 2 * each > seconds:
        return {}
    first = job.run(progress, seconds - 2 * each)
    scores = importance(graph, model, Criterion.TAYLOR, task, first, examples=SCAN_EXAMPLES)
    batch, targets, wanted = sample(job)
    found: dict[str, float] = {}
    pacer = Pacer(run.seconds_left, each)
    with torch.no_grad():
        for number, (group, families) in enumerate(groups.items()):
            if not pacer.may_begin():
                break
            with pacer.one():
                half = Prune(ratio=0.0, widths=dict.fromkeys(families, SCAN_WIDTH), round_to=vector_lanes())
                kept = half.choose(graph, graph.families, scores)
                answer = call(graph.narrow(model, kept).eval(), batch).float()
                found[group] = divergence(wanted, answer, targets)
            progress((number + 1) / len(groups), f"half width: {group}")
    return found


def sample(job: Job) -> tuple[Inputs, Tensor, Tensor]:
    """Inputs and targets of `SCAN_EXAMPLES` training examples, and the original's answers to them; asked once."""
    if "sample" not in job.cache:
        examples = job.task.train.take(SCAN_EXAMPLES, seed=job.seed)
        batch, targets = examples.select(range(len(examples)))
        with torch.no_grad():
            job.cache["sample"] = batch, targets, call(job.task.model, batch).float()
    found: tuple[Inputs, Tensor, Tensor] = job.cache["sample"]
    return found


def seconds_of_sample(job: Job) -> float:
    """What the original takes to answer the examples that are scanned with."""
    return forward_pace(job) * min(SCAN_EXAMPLES, len(job.task.train))


def divergence(wanted: Tensor, answer: Tensor, targets: Tensor) -> float:
    """Mean KL divergence in nats for class targets (N,); else the squared error relative to the answers' energy."""
    if targets.is_floating_point():
        moved = (answer - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)
    else:
        moved = F.kl_div(answer.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
    return bounded(float(moved))


def bounded(moved: float) -> float:
    """At most `MOST_MOVED`, which NaN counts as: JSON has neither that nor infinity."""
    return moved if moved < MOST_MOVED else MOST_MOVED
