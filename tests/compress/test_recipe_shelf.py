"""The recipes that ship, and the list of techniques with their results."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tenfold.compress import find_recipe, known_results, named_recipes, technique_names
from tenfold.errors import RecipeError
from tenfold.report import techniques_table


@pytest.mark.parametrize("name", [entry.name for entry in named_recipes()])
def test_every_recipe_that_ships_reads_and_says_what_it_is_for(name: str) -> None:
    entry = next(entry for entry in named_recipes() if entry.name == name)
    assert entry.recipe.steps
    assert entry.text.endswith(".")
    assert find_recipe(name) == entry.recipe


def test_a_path_goes_before_a_name_and_an_unknown_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'in8'.*did you mean 'int8'"):
        find_recipe("in8")
    with pytest.raises(RecipeError, match="the name of a recipe is empty"):
        find_recipe("")
    with pytest.raises(RecipeError, match=r"none\.yaml cannot be read"):
        find_recipe(tmp_path / "none.yaml")
    monkeypatch.chdir(tmp_path)
    Path("int8").write_text("steps: []\n")
    assert find_recipe("int8").steps == ()


def test_every_technique_is_listed_with_what_is_known_of_it() -> None:
    entries = known_results()
    names = [entry["technique"] for entry in entries]
    assert set(technique_names()) == set(names)
    assert all(entry["text"] for entry in entries)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(techniques_table(entries, [("int8", "what it is")]))
    text = console.export_text()
    unknown = " ".join(text.partition("No result yet: ")[2].partition("Recipes")[0].split())
    for entry in entries:
        assert entry["technique"] in text
        assert bool(entry["results"]) != (entry["technique"] in unknown.split(", "))


def test_rows_that_were_measured_elsewhere_are_told_by_name() -> None:
    """How much faster INT8 is depends on the processor, so that no row may go under the name of another's."""
    row = known_results()[0]["results"][0] | {"processor": "one CPU", "date": "2026-01-01"}
    other = row | {"variant": "added", "processor": "another CPU", "date": "2026-01-02"}
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    entry = {"technique": "x", "text": "", "results": [row, row | {"variant": "second"}, other]}
    console.print(techniques_table([entry], []))
    text = console.export_text()
    assert "one CPU, 2026-01-01. added: " in text
    assert "another CPU, 2026-01-02, against the original there." in text
    assert "second:" not in text
