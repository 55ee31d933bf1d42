"""Allocation of codec embedding rows: which are already in use, and which new speakers and languages get."""

from __future__ import annotations

from typing import Any

from job.core.errors import BadInput
from job.model.loading import by_lookup_key

#: First row of the codec embedding that released checkpoints and the model's own documentation assign to new speakers.
FIRST_SPEAKER_ROW = 3000
#: This many last rows of the codec embedding are never sampled (`suppress_tokens` of `generate`); speakers go there.
SUPPRESSED_ROWS = 1024


def taken_rows(talker: dict[str, Any]) -> set[int]:
    """Collect the codec embedding rows that a talker's config uses: special ids, languages and speakers."""
    special = {v for k, v in talker.items() if k.startswith("codec_") and k.endswith("_id") and isinstance(v, int)}
    languages = set((talker.get("codec_language_id") or {}).values())
    return special | languages | set((talker.get("spk_id") or {}).values())


def speaker_rows(config: dict[str, Any], speakers: list[str], languages: dict[str, int]) -> dict[str, int]:
    """Assign every new speaker an unused row of the codec embedding; speakers of the base model keep theirs.

    Raises:
        BadInput: there are more new speakers than free rows.
    """
    talker = config["talker_config"]
    size = talker["vocab_size"]
    taken = taken_rows(talker) | set(languages.values())
    kept = {name: row for name, row in by_lookup_key(talker.get("spk_id")).items() if name in speakers}
    new = [name for name in speakers if name not in kept]
    preferred = range(FIRST_SPEAKER_ROW, size)
    others = range(max(0, size - SUPPRESSED_ROWS), min(FIRST_SPEAKER_ROW, size))
    free = [row for row in (*preferred, *others) if row not in taken]
    if len(free) < len(new):
        raise BadInput(f"{len(new)} new speakers, but the model has room for {len(free)}; set SPEAKER_COLUMN otherwise")
    return {**kept, **dict(zip(new, free, strict=False))}


def language_rows(config: dict[str, Any], wanted: list[str]) -> dict[str, int]:
    """Assign a free row of the codec embedding to every language in the data that the model lacks.

    Raises:
        BadInput: there are more new languages than free rows.
    """
    talker = config["talker_config"]
    known = talker.get("codec_language_id") or {}
    new = sorted({name for name in wanted if name != "auto" and name not in known})
    taken = taken_rows(talker)
    # Above the codes and special ids, and among the rows that generation never samples.
    start = max([talker["vocab_size"] - SUPPRESSED_ROWS, *(row + 1 for row in known.values())])
    first, end = max(0, talker["vocab_size"] - SUPPRESSED_ROWS), talker["vocab_size"]
    # Between the known languages and the speakers if there is room, otherwise anywhere.
    candidates = dict.fromkeys([*range(start, min(FIRST_SPEAKER_ROW, end)), *range(first, end)])
    free = [row for row in candidates if row not in taken]
    if len(free) < len(new):
        raise BadInput(f"the data has {len(new)} languages that the base lacks, and there is room for {len(free)}")
    return dict(zip(new, free, strict=False))
