"""Attributes that are given other values for a time, and put back as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Changes:
    """What has been changed, so that `undo` can take it back."""

    def __init__(self) -> None:
        self._back: list[Callable[[], Any]] = []

    def keep(self, owner: Any, *names: str) -> None:
        """Note an object's own attributes as they are now; what it has from its class alone is found there again."""
        for name in names:
            self._back.append(_back_to(owner, name, vars(owner).get(name, _ABSENT)))

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Give an object's own attribute another value."""
        self.keep(owner, name)
        setattr(owner, name, value)

    def also(self, back: Callable[[], Any]) -> None:
        """Note how to take back what is no attribute."""
        self._back.append(back)

    def undo(self) -> None:
        """Take back all that was changed, the last change first. Once more, it does nothing."""
        while self._back:
            self._back.pop()()


def _back_to(owner: Any, name: str, value: Any) -> Callable[[], Any]:
    if value is _ABSENT:
        return lambda: delattr(owner, name) if name in vars(owner) else None
    return lambda: setattr(owner, name, value)
