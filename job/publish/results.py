"""The judges' figures of the test speech for the model card's `model-index`, with the texts they were measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.model import card_facts

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

#: Figure that says how good the voice is -> the judge (its name in stats.json) that gives it.
JUDGED_BY = {
    "mos": "mos",
    "similarity": "similarity",
    "similarity_independent": "independent similarity",
    "wer": "intelligibility",
    "cer": "intelligibility",
}


def evaluations(settings: Settings, stats: Mapping[str, Any], source: str) -> list[EvalResult]:
    """One result for each figure that was measured.

    Args:
        stats: `samples/stats.json`.
        source: its address in the repo, where every text and its figures can be read.
    """
    from huggingface_hub import EvalResult

    samples = stats.get("samples") or []
    judges = stats.get("judges") or {}
    origins = sorted({str(one["origin"]) for one in samples if one.get("origin")})
    about = f" ({', '.join(origins)})" if origins else ""
    named = card_facts.training_datasets(settings) if origins and set(origins) <= {"validation", "train"} else []
    from_data = named[0] if len(named) == 1 else None
    return [
        EvalResult(
            task_type="text-to-speech",
            task_name="Text-to-speech",
            dataset_type=from_data or "test-texts",
            dataset_name=f"{len(samples)} test texts{about}",
            dataset_split=origins[0] if from_data and len(origins) == 1 else None,
            dataset_revision=settings.dataset_revision if from_data else None,
            metric_type=row["figure"],
            metric_name=str(row["label"]),
            metric_value=round(float(row["voice"]), 4),
            metric_args={"judge": str(judges[judge]["by"])} if judge in judges else None,
            source_name="Test speech of the run",
            source_url=source,
        )
        for row in stats.get("comparison") or []
        if (judge := JUDGED_BY.get(row.get("figure"))) and row.get("voice") is not None
    ]
