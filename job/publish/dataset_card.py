"""The data card (README.md) of a published dataset: metadata for the Hub, and where the data is from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from job.config.settings import Settings
from job.dataset import prepared
from job.model import card_facts
from job.publish.card import one_cell


def render(settings: Settings, data: Sequence[str]) -> str:
    """The complete README.md of a dataset with these Parquet files."""
    from huggingface_hub import DatasetCardData

    summary = card_facts.summary(settings)
    splits = {name: split for name, split in summary["splits"].items() if split.get("rows")}
    own = settings.license.strip().lower() == "other"
    licence: dict[str, Any] = {}
    if own:
        licence = {"license_name": settings.license_name, "license_link": settings.license_link}
    metadata = DatasetCardData(
        license=settings.license.strip().lower(),
        language=card_facts.language_codes(settings) or None,
        task_categories=["text-to-speech"],
        tags=["qwen3-tts", "audio-codes"],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": name, "path": f"data/{name}-*.parquet"}
                    for name in prepared.SPLITS
                    if any(one.startswith(f"data/{name}-") for one in data)
                ],
            }
        ],
        **licence,
    )
    named = card_facts.training_datasets(settings)
    where = ", ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in named)
    own_data = card_facts.has_own_data(settings)
    unnamed = "recordings of whoever publishes this" if own_data else "the clips that come with qwen3-tts-job"
    hours = sum(float(split["seconds"]) for split in splits.values()) / 3600
    languages = ", ".join(card_facts.language_names(settings)) or "not named"
    speakers = [f"| `{one_cell(name)}` | {one.get('rows', '')} |" for name, one in summary["speakers"].items()]
    base = card_facts.base_model(settings) or "the built-in demo model"
    consent = settings.voice_consent or "Not stated."
    sizes = [f"| {name} | {split['rows']} | {float(split['seconds']) / 3600:.2f} |" for name, split in splits.items()]
    return f"""---
{metadata.to_yaml()}
---

# Speech as codes, {hours:.2f} hours

Texts, and the recordings of them as frames of {summary["books"]} codes, {summary["frame_rate"]:g} frames a second, by
the codec of {base}. There is no recording in it, but the codec decodes the codes to one that sounds nearly the same.

| split | rows | hours |
| --- | --- | --- |
{chr(10).join(sizes)}

- **Languages**: {languages}
- **Licence**: {settings.license}{f" ({settings.license_name})" if own and settings.license_name else ""}
- **Source**: {where or unnamed}
- **Consent of the speakers**: {" ".join(consent.split())}

| speaker | rows |
| --- | --- |
{chr(10).join(speakers)}

## What is in it

`data/`: a row has `id`, `text`, `speaker`, `language`, `instruct`, `seconds` and `audio_codes`, a list of frames. Rows
that quality checks left out are not here. `{prepared.VECTORS}`: each speaker's x-vector by the speaker encoder of
{base}.

To train on it, set `DATASET_NAME` to the name of this repository; nothing is encoded again.
"""
