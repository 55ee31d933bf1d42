"""Choose the text and audio columns by their contents, and refuse if two columns fit about equally well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job.core.errors import BadInput
from job.fetch import guess
from job.fetch.guess import Profile
from job.fetch.sounds_spelled import PHONEMES
from job.fetch.table import Table


@dataclass(frozen=True)
class Chosen:
    """The chosen text columns; the first that has a value in a row wins. `pair` is two with the same sentences."""

    columns: tuple[str, ...]
    pair: tuple[str, str] | None
    why: str


def named_text(
    where: str,
    named: tuple[str, ...],
    held: Mapping[str, Profile],
    others: Sequence[Profile],
    labels: Sequence[Profile] = (),
    rows: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, ...]:
    """Return the columns that are named like a text, without those that contain no sentences.

    `others` are not used for any other field; `labels` are named like a speaker, a language, or an id.

    Raises:
        BadInput: the first column contains no sentences and another one clearly does, whatever its name; it contains
            names of recordings; or two columns contain different sentences.
    """
    first = held.get(named[0])
    nothing = first.says_nothing if first is not None else None
    plain = [p for p in others if p.column != named[0] and p.is_plainly_text]
    if first is not None and not first.is_plainly_text:
        swapped = [p for p in labels if p.filled >= 3 and p.is_plainly_text and p.score > 2 * first.score]
        nothing = nothing or ("labels" if swapped else None)
        plain += swapped if nothing is not None else []
        # Words on their own are read from lists too, and such corpora have notes: only what is called a text counts.
        if nothing is None and first.is_label and not any(len(label.split()) > 1 for label in first.labels):
            nothing = "labels" if any(p.column in named and p.score > 2 * first.score for p in plain) else None
    if first is not None and nothing is not None and plain:
        best = max(plain, key=lambda p: p.score)
        raise BadInput(
            f"{where}: column {named[0]} holds {nothing} ({first.examples}) and column {best.column} sentences "
            f"({best.examples}); set TEXT_COLUMN={best.column}, or TEXT_COLUMN={named[0]} if that is what is said"
        )
    if nothing == PHONEMES and first is not None:
        raise BadInput(
            f"{where}: column {named[0]} holds {nothing} ({first.examples}), not words; name the column of the words "
            f"with TEXT_COLUMN, or set TEXT_COLUMN={named[0]} to train on these"
        )
    if first is not None and first.sound >= 0.9 and first.filled >= 10:
        raise BadInput(
            f"{where}: column {named[0]} holds names of recordings ({first.examples}), not what is said in them; "
            "name the column of the transcripts with TEXT_COLUMN"
        )
    for other in named[1:]:
        if first is not None and other in held and guess.unrelated(rows, named[0], other):
            raise BadInput(
                f"{where}: columns {named[0]} ({first.examples}) and {other} ({held[other].examples}) hold different "
                f"sentences; say which is said with TEXT_COLUMN={named[0]} or TEXT_COLUMN={other}"
            )
    return (named[0], *(c for c in named[1:] if c not in held or held[c].says_nothing is None))


def text_by_values(table: Table, rows: Sequence[Mapping[str, Any]], others: Sequence[Profile]) -> Chosen:
    """Choose the text by values if no column name identifies it. All other columns must be something else, or labels.

    Raises:
        BadInput: two columns may be the text, or the only candidate may be something else.
    """
    able = sorted((p for p in others if p.says_nothing is None and p.letters > 0), key=lambda p: -p.score)
    if not able:
        return Chosen((), None, "")
    best, rest = able[0], able[1:]
    pair, read = None, ""
    for other in rest:
        found = guess.written_out(rows, *sorted((best.column, other.column), key=table.columns.index))
        if found is not None:
            pair, read = found[:2], found[2]
            rest = [p for p in rest if p is not other]
            break
    unexplained = [p for p in rest if not p.is_label or p.score > 0.5 * best.score]
    silent = [p for p in others if p.says_nothing is not None and not p.is_sound and not p.language]
    if unexplained or (not best.is_plainly_text and (rest or silent or table.header)):
        if table.header and not best.is_plainly_text:
            return Chosen((), None, "")
        listed = " or ".join(f"{p.column} ({p.examples})" for p in [best, *(unexplained or rest or silent)][:3])
        raise BadInput(
            f"{table.where}: the text may be {listed}; say which with TEXT_COLUMN={best.column}, for example"
        )
    if pair is not None:
        return Chosen(pair, pair, f"the same sentences as {pair[1]}, {read}")
    return Chosen((best.column,), None, f"it holds sentences: {best.examples}")


def audio_by_values(table: Table, others: Sequence[Profile]) -> tuple[tuple[str, ...], str]:
    """Choose the audio column by values if no column name identifies it: of several, one whose files exist.

    Raises:
        BadInput: two columns contain names of recordings.
    """
    sound = [p for p in others if p.is_sound]
    why = "it holds names of recordings"
    if table.header:
        here = [p for p in sound if any(guess.is_file(label, table.folders) for label in p.labels[:20])]
        sound = here or sound  # of none: rows then say what is not here
    if not sound:
        sound = [p for p in others if p.names >= guess.MOSTLY]
        why = "it holds names of recordings, without their ending"
    if not sound and not table.header:
        sound = [p for p in others if p.codes >= 0.9 and p.distinct >= 0.9 and p.numbers < guess.MOSTLY][:1]
        why = "it holds ids, as of recordings"
    if not sound:
        return (), ""
    best = max(sound, key=lambda p: p.distinct)
    alike = [p for p in sound if p.distinct > 0.5 * best.distinct]
    if len(alike) > 1:
        listed = " or ".join(f"{p.column} ({p.examples})" for p in alike[:3])
        raise BadInput(
            f"{table.where}: the audio may be {listed}; say which with AUDIO_COLUMN={alike[0].column}, for example"
        )
    return (best.column,), why
