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
from job.publish.licenses import LICENSES

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
        "language": card_facts.language_codes(settings),
        "library_name": "qwen-tts",
        "pipeline_tag": "text-to-speech",
        "base_model": base,
        "base_model_relation": ("adapter" if adapter_only else "finetune") if base else None,
        "datasets": datasets,
        "tags": ["text-to-speech", "qwen3-tts", "custom-voice", *(["lora"] if mode_of(settings).adapters else [])],
    }
    return {key: value for key, value in metadata.items() if value}


def render(settings: Settings, heard: Mapping[str, Any] | None = None, files_at: str = "") -> str:
    """The complete README.md.

    Args:
        heard: `samples/stats.json`, once the test speech is published with the model.
        files_at: address of the folder `samples/` in the repo, where the players find the sounds.

    Raises:
        BadInput: BASE_MODEL_ID is not a Hub id.
    """
    from huggingface_hub import ModelCard, ModelCardData

    metadata = front_matter(settings)
    summary = card_facts.summary(settings)
    splits = {name: split for name, split in (summary.get("splits") or {}).items() if split.get("rows")}
    repo = (settings.hf_repo_id or "").strip()
    speakers = card_facts.speakers(settings)
    card = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(TEMPLATE),
        title=_plain(repo.split("/")[-1] or f"Qwen3-TTS voice: {', '.join(speakers[:3])}"),
        base=metadata.get("base_model"),
        demo=settings.init_model_path == "demo",
        speakers=[_plain(name) for name in speakers],
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
        languages=[_plain(name) for name in card_facts.language_names(settings)],
        rows=_training_rows(settings),
        losses=_loss_rows(settings),
        chosen=card_facts.chosen(settings),
        heard=_heard(heard, files_at) if heard else None,
        licence=metadata["license"],
    )
    return re.sub(r"\n{3,}", "\n\n", str(card)).strip() + "\n"


def _heard(stats: Mapping[str, Any], files_at: str) -> dict[str, Any]:
    """What the card says about the test speech: the verdict, the table, and a player for each of the first samples."""
    return {
        "verdict": _plain(str((stats.get("summary") or {}).get("verdict") or "")),
        "table": [[_plain(str(cell)) for cell in line] for line in stats.get("table") or []],
        "players": [
            {"text": " ".join(_plain(str(one["text"])).split()), "url": f"{files_at}/{quote(str(one['file']))}"}
            for one in (stats.get("samples") or [])[:MOST_PLAYERS]
        ],
    }


def check_card(text: str) -> list[str]:
    """Problems for which the Hub would reject a README.md, one line each; checked without a network.

    Checks that there is metadata in YAML; no key is null or empty; `base_model` is a Hub id; `license` is an identifier
    that the Hub knows; `language` contains ISO 639 codes; lists contain strings.
    """
    import yaml

    block = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", text.lstrip(), re.DOTALL)
    if block is None:
        return ["README.md has no metadata (a block between two lines of ---)"]
    try:
        data = yaml.safe_load(block.group(1))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        at = f" in line {where.line + 2}" if where else ""
        return [f"README.md's metadata is not valid YAML{at}: {getattr(error, 'problem', None) or 'cannot be parsed'}"]
    if not isinstance(data, dict) or not data:
        return ["README.md's metadata is empty"]
    problems = [problem for key, value in data.items() for problem in _empty(str(key), value)]
    return problems + _wrong_values(data)


def _empty(key: str, value: Any) -> list[str]:
    """Null and empty values, which the Hub rejects."""
    if value is None:
        return [f"{key} is null; leave it out or give it a value{_fix(key)}"]
    if value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
        return [f"{key} is empty{_fix(key)}"]
    if isinstance(value, list) and any(item is None or (isinstance(item, str) and not item.strip()) for item in value):
        return [f"{key} has an empty entry{_fix(key)}"]
    return []


def _fix(key: str) -> str:
    variables = {
        "base_model": "BASE_MODEL_ID",
        "license": "LICENSE",
        "language": "LANGUAGE",
        "datasets": "DATASET_NAME",
    }
    return f" (set {variables[key]})" if key in variables else ""


def _wrong_values(data: dict[str, Any]) -> list[str]:
    problems = []
    for key in ("license", "language", "base_model", "datasets", "tags", "pipeline_tag", "library_name"):
        value = data.get(key)
        items = value if isinstance(value, list) else [value]
        problems += [
            f"{key}: {item!r} is not a string{_fix(key)}"
            for item in items
            if item is not None and not isinstance(item, str)
        ]
    for name in _strings(data.get("base_model")):
        if not card_facts.REPO_ID.fullmatch(name) and not re.fullmatch(r"[\w.-]{1,96}", name):
            problems.append(f"base_model: {name!r} is not a Hub id (set BASE_MODEL_ID to owner/name)")
    for name in _strings(data.get("license")):
        if name not in LICENSES:
            problems.append(
                f"license: {name!r} is not an identifier that the Hub knows (set LICENSE, or LICENSE=other)"
            )
    for name in _strings(data.get("language")):
        if not re.fullmatch(r"[a-z]{2,3}", name) and name not in ("code", "multilingual"):
            problems.append(f"language: {name!r} is not an ISO 639 code (set LANGUAGE)")
    for name in _strings(data.get("datasets")):
        if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name):
            problems.append(f"datasets: {name!r} is not a Hub id (set DATASET_NAME)")
    return problems


def _strings(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item.strip()]


def _adapter_only(settings: Settings) -> bool:
    return not mode_of(settings).merged(settings)


def _plain(text: str) -> str:
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


def _loss_rows(settings: Settings) -> list[tuple[str, ...]]:
    """Rows of the table of losses (name, step, loss, talker loss, sub-talker loss), from the logs."""
    found = card_facts.losses(settings)
    split = "validation" if (found.best or {}).get("split", "validation") == "validation" else "training data"
    rows = (("first logged", found.first), ("last logged", found.last), (f"this checkpoint, {split}", found.best))
    return [
        (what, str(row.get("step", "")), *(_figure(row.get(k)) for k in ("loss", "talker_loss", "sub_talker_loss")))
        for what, row in rows
        if row
    ]


def _figure(value: Any) -> str:
    return f"{float(value):.4f}" if isinstance(value, float | int) else ""
