"""Reading YAML that users write: plain scalars, lists and mappings alone, and errors that name the line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tenfold.coding import CodingError, Keys, short
from tenfold.errors import RecipeError

LARGEST_FILE = 1 << 20  # bytes; a recipe is a page
DEEPEST = 50  # collections within collections

T = TypeVar("T")


def read_yaml(path: Path | str, build: Callable[[Any], T]) -> T:
    """What `build` makes of the plain data in a file. A `RecipeError` begins with the file, and the line if known."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RecipeError(f"{path} is larger than {LARGEST_FILE} bytes: that is no recipe")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not text in UTF-8") from error
    return parse_yaml(text, build, str(path))


def parse_yaml(text: str, build: Callable[[Any], T], source: str) -> T:
    """What `build` makes of the plain data in a text; `source` begins the message of any `RecipeError`.

    `build` raises `CodingError` for a value that does not fit; the line of its key goes into the message.
    """
    lines: dict[Keys, int] = {}
    try:
        return build(_plain(text, lines))
    except CodingError as error:
        keys = error.keys
        while keys and keys not in lines:
            keys = keys[:-1]
        line = f":{lines[keys]}" if keys in lines else ""
        raise RecipeError(f"{source}{line}: {error.text}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error


def _plain(text: str, lines: dict[Keys, int]) -> Any:
    """The YAML text as plain data; `lines` receives the line of every key and list entry."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise CodingError((), f"it is nested more than {DEEPEST} deep: that is no recipe")
        # Aliases could make a small file an enormous value; nothing in a recipe needs them.
        if isinstance(event, yaml.AliasEvent):
            raise CodingError((), f"aliases (*{event.anchor}) are not allowed")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _value(loader, node, (), lines)
    finally:
        loader.dispose()


def _value(loader: yaml.SafeLoader, node: yaml.Node, keys: Keys, lines: dict[Keys, int]) -> Any:
    lines.setdefault(keys, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, child, (*keys, index), lines) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        made: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise CodingError(keys, f"line {line}: a key must be a word")
            key = str(key_node.value)
            lines[(*keys, key)] = line
            if key in made:
                raise CodingError((*keys, key), f"the key {short(key)} comes twice")
            made[key] = _value(loader, value_node, (*keys, key), lines)
        return made
    try:
        # Deep, so that a scalar is whole when it returns; SafeLoader knows no tag that could run anything.
        return loader.construct_object(node, deep=True)
    except (ValueError, OverflowError) as error:
        raise CodingError(keys, f"{short(node.value)} cannot be read: {error}") from error
