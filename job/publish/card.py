"""The model card (README.md) of the published model: metadata for the Hub, text for people.

It can be rendered before training, to check it, and after. `huggingface_hub`'s `ModelCard` renders it from
`card.md.jinja`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from job.config.names import NO_LANGUAGE
from job.config.settings import Settings
from job.model import card_facts
from job.modes import mode_of
from job.publish import edited, results

TEMPLATE = Path(__file__).parent / "card.md.jinja"
#: Samples that the card has a player for.
MOST_PLAYERS = 6

#: Characters in a name that would end a code span or a table cell.
_UNSAFE = re.compile(r"[`|<>\r\n]")


def front_matter(settings: Settings) -> dict[str, Any]:
    """The card's metadata; keys without a value are omitted, so that nothing is null or empty.

    Raises:
        BadInput: BASE_MODEL_ID is not a Hub id.
    """
    base = card_facts.base_model(settings)
    adapter_only = _adapter_only(settings)
    datasets = card_facts.training_datasets(settings)
    metadata: dict[str, Any] = {
        "license": settings.license.strip().lower(),
        "license_name": settings.license_name if _own_licence(settings) else None,
        "license_link": settings.license_link if _own_licence(settings) else None,
        "language": card_facts.language_codes(settings),
        "library_name": "qwen-tts",
        "pipeline_tag": "text-to-speech",
        "base_model": base,
        "base_model_relation": ("adapter" if adapter_only else "finetune") if base else None,
        "datasets": datasets,
        "tags": ["text-to-speech", "qwen3-tts", "custom-voice", *(["lora"] if mode_of(settings).adapters else [])],
    }
    return {key: value for key, value in metadata.items() if value}


def render(
    settings: Settings,
    heard: Mapping[str, Any] | None = None,
    files_at: str = "",
    checkpoint: Path | None = None,
    branch: str | None = None,
) -> str:
    """The complete README.md.

    Args:
        heard: `samples/stats.json`, once the test speech is published with the model.
        files_at: address of the folder `samples/` in the repo, where the players find the sounds.
        checkpoint: `output/last` for the last checkpoint's card; by default that of `output/best`.
        branch: where a model in the middle of training is, if this is the card of one.

    Raises:
        BadInput: BASE_MODEL_ID is not a Hub id.
    """
    from huggingface_hub import ModelCard, ModelCardData

    metadata = front_matter(settings)
    summary = card_facts.summary(settings)
    splits = {name: split for name, split in (summary.get("splits") or {}).items() if split.get("rows")}
    best = (settings.hf_repo_id or "").strip()
    checkpoint = checkpoint or settings.paths.best
    is_last = checkpoint == settings.paths.last
    repo = (settings.hf_last_repo_id or "").strip() if is_last else best
    speakers = card_facts.speakers(settings)
    title = one_cell(repo.split("/")[-1] or f"Qwen3-TTS voice: {', '.join(speakers[:3])}")
    data = ModelCardData(**metadata)
    if heard and (judged := results.evaluations(settings, heard, f"{files_at}/stats.json")):
        data.model_name, data.eval_results = title, judged
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        is_last=is_last,
        branch=branch,
        best=best if "/" in best else None,
        base=metadata.get("base_model"),
        demo=settings.init_model_path == "demo",
        speakers=[one_cell(name) for name in speakers],
        # as Python literals, with the names exactly as the model looks them up
        literals={
            "repo": json.dumps(repo or "path/to/this/model"),
            "speaker": json.dumps(speakers[0], ensure_ascii=False),
        },
        speak_in=_language_to_speak(settings),
        adapter_only=_adapter_only(settings),
        has_adapter=mode_of(settings).adapter(settings),
        layout=settings.text_layout,
        datasets=card_facts.training_datasets(settings),
        splits=splits,
        languages=[one_cell(name) for name in card_facts.language_names(settings)],
        rows=_training_rows(settings),
        losses=_loss_rows(settings, checkpoint),
        chosen=None if is_last else card_facts.chosen(settings),
        tuned=None if is_last else card_facts.tuned(settings),
        consent=consent(settings),
        heard=_heard(heard, files_at) if heard else None,
    )
    return edited.marked(re.sub(r"\n{3,}", "\n\n", str(card)))


def _heard(stats: Mapping[str, Any], files_at: str) -> dict[str, Any]:
    """What the card says about the test speech: the verdict, the table, and a player for each of the first samples."""
    return {
        "verdict": one_cell(str((stats.get("summary") or {}).get("verdict") or "")),
        "table": [[one_cell(str(cell)) for cell in line] for line in stats.get("table") or []],
        "players": [
            {"text": " ".join(one_cell(str(one["text"])).split()), "url": f"{files_at}/{quote(str(one['file']))}"}
            for one in (stats.get("samples") or [])[:MOST_PLAYERS]
        ],
    }


def consent(settings: Settings) -> str:
    """VOICE_CONSENT on one line, as the card shows it; empty if it is not set."""
    return " ".join(one_cell(settings.voice_consent or "").split())


def _own_licence(settings: Settings) -> bool:
    return settings.license.strip().lower() == "other"


def _adapter_only(settings: Settings) -> bool:
    return not mode_of(settings).merged(settings)


def one_cell(text: str) -> str:
    """Escape `text` for a code span, a table cell and a heading."""
    return _UNSAFE.sub(" ", text).strip()


def _language_to_speak(settings: Settings) -> str:
    """The value for `language` in the example: the language of all recordings if they have the same, else Auto."""
    trained = list(card_facts.summary(settings).get("languages") or {})
    return str(trained[0]).title() if len(trained) == 1 and trained[0] not in NO_LANGUAGE else "Auto"


def _training_rows(settings: Settings) -> list[tuple[str, str]]:
    """The training settings by variable, without paths and host names."""
    given = settings
    rows: list[tuple[str, Any]] = [
        ("TRAIN_MODE", given.train_mode),
        ("TEXT_LAYOUT", given.text_layout),
        ("MAX_STEPS", given.max_steps),
        ("NUM_EPOCHS", None if given.max_steps else given.num_epochs),
        ("BATCH_SIZE", None if given.tokens_per_batch else given.batch_size),
        ("TOKENS_PER_BATCH", given.tokens_per_batch),
        ("GRADIENT_ACCUMULATION_STEPS", given.gradient_accumulation_steps),
        ("LEARNING_RATE", f"{given.learning_rate:g}"),
        ("LR_SCHEDULER", given.lr_scheduler),
        ("WEIGHT_DECAY", f"{given.weight_decay:g}"),
        ("SUB_TALKER_LOSS_WEIGHT", f"{given.sub_talker_loss_weight:g}"),
        ("MIXED_PRECISION", given.mixed_precision),
        ("SEED", given.seed),
        ("PRESET", given.preset),
    ]
    for field in mode_of(given).card:
        value = getattr(given, field)
        shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
        rows.append((field.upper(), shown))
    if given.text_projection_lr is not None:
        rows.append(("TEXT_PROJECTION_LR", f"{given.text_projection_lr:g}"))
    return [(name, str(value)) for name, value in rows if value is not None]


def _loss_rows(settings: Settings, checkpoint: Path) -> list[tuple[str, ...]]:
    """Rows of the table of losses (name, step, loss, talker loss, sub-talker loss), from the logs."""
    found = card_facts.losses(settings, checkpoint)
    split = "validation" if (found.saved or {}).get("split", "validation") == "validation" else "training data"
    rows = (("first logged", found.first), ("last logged", found.last), (f"this checkpoint, {split}", found.saved))
    return [
        (what, str(row.get("step", "")), *(_figure(row.get(k)) for k in ("loss", "talker_loss", "sub_talker_loss")))
        for what, row in rows
        if row
    ]


def _figure(value: Any) -> str:
    return f"{float(value):.4f}" if isinstance(value, float | int) else ""
