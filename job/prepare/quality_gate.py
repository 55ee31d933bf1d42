"""The quality gate: refuse data from which no voice can be trained, before any money is spent on training."""

from __future__ import annotations

from collections.abc import Sequence

from job.core import console
from job.core.errors import DataRefused
from job.prepare.main_speaker import REASON as OTHER_SPEAKER
from job.prepare.quality import Tally

#: Share of rows with the codes of another row above which the data counts as broken.
DUPLICATE_SHARE = 0.5
#: Share of rejected rows above which the source counts as broken.
REJECTED_SHARE = 0.5


def refuse_nothing_left(tally: Tally) -> None:
    """Stop when no training row is left; no setting overrides this.

    Raises:
        DataRefused: with the reasons for which the rows were rejected.
    """
    if not tally.validation.all():
        return
    reasons = tally.rejected_by_reason()
    if not tally.refused:
        raise DataRefused("no training rows at all: check the source of the data (TRAIN_JSONL, DATA_DIR, DATASET_NAME)")
    if set(reasons) == {"silent"}:
        raise DataRefused(f"all {tally.refused} recordings are silent (under -60 dBFS): check how they were exported")
    first = tally.first_refused[0]
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    why = "; ".join(tally.mispaired) or f"the first: {first.get('detail') or first.get('reason')}"
    raise DataRefused(f"no training row is left of {tally.refused}: {listed}; {why}; see data/rejected.jsonl")


def problems(tally: Tally) -> list[str]:
    """List what is wrong with the data as a whole: one line each, with figures and what to do."""
    found = []
    kept, duplicates = tally.kept, tally.duplicates
    if not tally.distinct_frames and int(tally["frames"].sum()) > 1:
        found.append(
            f"every frame of all {kept} rows has the same codes: the speech tokenizer's weights or the audio are "
            "broken; check TOKENIZER_PATH and listen to a recording"
        )
    elif kept >= 2 and duplicates == kept - 1:
        found.append(f"all {kept} rows share the same codes: the rows name the same recording; check the audio column")
    elif kept >= 2 and duplicates / kept > DUPLICATE_SHARE:
        found.append(
            f"{duplicates} of {kept} rows repeat the codes of another row (over {DUPLICATE_SHARE:.0%}): check that "
            "each row names its own recording"
        )
    found += tally.mispaired
    reasons = tally.rejected_by_reason()
    reasons.pop(OTHER_SPEAKER, None)  # left out because KEEP_SPEAKERS asks for it: nothing is wrong with them
    rejected = sum(reasons.values())
    total = kept + rejected
    if total and rejected / total > REJECTED_SHARE:
        listed = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        found.append(
            f"{rejected} of {total} rows are unusable ({listed}): see data/rejected.jsonl and repair the source"
        )
    return found


def enforce(found: Sequence[str], gate: str) -> None:
    """Act on the problems as QUALITY_GATE says: fail, warn, or do nothing.

    Raises:
        DataRefused: there is a problem and the gate is `fail`.
    """
    if gate == "off":
        return
    if gate == "fail" and found:
        raise DataRefused("; ".join(found) + " (QUALITY_GATE=warn continues regardless)")
    for problem in found:
        console.warn("prepare", problem)
