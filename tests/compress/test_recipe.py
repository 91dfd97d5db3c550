"""Recipes: YAML and back, order, and what is refused."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from fake_techniques import Mode, Narrow, PerGroup, PerTensor, Round, Small, task
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.compress import (
    Recipe,
    Run,
    apply_recipe,
    parse_recipe,
    read_recipe,
    recipe_from,
    register,
    registry,
    technique_from,
    technique_to_dict,
)
from tenfold.compress import recipe as recipe_module
from tenfold.compress.quantize import Average, Quantize
from tenfold.errors import RecipeError

narrows = st.builds(
    Narrow,
    share=st.floats(0.01, 1),
    mode=st.sampled_from(Mode),
    granularity=st.one_of(st.just(PerTensor()), st.builds(PerGroup, st.integers(1, 9))),
    layers=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    limit=st.none() | st.integers(-5, 10**9),
    bounds=st.tuples(st.floats(-1e9, 1e9), st.floats(-1e-9, 1e-9)),
)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(narrows, max_size=3, unique=True), seed=st.integers(0, 2**63 - 1), last=st.booleans())
def test_a_recipe_reads_back_as_it_was(steps: list[Narrow], seed: int, last: bool) -> None:
    recipe = Recipe((*steps, *([Round(4)] if last else [])), seed)
    assert parse_recipe(recipe.to_yaml()) == recipe


def test_the_file(tmp_path: Path) -> None:
    recipe = Recipe((Narrow(0.25, granularity=PerGroup(4)), Round()), seed=7)
    recipe.write(tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["steps"][0]["granularity"] == {
        "type": "PerGroup",
        "size": 4,
    }


def test_what_is_left_out_has_its_default() -> None:
    assert parse_recipe("steps:\n- technique: narrow\n") == Recipe((Narrow(),))
    assert parse_recipe("steps: []") == Recipe()


def test_numbers_as_people_write_them() -> None:
    made = parse_recipe("steps:\n- {technique: narrow, share: 1e-1, bounds: [1, 2.5e3]}").steps[0]
    assert made == Narrow(0.1, bounds=(1.0, 2500.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps:\n- technique: narow\n", r"r:2: no technique 'narow'; did you mean 'narrow'"),
        ("steps:\n- technique: narrow\n  shre: 1\n", r"r:3: narrow has no key 'shre'; did you mean 'share'"),
        ("steps:\n- technique: narrow\n  share: 0\n", r"r:3: narrow: share must be above 0"),
        ("steps:\n- technique: narrow\n  share: .nan\n", r"r:3: narrow: share must be a finite number"),
        ("steps:\n- technique: narrow\n  share: lots\n", r"r:3: narrow: share must be a finite number, not 'lots'"),
        ("steps:\n- technique: narrow\n  share: true\n", r"r:3: narrow: share must be a finite number, not True"),
        ("steps:\n- technique: narrow\n  limit: 1.5\n", r"r:3: narrow: limit must be a whole number"),
        ("steps:\n- technique: narrow\n  mode: fats\n", r"r:3: .* fast, exact, not 'fats'; did you mean 'fast'"),
        ("steps:\n- technique: narrow\n  layers: a\n", r"r:3: narrow: layers must be a list"),
        ("steps:\n- technique: narrow\n  layers:\n  - a\n  - 3\n", r"r:5: narrow: layers\[1\] must be text"),
        ("steps:\n- technique: narrow\n  bounds: [1]\n", r"r:3: narrow: bounds must have 2 entries, not 1"),
        ("steps:\n- technique: narrow\n  granularity: {type: PerGruop}\n", r"r:3: .*'PerGruop'; did you mean 'PerGroup'"),
        ("steps:\n- technique: narrow\n  granularity:\n    type: PerGroup\n    size: 0\n", r"r:5: .*size must be at least 1"),
        ("steps:\n- technique: narrow\n  granularity: {type: Mode}\n", r"r:3: .*no type 'Mode'"),
        ("steps:\n- technique: round\n- technique: narrow\n", r"r:2: step 1: round must come last, and narrow follows it: integers"),
        ("steps:\n- technique: round\n- technique: round\n", r"r:2: step 1: round must come last"),
        ("steps:\n- technique: narrow\n- technique: narrow\n", r"r:3: step 2 repeats step 1 \(narrow\) unchanged"),
        ("steps:\n- share: 1\n", r"r:2: a step needs the key 'technique', one of"),
        ("steps:\n- narrow\n", r"r:2: a step must be a mapping"),
        ("steps: 3\n", r"r:1: steps must be a list"),
        ("stpes: []\n", r"r:1: a recipe has no key 'stpes'; did you mean 'steps'"),
        ("tenfold: 2\nsteps: []\n", r"r:1: the recipe has version 2; this Tenfold reads version 1"),
        ("seed: -1\nsteps: []\n", r"r:1: seed must be a whole number"),
        ("steps: []\nsteps: []\n", r"r:2: the key 'steps' comes twice"),
        ("steps:\n  - a: [\n", r"r:3: not valid YAML"),
        ("steps: &a []\nseed: *a\n", r"aliases \(\*a\) are not allowed"),
        ("steps: !!python/object/apply:os.system [ls]\n", r"r:1: "),
        ("steps:\n- technique: !!python/name:os.system ''\n", r"r:2: not valid YAML: could not determine a constructor"),
        ("[" * 5000 + "]" * 5000, "nested more than 50 deep"),
        ("", "a recipe is a mapping"),
        ("\x00", "not valid YAML"),
    ],
)  # fmt: skip
def test_faults_name_line_and_key(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text, "r")


def test_a_number_where_a_mapping_around_it_may_stand_as_well() -> None:
    text = "steps:\n- technique: quantize\n  stored_bits: {}\n"
    parsed = parse_recipe(text.format("{type: Average, bits: 4.5}"), "r")
    assert parsed.steps == (Quantize(stored_bits=Average(4.5)),)
    message = r"r:3: .* whole number, not 4\.5; or write {type: Average, bits: 4\.5}"
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text.format("4.5"), "r")
    for none_takes_it in ("four", "99.5"):
        with pytest.raises(RecipeError) as caught:
            parse_recipe(text.format(none_takes_it), "r")
        assert "Average" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml cannot be read: No such file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not text in UTF-8"):
        read_recipe(tmp_path / "bytes.yaml")
    (tmp_path / "large.yaml").write_bytes(b" " * (2 << 20))
    with pytest.raises(RecipeError, match="is larger than"):
        read_recipe(tmp_path / "large.yaml")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("steps:technique narow-[]{}#&*!'\"\n 012.e~|>%@`,?"), max_size=80))
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    with contextlib.suppress(RecipeError):
        assert isinstance(parse_recipe(text), Recipe)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["technique", "share", "mode", "type", "granularity", "layers", "bounds", "size"]), inner
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(value=json_values, name=st.sampled_from(["narrow", "round", "x"]))
def test_any_value_is_a_technique_or_a_recipe_error(value: object, name: str) -> None:
    if isinstance(value, dict):
        value["technique"] = name
    for read in (technique_from, recipe_from, lambda v: recipe_from({"steps": [v]})):
        with contextlib.suppress(RecipeError):
            read(value)


def test_a_technique_that_is_not_registered() -> None:
    with pytest.raises(RecipeError, match="PerGroup is not a registered technique"):
        technique_to_dict(PerGroup())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'narrow' is registered already"):
        register("narrow", Round)


@dataclass(frozen=True)
class Widen(Narrow):
    """A technique that some of `Fragile` does not stand."""


@dataclass(frozen=True)
class Fragile(Narrow):
    """What it makes is undone by others."""


def test_a_registered_technique_says_what_undoes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TECHNIQUES", dict(registry.TECHNIQUES))
    monkeypatch.setattr(recipe_module, "TECHNIQUES", registry.TECHNIQUES)
    register("widen", Widen)
    register(
        "fragile",
        Fragile,
        undone_by={
            "narrow": "it breaks",
            "widen": lambda earlier, later: "it is too much" if later.share > earlier.share else "",
        },
    )
    with pytest.raises(RecipeError, match="step 2: narrow may not follow fragile: it breaks"):
        Recipe((Fragile(0.5), Narrow(0.5)))
    with pytest.raises(RecipeError, match="step 3: widen may not follow fragile: it is too much"):
        Recipe((Fragile(0.5), Fragile(0.9), Widen(0.6)))
    Recipe((Narrow(0.5), Fragile(0.5), Widen(0.5)))


def test_steps_are_applied_in_order_with_progress_and_teacher() -> None:
    seen: list[tuple[float, str]] = []
    work = task(Small(hidden=16).eval())
    before = {name: value.clone() for name, value in work.model.state_dict().items()}
    run = Run(progress=lambda fraction, text: seen.append((fraction, text)))
    recipe = Recipe((Narrow(0.5), Narrow(0.25), Round()))
    model, steps = apply_recipe(recipe, work, run)
    assert [step.technique for step in steps] == list(recipe.steps)
    assert model.first.out_features == 2
    assert steps[1].resolved == {"kept": [0, 1]}
    assert [fraction for fraction, _ in seen] == pytest.approx([0.5 / 3, 1.5 / 3])
    assert all(torch.equal(value, before[name]) for name, value in work.model.state_dict().items())
    assert run.teacher is None  # the caller's own object is left alone
    again, _ = apply_recipe(recipe, work, Run())
    x = torch.randn(5, 6)
    assert torch.equal(again(x), model(x))


def test_problems_stop_it_before_any_work() -> None:
    started: list[str] = []
    work = task(torch.nn.Linear(6, 3))
    with pytest.raises(RecipeError, match=r"step 2 \(narrow\): only Small can be narrowed"):
        apply_recipe(
            Recipe((Narrow(0.3), Narrow())), work, Run(progress=lambda _, text: started.append(text))
        )
    assert not started


def test_no_step_gives_the_network_itself() -> None:
    work = task()
    assert apply_recipe(Recipe(), work, Run()) == (work.model, ())
