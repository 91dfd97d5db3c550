"""One technique shown: every option with its default, as a recipe that reads back as the defaults."""

from __future__ import annotations

import re

import pytest
import typer.testing

from tenfold.cli.app import app
from tenfold.compress import parse_recipe
from tenfold.compress.registry import technique_class, technique_names
from tenfold.errors import RecipeError
from tenfold.report import technique_page


@pytest.mark.parametrize("name", [name for name in technique_names() if name not in ("narrow", "round")])
def test_what_is_shown_is_the_recipe_of_the_defaults(name: str) -> None:
    step = technique_page(name)[technique_page(name).index("tenfold: 1") :]
    needed = re.findall(r"^  (\w+): …", step, re.MULTILINE)
    assert not needed
    assert parse_recipe(step).steps == (technique_class(name)(),)


def test_values_are_said_as_a_recipe_writes_them() -> None:
    page = technique_page("quantize")
    assert "mode: static" in page
    assert "# static or dynamic" in page
    assert "# a whole number or {type: Average} or null" in page
    assert "rounding: {type: Gptq, " in page


def test_a_recipe_is_shown_as_it_ships_and_another_name_is_refused() -> None:
    assert technique_page("w4a8").endswith("stored_bits: 4")
    with pytest.raises(RecipeError, match="no technique and no recipe 'quantise'; did you mean 'quantize'"):
        technique_page("quantise")
    done = typer.testing.CliRunner().invoke(app, ["techniques", "quantize", "--json", "x.json"])
    assert done.exit_code != 0
