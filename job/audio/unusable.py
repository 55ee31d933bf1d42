"""The error for a recording that is left out, shared by everything that reads recordings."""

from __future__ import annotations


class Unusable(Exception):
    """A recording that cannot be used. `reason` is a short category, `detail` one line for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
