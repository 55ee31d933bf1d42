"""How a variable is declared."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field

#: What a failed check does.
Switch = Literal["fail", "warn", "off"]


def var(default: Any, about: str, *names: str, free: bool = False, **rules: Any) -> Any:
    """Declare a variable.

    `names` are the canonical name and its aliases where it has any; `free` marks a variable that cannot change a
    stage's result (where to run, how to log), so that changing it does not redo finished work.
    """
    alias = AliasChoices(*names) if names else None
    return Field(default, description=about, validation_alias=alias, json_schema_extra={"free": free}, **rules)
