"""The table of rules: what each ATen operator ties together.

A rule takes the walk and a node and returns the node's `Value` (a list where the node has several results).
Rules of layers, products and norms are in `layers`, those of other operators in `functions`; operators that only
move data need none, because `movement` runs them on the atoms. A new operator is one function with `@rule`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.fx import Node

if TYPE_CHECKING:
    from tenfold.compress.prune.walk import Walk

Rule = Callable[["Walk", Node], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register
