"""The error for a rejected recording, shared by everything that reads recordings."""

from __future__ import annotations


class Unusable(Exception):
    """Raised for a recording that cannot be used. `reason` is a short category, `detail` a one-line message."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[Unusable], tuple[str, str]]:
        """Pickle both arguments, and not the message alone."""
        return Unusable, (self.reason, self.detail)
