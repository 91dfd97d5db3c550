"""The recipes that the user wants on the frontier: named, checked before any work, and known to the run's folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenfold.compress import Recipe, Run, preflight_recipe, technique_name
from tenfold.compress.shelf import SUFFIXES
from tenfold.compress.technique import Json
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import RecipeError
from tenfold.search.point import BY_RECIPE
from tenfold.search.store import Store

Recipes = Sequence[Recipe] | Mapping[str, Recipe]  # by name or file, or nameless
KNOWN = "recipes"  # the step that lists all that were ever asked for in a folder
LATE = "late-"  # begins the names of steps that say why there was no time for a recipe …
SHORTENED = "shortened-"  # … or not for all of its healing
LONGEST_ID = 40  # letters of a name that go into a point's


@dataclass(frozen=True)
class Asked:
    """A recipe that is to be a point: the point's id, the recipe's name ("" where it has none), the recipe."""

    id: str
    name: str
    recipe: Recipe


def named(recipes: Recipes) -> list[tuple[str, Recipe]]:
    """Each recipe with its name, "" for those of a list; `RecipeError` for what is none, or has no step."""
    if not isinstance(recipes, Sequence | Mapping) or isinstance(recipes, str):
        raise RecipeError(
            f"recipes are a list of Recipe, or a dict of them by name, not a {type(recipes).__name__}"
        )
    found = list(recipes.items()) if isinstance(recipes, Mapping) else [("", recipe) for recipe in recipes]
    for number, (name, recipe) in enumerate(found, 1):
        if not isinstance(name, str):
            raise RecipeError(f"recipe {number} has the name {name!r}: give a text")
        if not isinstance(recipe, Recipe):
            raise RecipeError(
                f"recipe {name or number} is {recipe!r}, not a Recipe: tenfold.compress.find_recipe gives that of a "
                "name or a file"
            )
        if not recipe.steps:
            raise RecipeError(
                f"recipe {name or number} has no step: the untouched network is measured without it"
            )
    return found


def check_recipes(recipes: Sequence[tuple[str, Recipe]], task: Task, device: Device) -> None:
    """Raise a `RecipeError` that names recipe and step where one does not go with the network. Reads no data."""
    problems = [
        f"recipe {name or number}: {problem}"
        for number, (name, recipe) in enumerate(recipes, 1)
        for problem in preflight_recipe(recipe, task, Run(device=device))
    ]
    if problems:
        raise RecipeError("; ".join(problems))


def enrolled(store: Store, recipes: Sequence[tuple[str, Recipe]]) -> tuple[Asked, ...]:
    """The recipes under their ids in this folder, which keeps those it knows: equal recipes are one, under its first name.

    So a run goes on with recipes that are added later, and one whose file has changed is another recipe.
    """
    if not recipes:
        return ()
    with store.waiting_for(KNOWN):  # no two processes may give one number to different recipes
        known: list[Json] = store.step(KNOWN) or []
        before, asked = len(known), dict[str, Asked]()
        for name, recipe in recipes:
            data = json.loads(json.dumps(recipe.to_dict()))
            entry = next((entry for entry in known if entry["recipe"] == data), None)
            if entry is None:
                entry = {"id": id_of(len(known) + 1, name, recipe), "name": name, "recipe": data}
                known.append(entry)
            asked[entry["id"]] = Asked(entry["id"], entry["name"], recipe)
        if len(known) > before:
            store.finish_step(KNOWN, known)
    return tuple(asked.values())


def id_of(number: int, name: str, recipe: Recipe) -> str:
    """Safe as a folder's name: the number, and what can be kept of the name or else of the techniques."""
    words = (titled(name), "-".join(map(technique_name, recipe.steps)))
    return f"{BY_RECIPE}{number}-{next(filter(None, map(slug, words)), 'recipe')}"


def titled(name: str) -> str:
    """A recipe's name, of a file without folder and suffix."""
    path = Path(name)
    return path.stem if path.suffix in SUFFIXES else path.name


def slug(text: str) -> str:
    """Small ASCII letters and digits, a dash for what stands between: "Deep Compression" -> "deep-compression"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST_ID].rstrip("-")
