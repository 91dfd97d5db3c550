"""Which module is running, and a network put back exactly as it was after a trial run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class ModuleStack:
    """The modules whose forward is running, innermost last: a context manager around one forward pass.

    After a forward that raised, the stack still names the module where it happened.
    """

    def __init__(self, model: nn.Module) -> None:
        # A module used under several names has the first of them.
        self._names = {id(module): name for name, module in model.named_modules()}
        self._running: list[tuple[nn.Module, tuple[Any, ...]]] = []
        self.calls = 0

    def __enter__(self) -> ModuleStack:
        self._handles = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def layer(self) -> str:
        """The qualified name of the innermost running module that the network owns; "" is the network."""
        for module, _ in reversed(self._running):
            name = self._names.get(id(module))
            if name is not None:
                return name
        return ""

    @property
    def module(self) -> nn.Module | None:
        """The innermost running module."""
        return self._running[-1][0] if self._running else None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The positional arguments of the innermost running module."""
        return self._running[-1][1] if self._running else ()

    def _enter_module(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._running.append((module, arguments))
        self.calls += 1

    def _leave_module(self, module: nn.Module, arguments: Any, output: Any) -> None:
        # A network that caught an exception of its own left modules behind: unwind to this one.
        while self._running and self._running.pop()[0] is not module:
            pass


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back, on leaving, every attribute of every module, and the contents of their lists, dicts and sets.

    A forward pass may replace attributes (old-style weight norm does), keep caches or count its calls.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    containers = [
        (value, value.copy())
        for values in attributes
        for value in values.values()
        if isinstance(value, (list, dict, set, deque))
    ]
    try:
        yield
    finally:
        for module, values in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(values)
        for container, content in containers:
            container.clear()
            container.update(content) if isinstance(container, (dict, set)) else container.extend(content)
