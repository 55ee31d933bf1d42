"""Text normalization: spell out numbers, symbols and abbreviations as spoken, for languages that have rules."""

from __future__ import annotations

from job.normalize.normalizer import Normalized, Normalizer, Told

__all__ = ["Normalized", "Normalizer", "Told"]
