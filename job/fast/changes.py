"""Reversible attribute changes: set attributes temporarily and restore them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Changes:
    """A record of changes that `undo` reverts."""

    def __init__(self) -> None:
        self._back: list[Callable[[], Any]] = []

    def keep(self, owner: Any, *names: str) -> None:
        """Record an object's own attributes as they are now; inherited ones will be inherited again after `undo`."""
        for name in names:
            self._back.append(_back_to(owner, name, vars(owner).get(name, _ABSENT)))

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an object's own attribute, recording its old value."""
        self.keep(owner, name)
        setattr(owner, name, value)

    def also(self, back: Callable[[], Any]) -> None:
        """Record how to revert a change that is not an attribute."""
        self._back.append(back)

    def undo(self) -> None:
        """Revert all changes, the latest first. Calling it again does nothing."""
        while self._back:
            self._back.pop()()


def _back_to(owner: Any, name: str, value: Any) -> Callable[[], Any]:
    if value is _ABSENT:
        return lambda: delattr(owner, name) if name in vars(owner) else None
    return lambda: setattr(owner, name, value)
