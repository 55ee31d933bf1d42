"""What prepare says in the log of the rows and the dataset it has made."""

from __future__ import annotations

from typing import Any

from job.config.settings import Settings
from job.core import console
from job.prepare.manifest_rows import speaker_key
from job.prepare.quality import Tally
from job.prepare.row_encoder import STAGE


def report_rows(tally: Tally) -> None:
    """Log one line per reason, so that no row is rejected silently."""
    for reason, count in tally.rejected_by_reason().items():
        console.warn(STAGE, f"{count} rows left out: {reason} (data/rejected.jsonl)")
    for warning, (count, ids) in sorted(tally.warnings.items()):
        console.warn(STAGE, f"{count} rows kept with a warning: {warning}, for example {ids[0]}")


def announce(summary: dict[str, Any], tally: Tally, settings: Settings) -> dict[str, Any]:
    """Log what was prepared; returns the counts for the state file."""
    unknown = [name for name, entry in summary["languages"].items() if not entry["known"]]
    if unknown:
        console.say(STAGE, f"the base model does not know {', '.join(unknown)}: each gets a row of its own in training")
    name = speaker_key(settings.speaker_name)
    if "speaker_name" in settings.model_fields_set and name not in summary["speakers"]:
        voices = ", ".join(list(summary["speakers"])[:5])
        unused = f"SPEAKER_NAME={settings.speaker_name} is not used"
        console.warn(STAGE, f"{unused}: every row names its speaker, and the voices are {voices}")
    for name, entry in summary["speakers"].items():
        console.say(STAGE, f"speaker {name}: x-vector from {entry['reference']} ({entry['strategy']})")
    hours = sum(split["seconds"] for split in summary["splits"].values()) / 3600
    rows = ", ".join(f"{split['rows']} {name} rows" for name, split in summary["splits"].items())
    console.say(STAGE, f"{rows}, {hours:.2f} h, {len(summary['speakers'])} speakers")
    return {
        **{f"{name}_rows": split["rows"] for name, split in summary["splits"].items()},
        "hours": round(hours, 4),
        "speakers": len(summary["speakers"]),
        "rejected": tally.refused,
        "warnings": {name: count for name, (count, _) in sorted(tally.warnings.items())},
    }
