"""The recipes that ship, by name: the files of `recipes/`, each beginning with a comment that says what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tenfold.compress.recipe import Recipe, parse_recipe, read_recipe
from tenfold.errors import RecipeError
from tenfold.naming import nearest

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe that ships: its name, what it is for in a sentence, and the text of its file."""

    name: str
    text: str
    source: str

    @property
    def recipe(self) -> Recipe:
        """The recipe itself."""
        return parse_recipe(self.source, self.name)


def named_recipes() -> tuple[NamedRecipe, ...]:
    """Those that ship, by name in alphabetical order."""
    folder = files("tenfold.compress") / "recipes"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(SUFFIXES)]
    made = []
    for entry in sorted(found, key=lambda entry: entry.name.rpartition(".")[0]):
        source = entry.read_text(encoding="utf-8")
        comment = []
        for line in source.splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.lstrip("# ").strip())
        made.append(NamedRecipe(entry.name.rpartition(".")[0], " ".join(comment), source))
    return tuple(made)


def find_recipe(spec: Path | str) -> Recipe:
    """The recipe of this name, or in the file at this path.

    A word without a suffix and a slash is a name, unless a file is called so. Raises `RecipeError` with the nearest
    names where there is neither.
    """
    if not str(spec):
        raise RecipeError("the name of a recipe is empty: give one of `tenfold techniques`, or a file")
    path = Path(spec)
    if path.suffix in SUFFIXES or path.exists() or len(path.parts) > 1:
        return read_recipe(path)
    shipped = {entry.name: entry for entry in named_recipes()}
    if str(spec) in shipped:
        return shipped[str(spec)].recipe
    raise RecipeError(f"no recipe {str(spec)!r}, neither by name nor as a file{nearest(str(spec), shipped)}")
