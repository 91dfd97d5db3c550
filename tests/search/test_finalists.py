"""The choice of what to heal next, on fronts made by hand and by hypothesis."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.pacing import Pacer
from tenfold.search.damage import damage, loss_per_damage
from tenfold.search.finalists import Tried, choose_next, number_of_finalists, underhealed
from tenfold.search.proposals import Proposal, front, propose, restore, starting_points
from tenfold.search.space import Plan, Space, by_loss, stages_of


def proposal(units: float, ms: float, excess: float = 0.0, divergence: float = 0.0) -> Proposal:
    plan = Plan(blocks=(f"block{units}",)) if units else Plan()
    return Proposal(plan, "int8", 1, 1, ms, ms, ms, int(ms * 1e6), divergence, units, excess)


FRONT = [proposal(0, 10.0), proposal(1, 5.0), proposal(2, 3.0), proposal(4, 2.0), proposal(8, 1.0)]


def test_damage_by_hand():
    # Two halvings of MACs, one of parameters, half a nat: 1.5² + 0.125.
    assert damage(25, 50, 100, 100, 0.5) == pytest.approx(2.375)
    assert damage(100, 100, 100, 100, 0.0) == 0.0
    # Ten passes leave two and a half units of damage for each squared nat behind, up to four nats.
    assert damage(25, 50, 100, 100, 0.5, 10) == pytest.approx(3.0)
    assert damage(100, 100, 100, 100, 9.0, 10) == pytest.approx(4 * 0.25 + 16 * 2.5)


def test_the_slope_follows_what_was_measured():
    assert loss_per_damage([]) == pytest.approx(0.001)
    assert loss_per_damage([(10.0, 0.05)] * 5) == pytest.approx(0.005, rel=0.01)


def test_the_first_is_the_cheapest_that_the_guess_allows():
    # 0.001 · 4 + 0.002 stays under 0.85 of one point; 0.001 · 8 does not.
    assert choose_next(FRONT, [], 0.01, 0.002, "latency").proposal == FRONT[3]


def test_of_those_that_cost_the_same_the_mildest_is_taken():
    close = proposal(3.5, 2.04)
    assert choose_next([*FRONT, close], [], 0.01, 0.002, "latency").proposal == close
    assert choose_next([*FRONT, proposal(3.5, 2.1)], [], 0.01, 0.002, "latency").proposal == FRONT[3]


def test_after_a_success_nothing_that_costs_the_same():
    met = Tried(FRONT[2], 0.001, 0.003, met=True)
    assert choose_next([*FRONT[:3], proposal(2.5, 2.95)], [met], 0.01, 0.002, "latency") is None


def test_after_a_failure_only_milder_ones():
    failed = Tried(FRONT[3], 0.02, 0.022, met=False)
    chosen = choose_next(FRONT, [failed], 0.01, 0.002, "latency")
    assert chosen.proposal.damage < 4
    assert not chosen.extend


def test_want_of_passes_costs_by_hand():
    # Half a nat before healing is half of the metric; two passes leave 0.1/4 of a large cut.
    assert underhealed(proposal(1, 1.0, divergence=0.5), 0.0) == pytest.approx(0.5)
    assert underhealed(proposal(1, 1.0, divergence=1e9), 2.0) == pytest.approx(0.025)
    assert underhealed(proposal(1, 1.0, divergence=0.025), 2.0) == pytest.approx(0.0125)
    assert underhealed(proposal(1, 1.0, divergence=0.0), 2.0) == 0.0
    assert underhealed(proposal(1, 1.0, divergence=0.5), math.inf) == 0.0


def test_where_none_is_likely_the_mildest_is_healed():
    # As of a ResNet-56 on CIFAR-10 without one, four and six of its blocks, a tolerance that none can be shown to meet,
    # and more passes for what is smaller.
    one, four, six = (
        proposal(0.01, 9.5, 0, 0.011),
        proposal(0.2, 8.0, 0, 0.054),
        proposal(0.9, 7.0, 0, 0.23),
    )
    for few in (1.8, 9.0):
        passes = {one: few, four: 1.1 * few, six: 1.2 * few}.__getitem__
        assert choose_next([one, four, six], [], 0.004, 0.004, "latency", passes).proposal == one


def test_after_a_success_only_cheaper_ones():
    met = Tried(FRONT[2], 0.001, 0.003, met=True)
    assert choose_next(FRONT, [met], 0.01, 0.002, "latency").proposal.latency_ms < 3.0


def test_after_one_that_only_costs_too_much_only_cheaper_ones():
    dear = Tried(FRONT[2], 0.001, 0.003, met=False, measured=3.5, within=False)
    chosen = choose_next(FRONT, [dear], 0.01, 0.002, "latency")
    assert not chosen.extend
    assert chosen.proposal in FRONT[3:]


def test_a_near_miss_with_nothing_milder_is_healed_on():
    failed = Tried(FRONT[1], 0.012, 0.014, met=False)
    chosen = choose_next(FRONT, [failed], 0.01, 0.002, "latency")
    assert chosen.extend
    assert chosen.proposal == FRONT[1]


def test_nothing_is_left_after_the_last_success():
    met = Tried(FRONT[4], 0.001, 0.003, met=True)
    assert choose_next(FRONT, [met], 0.01, 0.002, "latency") is None


@given(
    st.lists(st.tuples(st.floats(0.1, 20), st.floats(0.1, 20)), min_size=1, max_size=15),
    st.lists(st.booleans(), max_size=6),
    st.floats(0.001, 0.2),
)
def test_the_search_never_proposes_the_untouched_network_or_goes_back(rows, outcomes, tolerance):
    line = front([proposal(0, 21.0), *(proposal(d, ms) for d, ms in rows)], "latency")
    tried: list[Tried] = []
    for met in outcomes:
        chosen = choose_next(line, tried, tolerance, 0.001, "latency")
        if chosen is None:
            break
        assert not chosen.proposal.plan.untouched
        if not chosen.extend:
            assert all(t.proposal != chosen.proposal for t in tried)
            assert all(chosen.proposal.damage < t.proposal.damage for t in tried if not t.met)
            assert all(chosen.proposal.latency_ms < t.proposal.latency_ms for t in tried if t.met)
        drop = 0.5 * tolerance if met else 1.5 * tolerance
        tried.append(Tried(chosen.proposal, drop, drop, met))


def test_the_front_keeps_the_limits_where_it_can():
    line = front([proposal(0, 10, excess=1.0), proposal(2, 3), proposal(1, 5), proposal(3, 4)], "latency")
    assert [p.damage for p in line] == [1, 2]
    broken = front([proposal(0, 10, excess=1.0), proposal(2, 3, excess=0.5)], "latency")
    assert [p.damage for p in broken] == [2]


def test_a_space_drops_the_most_dispensable_blocks_first():
    space = Space(stages_of({"a.0": 0.3, "a.1": 0.1, "b.0": 0.2}), {"a.0.conv": ("a.0.conv", "a.1.conv")})
    plan = space.plan({"a": 1, "b": 0}, {"a.0.conv": 0.5})
    assert plan.blocks == ("a.1",)
    assert plan.keep == (("a.0.conv", 0.5),)  # the family of the dropped block is gone with it
    assert Plan.from_json(plan.to_json()) == plan
    for parameters in starting_points(space):
        assert set(parameters) == {"drop a", "drop b", "keep a.0.conv"}


class Additive:
    """A judge of a space of two stages and two groups, by whose `losses` and `bytes` what goes adds up."""

    minimize = "size"
    space = Space({"a": ("a.0", "a.1", "a.2"), "b": ("b.0", "b.1")}, {"u": ("u", "b.1.u"), "v": ("v",)})
    parts = ("a.0", "a.1", "a.2", "b.0", "b.1", "u", "b.1.u", "v")

    def __init__(self, losses: list[int], bytes_of: list[int], limit: int) -> None:
        self.losses = dict(zip(self.parts, losses, strict=True))
        self.bytes_of = dict(zip(self.parts, bytes_of, strict=True))
        self.limit = limit

    def divergence(self, plan: Plan) -> float:
        return self.gone(plan, self.losses)

    def gone(self, plan: Plan, values: dict[str, int]) -> float:
        return sum(values[name] for name in plan.blocks) + sum(8 * (1 - s) * values[n] for n, s in plan.keep)

    def __call__(self, plan: Plan) -> Proposal:
        size = int(1000 - self.gone(plan, self.bytes_of))
        excess, moved = max(0.0, size / self.limit - 1), self.divergence(plan)
        return Proposal(plan, "int8", 1, 1, 1.0, 1.0, 1.0, size, moved, moved, excess)


NUMBERS = st.lists(st.integers(1, 30), min_size=8, max_size=8)
DROPPED = st.tuples(st.integers(0, 3), st.integers(0, 2))
SHARES = st.sampled_from([0.25, 0.5, 0.875, 1.0])


@given(NUMBERS, NUMBERS, st.integers(500, 990), st.lists(st.tuples(DROPPED, SHARES, SHARES), max_size=6))
def test_what_keeps_the_limits_is_given_back_all_that_it_can_be(losses, sizes, limit, plans):
    judge = Additive(losses, sizes, limit)
    made = {Plan(): judge(Plan())}
    for (a, b), u, v in plans:
        plan = judge.space.plan({"a": a, "b": b}, {"u": u, "v": v})
        made[plan] = judge(plan)
    before = front(list(made.values()), "size")[0]
    restore(judge.space, judge, made, Pacer(lambda: 1.0))
    mildest = front(list(made.values()), "size")[0]
    assert mildest.damage <= before.damage
    if (
        not mildest.excess
    ):  # some structure keeps the limit, and with nothing more does it do less damage and keep it
        for plan in judge.space.milder(mildest.plan):
            assert judge(plan).excess > 0 or judge(plan).damage >= mildest.damage
    else:
        assert before == mildest


def test_a_plan_gives_back_one_block_or_one_step_of_a_width():
    plan = Additive.space.plan({"a": 2, "b": 2}, {"u": 0.875, "v": 0.5})
    assert plan == Plan(("a.0", "a.1", "b.0", "b.1"), (("u", 0.875), ("v", 0.5)))
    assert Additive.space.milder(plan) == [
        Plan(("a.0", "b.0", "b.1"), plan.keep),
        Plan(("a.0", "a.1", "b.0"), (("b.1.u", 0.875), *plan.keep)),
        Plan(plan.blocks, (("v", 0.5),)),
        Plan(plan.blocks, (("u", 0.875), ("v", 0.625))),
    ]
    assert Additive.space.milder(Plan()) == []


@pytest.mark.parametrize(("limit", "gone"), [(1000, 0), (973, 27)])
def test_proposals_end_at_the_limit_and_not_well_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, gone: int
) -> None:
    monkeypatch.setattr(
        "tenfold.search.proposals.TRIALS", 29
    )  # the levels of depth: 30 of 40 blocks, then all

    class Blocks(Additive):
        space = Space({"a": tuple(f"a.{number}" for number in range(40))}, {})
        parts = space.stages["a"]

    judge = Blocks([1] * 40, [1] * 40, limit)
    found = propose(judge.space, judge, tmp_path / "study.journal", seed=0, seconds=60.0)  # type: ignore[arg-type]
    assert len(found[0].plan.blocks) == gone


def test_more_time_heals_more_finalists():
    assert number_of_finalists(10, 100) == 1
    assert number_of_finalists(240, 10) == 2
    assert number_of_finalists(1e6, 10) == 8


def test_the_first_shares_its_time_with_a_second_where_both_can_be_healed_a_little():
    assert number_of_finalists(80, 10) == 1
    assert number_of_finalists(80, 10, first=True) == 2
    assert number_of_finalists(79, 10, first=True) == 1
    assert number_of_finalists(80, 10, 5, first=True) == 1  # the second's export would take what it needs
    assert number_of_finalists(85, 10, 5, first=True) == 2
    assert number_of_finalists(360, 10, first=True) == 3


def test_the_search_starts_with_the_few_blocks_that_matter_least():
    losses = {"a.0": 0.3, "a.1": 0.1, "b.0": 0.2, "b.1": 0.05}
    space = Space(stages_of(losses), {"stem": ("stem",)}, dispensable=by_loss(losses))
    plans = [space.plan(*knobs(space, parameters)) for parameters in starting_points(space)]
    for number, blocks in enumerate([("b.1",), ("a.1", "b.1"), ("a.1", "b.0", "b.1")], start=1):
        assert Plan(blocks) in plans, number
    assert sum(not plan.keep and len(plan.blocks) == 3 for plan in plans) == 1


def knobs(space: Space, parameters: dict[str, float]) -> tuple[dict[str, int], dict[str, float]]:
    """The two arguments of `Space.plan`, of a trial's parameters."""
    dropped = {stage: int(parameters[f"drop {stage}"]) for stage in space.stages}
    return dropped, {group: parameters[f"keep {group}"] for group in space.groups}
