"""Techniques: each turns a network into a cheaper one. Recipes, saving and loading."""

from tenfold.compress.packing import PackReport, pack, unpack
from tenfold.compress.recipe import (
    Recipe,
    Step,
    apply_recipe,
    parse_recipe,
    preflight_recipe,
    read_recipe,
    recipe_from,
)
from tenfold.compress.registry import (
    register,
    technique_from,
    technique_name,
    technique_names,
    technique_to_dict,
)
from tenfold.compress.results import known_results
from tenfold.compress.saved import is_saved, load, load_network, save
from tenfold.compress.shelf import NamedRecipe, find_recipe, named_recipes
from tenfold.compress.structure import Structure, read_structure
from tenfold.compress.technique import Applied, Problem, Run, Technique

__all__ = [
    "Applied",
    "NamedRecipe",
    "PackReport",
    "Problem",
    "Recipe",
    "Run",
    "Step",
    "Structure",
    "Technique",
    "apply_recipe",
    "find_recipe",
    "is_saved",
    "known_results",
    "load",
    "load_network",
    "named_recipes",
    "pack",
    "parse_recipe",
    "preflight_recipe",
    "read_recipe",
    "read_structure",
    "recipe_from",
    "register",
    "save",
    "technique_from",
    "technique_name",
    "technique_names",
    "technique_to_dict",
    "unpack",
]
