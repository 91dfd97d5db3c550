"""Techniques as plain data and back: frozen dataclasses of numbers, enums, tuples and nested dataclasses.

An enum is written by its value, a tuple as a list, a nested dataclass as its fields and its type's name under
`type`. Reading goes by the type hints alone: a name in a file can only pick among the types that the hint allows.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from tenfold.errors import RecipeError
from tenfold.naming import described, nearest

Keys = tuple[str | int, ...]
WORDS = {bool: "true or false", int: "a whole number", str: "text"}  # plain types, as messages call them

# YAML 1.1 reads "1e-3" as text, for want of a dot; people mean the number.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class CodingError(RecipeError):
    """A value that does not fit; `keys` is the way to it from the outermost mapping."""

    def __init__(self, keys: Keys, text: str) -> None:
        super().__init__(text)
        self.keys, self.text = keys, text


def encode(value: Any) -> Any:
    """`value` as JSON: dataclasses with `type`, enums by value, tuples as lists. `TypeError` for anything else."""
    if isinstance(value, enum.Enum):
        return encode(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no place in a recipe")
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **encode_fields(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(encode(item) for item in value)
    raise TypeError(f"a {type(value).__name__} cannot be written into a recipe")


def encode_fields(instance: Any) -> dict[str, Any]:
    """The constructor's arguments of a dataclass, encoded."""
    return {f.name: encode(getattr(instance, f.name)) for f in fields(instance) if f.init}


def decode_fields(cls: type, values: Mapping[str, Any], keys: Keys = (), name: str | None = None) -> Any:
    """An instance of the dataclass `cls` from its encoded arguments; `CodingError` names the key at fault."""
    label = name or cls.__name__
    hints = typing.get_type_hints(cls)
    arguments = {f.name: f for f in fields(cls) if f.init}
    for key in values:
        if key not in arguments:
            raise CodingError((*keys, key), f"{label} has no key {key!r}{nearest(str(key), arguments)}")
    for key, argument in arguments.items():
        if key not in values and argument.default is MISSING and argument.default_factory is MISSING:
            raise CodingError(keys, f"{label} needs the key {key!r}")
    decoded = {
        key: decode(hints[key], value, (*keys, key), f"{label}: {key}") for key, value in values.items()
    }
    try:
        return cls(**decoded)
    except ValueError as error:
        text = (str(error).splitlines() or ["a value is out of range"])[0].removeprefix(f"{cls.__name__}: ")
        raise CodingError((*keys, *_key_named_in(text, values)), f"{label}: {text}") from error
    except (TypeError, ArithmeticError) as error:
        raise CodingError(
            (*keys, *_key_named_in(str(error), values)), f"{label}: {described(error)}"
        ) from error


def decode(hint: Any, value: Any, keys: Keys, name: str) -> Any:
    """`value` as the type that `hint` says; `name` begins the message of the `CodingError` where it does not fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, keys, name)
    if origin is typing.Annotated:
        return decode(arguments[0], value, keys, name)
    if origin is typing.Literal:
        if not any(value == option and type(value) is type(option) for option in arguments):
            raise CodingError(
                keys, f"{name} must be one of {', '.join(map(repr, arguments))}, not {short(value)}"
            )
        return value
    if origin in (tuple, list, frozenset, Sequence):
        return _decode_sequence(origin, arguments, value, keys, name)
    if origin in (dict, Mapping):
        return _decode_mapping(arguments, value, keys, name)
    if hint is type(None):
        if value is not None:
            raise CodingError(keys, f"{name} must be null, not {short(value)}")
        return None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _decode_enum(hint, value, keys, name)
    if hint in (bool, int, float, str):
        return _decode_plain(hint, value, keys, name)
    if isinstance(hint, type):
        return _decode_dataclass(hint, value, keys, name)
    raise TypeError(f"{name}: the type {hint} cannot be read from a recipe")


def _decode_plain(hint: type, value: Any, keys: Keys, name: str) -> Any:
    if hint is float:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            value = float(value)
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise CodingError(keys, f"{name} must be a finite number, not {short(value)}")
    if type(value) is not hint:
        raise CodingError(keys, f"{name} must be {WORDS[hint]}, not {short(value)}")
    return value


def _decode_enum(hint: type[enum.Enum], value: Any, keys: Keys, name: str) -> enum.Enum:
    for member in hint:
        if encode(member) == value and type(encode(member)) is type(value):
            return member
    options = [str(encode(member)) for member in hint]
    close = difflib.get_close_matches(str(value), options, n=1)
    hint_text = f"; did you mean {close[0]!r}?" if close else ""
    raise CodingError(keys, f"{name} must be one of {', '.join(options)}, not {short(value)}{hint_text}")


def _decode_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, keys: Keys, name: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise CodingError(keys, f"{name} must be a list, not {short(value)}")
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise CodingError(keys, f"{name} must have {len(arguments)} entries, not {len(value)}")
        hints: Sequence[Any] = arguments
    else:
        hints = [arguments[0]] * len(value)
    items = [
        decode(hint, item, (*keys, index), f"{name}[{index}]")
        for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    ]
    if origin is frozenset:
        return frozenset(items)
    return items if origin is list else tuple(items)


def _decode_mapping(arguments: tuple[Any, ...], value: Any, keys: Keys, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise CodingError(keys, f"{name} must be a mapping with text keys, not {short(value)}")
    return {key: decode(arguments[1], item, (*keys, key), f"{name}.{key}") for key, item in value.items()}


def _decode_union(options: tuple[Any, ...], value: Any, keys: Keys, name: str) -> Any:
    """The first option that fits; where none does, the error of the one most like the value."""
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    options = tuple(sorted(options, key=lambda option: not _alike(option, value)))
    if isinstance(value, Mapping) and "type" in value:
        choices = {n for o in options if isinstance(o, type) for n in _dataclasses(o)}
        if choices and value["type"] not in choices:
            text = f"{name} has no type {short(value['type'])}{nearest(str(value['type']), choices)}"
            raise CodingError((*keys, "type"), text)
        named = [o for o in options if isinstance(o, type) and value["type"] in _dataclasses(o)]
        options = tuple(named) or options
    kinds = [o for o in options if isinstance(o, type) and _dataclasses(o)]
    if len(kinds) == len(options) > 1 and not isinstance(value, Mapping):
        raise _no_mapping([n for o in kinds for n in _dataclasses(o)], value, keys, name)
    first: CodingError | None = None
    for option in options:
        try:
            return decode(option, value, keys, name)
        except CodingError as error:
            first = first or error
    assert first is not None
    if not isinstance(value, Mapping):
        raise CodingError(first.keys, first.text + _holding(value, kinds))
    raise first


def _holding(value: Any, kinds: Sequence[type]) -> str:
    """How a mapping of one of these dataclasses is written around the value, where one takes it as its first field."""
    for name, cls in ((name, cls) for kind in kinds for name, cls in _dataclasses(kind).items()):
        first = next((f.name for f in fields(cls) if f.init), None)
        if first is None:
            continue
        try:
            decode_fields(cls, {first: value})
        except CodingError:
            continue
        return f"; or write {{type: {name}, {first}: {short(value)}}}"
    return ""


def _alike(hint: Any, value: Any) -> bool:
    """Whether values of this hint are written in the form that `value` has: a list, a mapping, or a scalar."""
    origin = typing.get_origin(hint)
    if isinstance(value, (list, tuple)):
        return origin in (tuple, list, frozenset, Sequence)
    is_type = isinstance(hint, type)
    if isinstance(value, Mapping):
        return origin in (dict, Mapping) or (is_type and bool(_dataclasses(hint)))
    if isinstance(value, str):
        return origin is typing.Literal or hint is str or (is_type and issubclass(hint, enum.Enum))
    return hint in (bool, int, float)


def _decode_dataclass(hint: type, value: Any, keys: Keys, name: str) -> Any:
    choices = _dataclasses(hint)
    if not choices:
        raise TypeError(f"{name}: the type {hint} cannot be read from a recipe")
    if not isinstance(value, Mapping):
        raise _no_mapping(list(choices), value, keys, name)
    given = value.get("type", hint.__name__ if hint.__name__ in choices else None)
    if given is None:
        raise CodingError(keys, f"{name} needs the key 'type': one of {', '.join(choices)}")
    if not isinstance(given, str) or given not in choices:
        raise CodingError((*keys, "type"), f"{name} has no type {short(given)}{nearest(str(given), choices)}")
    rest = {key: item for key, item in value.items() if key != "type"}
    return decode_fields(choices[given], rest, keys, f"{name} ({given})")


def _no_mapping(choices: list[str], value: Any, keys: Keys, name: str) -> CodingError:
    meant = next((choice for choice in choices if choice.lower() == str(value).lower()), None)
    hint = f": write {{type: {meant}}}" if meant else ""
    return CodingError(keys, f"{name} must be a mapping of {' or '.join(choices)}, not {short(value)}{hint}")


def _dataclasses(hint: type) -> dict[str, type]:
    """The dataclasses that a hint allows, by name: the class itself and what inherits from it."""
    found = {hint.__name__: hint} if is_dataclass(hint) else {}
    children: list[type] = [] if hint is object else hint.__subclasses__()
    for child in children:
        found |= _dataclasses(child)
    return found


def _key_named_in(text: str, values: Mapping[str, Any]) -> Keys:
    """The key that an error's text speaks of, to find its line; none if it is not clear."""
    named = [key for key in values if isinstance(key, str) and re.search(rf"\b{re.escape(key)}\b", text)]
    return (named[0],) if len(named) == 1 else ()


def short(value: Any) -> str:
    """A value from a file as it is quoted in a message: escaped, and cut to 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
