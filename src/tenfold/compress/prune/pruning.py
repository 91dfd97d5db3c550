"""`Prune`: remove whole residual blocks, channels, heads and hidden units, and leave a smaller network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from tenfold.compress.prune.blocks import block_sensitivity, drop_blocks, residual_blocks
from tenfold.compress.prune.graph import ChannelGraph, Family, Kept
from tenfold.compress.prune.importance import Criterion, Scores, importance, present
from tenfold.compress.prune.narrowing import Narrowing
from tenfold.compress.technique import Applied, Json, Problem, Run, quantized
from tenfold.cost import Device, Inputs, call
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.naming import described, nearest

TRACED_BATCH = 2
BISECTIONS = 24
LATENCY_TRIALS = 7  # each is an export and a measurement
SMALLEST_SHARE = 0.1  # under a global ranking no family loses more than the rest


class Scope(Enum):
    """Which channels compete."""

    UNIFORM = "uniform"  # within each family: every layer loses the same share
    GLOBAL = "global"  # all inner families together, by importance for each multiply-accumulate saved


@dataclass(frozen=True)
class Prune:
    """Structured pruning: the layers become truly smaller.

    `ratio` of the channels (heads, hidden units) of each inner family go; `residual` is the share of the residual
    streams' width that stays. `widths` sets the share that stays for families whose name matches a pattern (the
    first that matches counts). `blocks` are residual blocks to drop: their names, or how many of the least
    sensitive. With `target_macs`, a share of the multiply-accumulates, `ratio` is found instead; with
    `target_latency`, a share of the measured latency, it is found by measuring (`Run.latency`). Shares are of what the
    network has when it comes to this step: two halvings in a recipe leave a quarter.
    Numbers of channels are rounded to multiples of `round_to`. `examples` of the training data decide what
    matters, where the criterion or the choice of blocks needs data.
    """

    ratio: float = 0.5
    criterion: Criterion = Criterion.TAYLOR
    scope: Scope = Scope.UNIFORM
    residual: float = 1.0
    widths: Mapping[str, float] = field(default_factory=dict)
    blocks: tuple[str, ...] | int = ()
    target_macs: float | None = None
    target_latency: float | None = None
    round_to: int = 1
    examples: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.blocks, list):
            object.__setattr__(self, "blocks", tuple(self.blocks))
        if not 0.0 <= self.ratio < 1.0:
            raise ValueError(f"Prune: ratio must be at least 0 and below 1, not {self.ratio!r}")
        if not 0.0 < self.residual <= 1.0:
            raise ValueError(f"Prune: residual must be above 0 and at most 1, not {self.residual!r}")
        for pattern, share in self.widths.items():
            if not 0.0 < share <= 1.0:
                raise ValueError(f"Prune: widths[{pattern!r}] must be above 0 and at most 1, not {share!r}")
        for name in ("target_macs", "target_latency"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise ValueError(f"Prune: {name} must be between 0 and 1, not {value!r}")
        if self.target_macs is not None and self.target_latency is not None:
            raise ValueError("Prune: give target_macs or target_latency, not both")
        for name in ("round_to", "examples"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Prune: {name} must be a whole number of at least 1, not {value!r}")
        if isinstance(self.blocks, int) and self.blocks < 0:
            raise ValueError(f"Prune: blocks must be names or a number of at least 0, not {self.blocks!r}")

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """A network that cannot be traced, nothing to prune, unknown blocks and patterns, an unreachable target."""
        if already := quantized(model):
            return already
        try:
            graph = ChannelGraph.of(model, task.zeros(TRACED_BATCH))
        except NetworkError as error:
            return [Problem("", str(error))]
        problems: list[Problem] = []
        if not graph.families and not self.blocks:
            problems.append(Problem("", f"no channel can be pruned{_reasons(graph)}"))
        names = [family.name for family in graph.families]
        for pattern in self.widths:
            if not any(fnmatchcase(name, pattern) for name in names):
                frozen = graph.frozen.get(pattern)
                why = f"is frozen: {frozen}" if frozen else f"matches no family{nearest(pattern, names)}"
                problems.append(Problem(pattern, why))
        if self.blocks:
            known = residual_blocks(model, task.zeros(TRACED_BATCH), graph.program)
            if isinstance(self.blocks, int) and self.blocks > len(known):
                problems.append(
                    Problem("", f"{self.blocks} blocks to drop, but only {len(known)} are residual")
                )
            for name in self.blocks if isinstance(self.blocks, tuple) else ():
                if name not in known:
                    problems.append(Problem(name, f"is no residual block{nearest(name, list(known))}"))
        if not problems and self.target_macs is not None and not isinstance(self.blocks, int):
            least = graph.macs(self._kept(graph, graph.families, _flat(graph), 1.0), self.blocks)
            if least > self.target_macs * graph.macs():
                problems.append(
                    Problem(
                        "",
                        f"cannot reach {self.target_macs:.0%} of the multiply-accumulates: one channel a layer "
                        f"still leaves {least / graph.macs():.0%}; lower residual or drop blocks",
                    )
                )
        return problems

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """Drop the blocks, score what is left, remove the least, and narrow."""
        inputs = task.zeros(TRACED_BATCH)
        graph = channel_graph(model, inputs, run)
        dropped = self._dropped(model, task, run, graph, inputs)
        shallow = drop_blocks(model, dropped).eval()
        families = present(graph, shallow)
        if not families and not dropped:
            raise NetworkError(f"no channel can be pruned{_reasons(graph)}")
        scores = self._scores(graph, shallow, task, run, dropped)
        trials: list[Json] = []
        if self.target_latency is None:
            kept = self.choose(graph, families, scores, tuple(dropped))
        else:
            kept = self._fast_enough(model, graph, families, scores, shallow, run, trials)
        plan = graph.plan(shallow, kept)
        narrowed = plan.apply(shallow).eval()
        _check_runs(narrowed, task.example(TRACED_BATCH))  # real ones: a mask of zeros leaves nothing to see
        resolved: Json = {"dropped": dropped, **plan.to_json()}
        if trials:
            resolved["latency"] = trials
        return Applied(narrowed, resolved)

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """Drop and narrow as `resolved` says; nothing is traced and no data is read."""
        dropped = resolved.get("dropped")
        if not isinstance(dropped, dict) or not all(isinstance(v, bool) for v in dropped.values()):
            raise RecipeError(
                "the pruned structure is malformed: 'dropped' must map block names to true or false"
            )
        return Narrowing.from_json(resolved).apply(drop_blocks(model, dropped)).eval()

    def foresee(self, model: nn.Module, task: Task) -> nn.Module | None:
        """A network of these widths, whichever channels stay; None where data or measurements say how many."""
        compete = self.scope is Scope.GLOBAL and (self.ratio > 0 or self.target_macs is not None)
        counted = isinstance(self.blocks, int) and self.blocks > 0
        if compete or counted or self.target_latency is not None:
            return None
        inputs = task.zeros(TRACED_BATCH)
        graph = ChannelGraph.of(model, inputs)
        try:
            return self.outline(
                model, graph, residual_blocks(model, inputs, graph.program) if self.blocks else {}
            )
        except NetworkError:  # which `apply` says
            return None

    def outline(
        self, model: nn.Module, graph: ChannelGraph, blocks: Mapping[str, bool], scores: Scores | None = None
    ) -> nn.Module:
        """A network of the size that `apply` would give, without data: for counting candidates by the hundred.

        `blocks` are all residual blocks of `model` (of `residual_blocks`); those to drop must be named. Without
        `scores` every channel counts the same, which under a global scope is only a guess at the widths.
        """
        if isinstance(self.blocks, int) and self.blocks:
            raise RecipeError("which blocks go is decided with data: name them to outline the network")
        dropped = {name: blocks[name] for name in blocks if self.blocks and name in self.blocks}
        shallow = drop_blocks(model, dropped)
        kept = self.choose(graph, present(graph, shallow), scores or _flat(graph), tuple(dropped))
        return graph.narrow(shallow, kept)

    def choose(
        self, graph: ChannelGraph, families: tuple[Family, ...], scores: Scores, dropped: tuple[str, ...] = ()
    ) -> Kept:
        """The slots that stay. Reads no data: a search may call it with scores that it keeps."""
        if self.target_macs is None:
            return self._kept(graph, families, scores, self.ratio)
        limit = self.target_macs * graph.macs()
        low, high = 0.0, 1.0
        if graph.macs(self._kept(graph, families, scores, low), dropped) <= limit:
            return self._kept(graph, families, scores, low)
        if graph.macs(self._kept(graph, families, scores, high), dropped) > limit:
            raise NetworkError(
                f"cannot reach {self.target_macs:.0%} of the multiply-accumulates even with one channel a layer: "
                "lower residual or drop blocks"
            )
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            over = graph.macs(self._kept(graph, families, scores, middle), dropped) > limit
            low, high = (middle, high) if over else (low, middle)
        return self._kept(graph, families, scores, high)

    def _fast_enough(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        families: tuple[Family, ...],
        scores: Scores,
        shallow: nn.Module,
        run: Run,
        trials: list[Json],
    ) -> Kept:
        """The widest choice found that meets `target_latency`, by bisection of the ratio; notes what was measured."""
        assert self.target_latency is not None
        latency = run.require_latency()
        original = latency(model)
        limit, found = self.target_latency * original, None
        low, high, ratio = 0.0, 1.0, 1.0  # the narrowest first: if that is too slow, nothing meets the target
        for trial in range(LATENCY_TRIALS):
            kept = self._kept(graph, families, scores, ratio)
            taken = latency(graph.narrow(shallow, kept))
            trials.append({"ratio": ratio, "ms": taken, "original_ms": original})
            run.progress((trial + 1) / LATENCY_TRIALS, f"{taken:.3g} ms at ratio {ratio:.2f}")
            if taken <= limit:
                found, high = kept, ratio
            elif found is None:
                raise NetworkError(
                    f"cannot reach {self.target_latency:.0%} of {original:.3g} ms: one channel a layer still takes "
                    f"{taken:.3g} ms; lower residual or drop blocks"
                )
            else:
                low = ratio
            ratio = (low + high) / 2
        assert found is not None  # the first trial raised otherwise
        return found

    def _dropped(
        self, model: nn.Module, task: Task, run: Run, graph: ChannelGraph, inputs: Inputs
    ) -> dict[str, bool]:
        if not self.blocks:
            return {}
        known = residual_blocks(model, inputs, graph.program)
        if isinstance(self.blocks, tuple):
            unknown = [name for name in self.blocks if name not in known]
            if unknown:
                raise RecipeError(f"{unknown[0]!r} is no residual block{nearest(unknown[0], list(known))}")
            return {name: known[name] for name in known if name in self.blocks}
        moved = block_sensitivity(model, task, known, run, examples=self.examples)
        least = set(sorted(known, key=moved.__getitem__)[: self.blocks])
        return {name: wrapped for name, wrapped in known.items() if name in least}

    def _scores(
        self, graph: ChannelGraph, model: nn.Module, task: Task, run: Run, dropped: Mapping[str, bool]
    ) -> Scores:
        """Importances, computed once in a run for the same network, blocks and criterion."""
        known: list[tuple[ChannelGraph, Any, Scores]] = run.cache.setdefault("prune.scores", [])
        key = (self.criterion, self.examples, run.seed, tuple(dropped), id(task))
        for other, question, scores in known:
            if other is graph and question == key:
                return scores
        scores = importance(graph, model, self.criterion, task, run, examples=self.examples)
        known.append((graph, key, scores))
        return scores

    def _kept(self, graph: ChannelGraph, families: tuple[Family, ...], scores: Scores, ratio: float) -> Kept:
        """The slots that stay when inner families lose `ratio`."""
        shares = {family.name: self._share(family, ratio) for family in families}
        counts = {
            family.name: rounded(shares[family.name] * family.size, family, self.round_to)
            for family in families
        }
        if self.scope is Scope.GLOBAL:
            free = [f for f in families if not f.residual and self._given(f) is None]
            counts.update(self._ranked(graph, free, scores, ratio))
        kept: dict[str, list[int]] = {}
        for family in families:
            if counts[family.name] < family.size:
                best = np.argsort(-scores[family.name], kind="stable")[: counts[family.name]]
                kept[family.name] = sorted(best.tolist())
        return kept

    def _ranked(
        self, graph: ChannelGraph, families: list[Family], scores: Scores, ratio: float
    ) -> dict[str, int]:
        """How many slots each family keeps when they compete: `ratio` of their channels go, the cheapest losses first."""
        entries: list[tuple[float, int, int]] = []
        for index, family in enumerate(families):
            saved = max(graph.slot_macs(family), 1)
            floor = max(1, math.ceil(SMALLEST_SHARE * family.size))
            worst_first = np.sort(scores[family.name])[: family.size - floor]
            entries += [(float(score) / saved, index, family.width) for score in worst_first]
        entries.sort(key=lambda entry: entry[0])
        left = ratio * sum(family.size * family.width for family in families)
        lost = [0] * len(families)
        for _, index, width in entries:
            if left < width:
                break
            left -= width
            lost[index] += 1
        return {f.name: rounded(f.size - n, f, self.round_to) for f, n in zip(families, lost, strict=True)}

    def _given(self, family: Family) -> float | None:
        return next((s for pattern, s in self.widths.items() if fnmatchcase(family.name, pattern)), None)

    def _share(self, family: Family, ratio: float) -> float:
        given = self._given(family)
        if given is not None:
            return given
        return self.residual if family.residual else 1.0 - ratio


def rounded(slots: float, family: Family, multiple: int) -> int:
    """The whole number of slots nearest to `slots` whose channels are a multiple of `multiple`; at least one step."""
    step = multiple // math.gcd(multiple, family.width)
    return min(family.size, max(step, round(slots / step) * step, 1))


def _check_runs(network: nn.Module, inputs: Inputs) -> None:
    try:
        with torch.no_grad():
            answer = call(network, inputs)
    except Exception as error:  # whatever the user's forward raises
        raise NetworkError(f"the pruned network does not run: {described(error)}") from error
    if not bool(answer.isfinite().all()):
        raise NetworkError("the pruned network's answers are not finite: its weights hold NaN or inf")


def channel_graph(model: nn.Module, inputs: Inputs, run: Run) -> ChannelGraph:
    """The graph of `model`, built once in a run."""
    known: list[tuple[nn.Module, ChannelGraph]] = run.cache.setdefault("prune.graphs", [])
    for network, graph in known:
        if network is model:
            return graph
    graph = ChannelGraph.of(model, inputs)
    known.append((model, graph))
    return graph


def _flat(graph: ChannelGraph) -> Scores:
    """Equal scores, for counting."""
    return {family.name: np.ones(family.size) for family in graph.families}


def _reasons(graph: ChannelGraph) -> str:
    """Why channels are held, for a message."""
    reasons: list[Any] = [
        f"the operator {name} in {', '.join(sorted(layer or 'its own forward' for layer in at))} is not known"
        for name, at in graph.unknown.items()
    ]
    reasons += [f"{name}: {why}" for name, why in graph.frozen.items()]
    return ": " + "; ".join(reasons[:3]) if reasons else ""
