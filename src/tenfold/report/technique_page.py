"""What one technique does and takes, or one shipped recipe, as text for the terminal."""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

import yaml

from tenfold.coding import WORDS, encode
from tenfold.compress import named_recipes
from tenfold.compress.registry import technique_class, technique_names
from tenfold.errors import RecipeError
from tenfold.naming import nearest

WIDE = 30  # characters, to which what may be given is pushed
PLAIN = WORDS | {float: "a number", type(None): "null"}


def technique_page(name: str) -> str:
    """The docstring of a technique and its step of a recipe with every default, or the file of a shipped recipe.

    Raises `RecipeError` with the nearest names where there is neither.
    """
    recipes = {recipe.name: recipe for recipe in named_recipes()}
    if name in recipes:
        return recipes[name].source.rstrip()
    known = technique_names()
    if name not in known:
        raise RecipeError(f"no technique and no recipe {name!r}{nearest(name, [*known, *recipes])}")
    cls = technique_class(name)
    hints = typing.get_type_hints(cls)
    step = [f"- technique: {name}", *(_line(each, hints[each.name]) for each in fields(cls) if each.init)]
    text = "As a step of a recipe, with what holds where nothing is given, and what may be given:"
    return "\n".join([inspect.getdoc(cls) or "", "", text, "", "tenfold: 1", "steps:", *step])


def _line(each: Field[Any], hint: Any) -> str:
    """`  name: default  # what may be given`, the default as a recipe writes it; "…" where one must be given."""
    default = each.default_factory() if each.default_factory is not MISSING else each.default
    if default is MISSING:
        value = "…"
    else:
        dumped = yaml.safe_dump(encode(default), default_flow_style=True, width=10**6, sort_keys=False)
        value = dumped.split("\n")[0]
    return f"{f'  {each.name}: {value}':<{WIDE}}  # {_said(hint)}"


def _said(hint: Any) -> str:
    """The values of a type hint, as a recipe writes them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_said, arguments))
    if origin is typing.Literal:
        return " or ".join(str(encode(each)) for each in arguments)
    if origin in (tuple, list, frozenset):
        return f"a list of {_said(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a mapping of names to {_said(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(str(encode(each)) for each in hint)
    return PLAIN.get(hint, f"{{type: {getattr(hint, '__name__', hint)}}}")
