"""Numbers, signs and abbreviations of a text in words, as they are said, in the languages that there are tables for."""

from __future__ import annotations

from job.normalize.normalizer import Normalized, Normalizer, Told

__all__ = ["Normalized", "Normalizer", "Told"]
