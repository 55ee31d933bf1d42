"""The facts in the model card, from the settings and from the files that stages have written so far."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config import datasets, names
from job.config.settings import Settings
from job.config.variables import SOURCE_VARIABLES
from job.core import files
from job.core.errors import BadInput
from job.text.languages import Languages, UnclearLanguage, iso_code

#: A repo's full name.
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
#: Path of a downloaded model in the Hub clients' cache: `models--owner--name/snapshots/<commit>`.
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]{7,}/?$")


@dataclass(frozen=True)
class Losses:
    """First and last logged training loss, and what was measured of the checkpoint itself."""

    first: dict[str, Any] | None
    last: dict[str, Any] | None
    saved: dict[str, Any] | None


def base_model(settings: Settings) -> str | None:
    """The Hub id of the model that was fine-tuned, for the card's `base_model`. Never empty: None is left out.

    BASE_MODEL_ID; else INIT_MODEL_PATH where it is a Hub id or a snapshot in the clients' cache. None for the built-in
    demo model, which has no page on the Hub, and for any other directory, whose origin cannot be known.

    Raises:
        BadInput: BASE_MODEL_ID is not a Hub id.
    """
    given = (settings.base_model_id or "").strip()
    if given:
        if not REPO_ID.fullmatch(given):
            raise BadInput(f"BASE_MODEL_ID={given}: must be the base model's Hub id (owner/name)")
        return given
    path = settings.init_model_path.strip()
    if path == "demo":
        return None
    if not Path(path).expanduser().exists() and REPO_ID.fullmatch(path):
        return path
    return cached_name(path)


def cached_name(path: str) -> str | None:
    """The Hub id of a model that lies in the Hub clients' cache; None for any other path."""
    cached = _CACHED.search(Path(path).expanduser().as_posix())
    return f"{cached.group(1)}/{cached.group(2)}" if cached else None


def need_facts(settings: Settings) -> None:
    """Refuse to publish a model card that does not name the base model, or a public voice without consent.

    Raises:
        BadInput: INIT_MODEL_PATH is a directory without BASE_MODEL_ID, or HUB_PRIVATE=false without VOICE_CONSENT.
    """
    if not settings.hub_private and not settings.voice_consent and has_own_data(settings):
        raise BadInput(
            "HUB_PRIVATE=false needs VOICE_CONSENT: who agreed that this voice is made and published, and how (for a "
            "public data set: its name, its licence and what its speakers agreed to); or set HUB_PRIVATE=true"
        )
    if base_model(settings) is None and settings.init_model_path != "demo":
        raise BadInput(
            f"BASE_MODEL_ID is not set and INIT_MODEL_PATH={settings.init_model_path} is a directory: the model card "
            "needs the base model's Hub id, for example BASE_MODEL_ID=Qwen/Qwen3-TTS-12Hz-1.7B-Base"
        )


def has_own_data(settings: Settings) -> bool:
    """Whether it is trained on anything but the built-in clips, which are nobody's voice."""
    return settings.data_mode == "none" or any(getattr(settings, name.lower()) for name in SOURCE_VARIABLES)


def training_datasets(settings: Settings) -> list[str]:
    """The Hub ids of the training data; none when it is not on the Hub."""
    named = [(settings.dataset_name or "").strip()]
    if settings.datasets is not None:
        named = [entry.name or "" for entry in datasets.parse(settings.datasets)]
    return [name for name in dict.fromkeys(named) if REPO_ID.fullmatch(name) and not Path(name).exists()]


def summary(settings: Settings) -> dict[str, Any]:
    """The prepared data's summary.json; empty before prepare has run."""
    return _read(settings.paths.prepared / "summary.json")


def speakers(settings: Settings) -> list[str]:
    """Names of the checkpoint's speakers: from output/best, else the prepared data, else SPEAKER_NAME."""
    config = _read(settings.paths.best / "config.json")
    rows = (config.get("talker_config") or {}).get("spk_id") or {}
    trained = [str(name).lower() for name in summary(settings).get("speakers") or {}]
    if config.get("tts_model_type") == "custom_voice" and rows:
        return sorted(name for name in rows if name in trained) or sorted(rows)
    return sorted(trained) or [names.lookup_key(settings.speaker_name)]


def language_codes(settings: Settings) -> list[str]:
    """Sorted ISO 639 codes of the languages in the data and of LANGUAGE; unknown ones are left out."""
    return sorted({code for code in _languages(settings).values() if code})


def language_names(settings: Settings) -> list[str]:
    """The model's names of the languages in the data and of LANGUAGE, without `auto`."""
    return sorted(_languages(settings))


def _languages(settings: Settings) -> dict[str, str | None]:
    """Languages of the data and of LANGUAGE -> their ISO codes; those that prepare recorded take precedence."""
    given: dict[str, Any] = summary(settings).get("languages") or {}
    found: dict[str, str | None] = {}
    for name, entry in given.items():
        told = isinstance(entry, dict) and "code" in entry  # data prepared by an older version does not record them
        found[names.lookup_key(name)] = entry["code"] if told else iso_code(name)
    if names.lookup_key(settings.language).removeprefix(names.NEW).strip() in found:
        return _named_ones(found)  # a `new:` language that the data already has
    try:
        meant = Languages(given).find(settings.language)
        found.setdefault(meant.key, meant.code)
    except UnclearLanguage:  # doctor refuses it if it would be used
        found.setdefault(names.lookup_key(settings.language), None)
    return _named_ones(found)


def _named_ones(found: dict[str, str | None]) -> dict[str, str | None]:
    return {name: code for name, code in found.items() if name not in names.NO_LANGUAGE}


def losses(settings: Settings, checkpoint: Path) -> Losses:
    """Read the logs and the state of a checkpoint, `output/best` or `output/last`; truncated lines are skipped."""
    trained = _read_lines(settings.paths.training_log)
    saved: dict[str, Any] | None = _read(checkpoint / "training_state.json")
    if not saved or "loss" not in saved:  # written by an older version: what the logs say of it
        validated = _read_lines(settings.paths.validation_log)
        finite = [row for row in validated if isinstance(row.get("loss"), float | int)]
        if checkpoint == settings.paths.best:
            saved = min(finite, key=lambda row: float(row["loss"]), default=None)
        else:
            saved = {**trained[-1], "split": "train"} if trained else None
    return Losses(first=trained[0] if trained else None, last=trained[-1] if trained else None, saved=saved)


def chosen(settings: Settings) -> str | None:
    """Why the best checkpoint is the best one, in a sentence's words; None if the lowest loss has decided (BEST_BY)."""
    why = (_read(settings.paths.best / "training_state.json").get("chosen") or {}).get("why")
    return str(why) if why else None


def tuned(settings: Settings) -> str | None:
    """How the best checkpoint was made to speak, as one or two clauses; None without TUNE_SPEECH."""
    why = (_read(settings.paths.best / "training_state.json").get("speech") or {}).get("why")
    return "; ".join(map(str, why)) if why else None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    import json

    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
