"""Keep what people have changed in a model card, in `output/` or in the repo, and repair only its metadata."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from job.config.settings import Settings
from job.core.console import say, warn
from job.publish import card, card_rules, edited, hub_client

if TYPE_CHECKING:
    from huggingface_hub import HfApi

README = "README.md"


def local(path: Path, ours: str, stage: str) -> str:
    """The card to write to `path`: `ours`, or what somebody has made of the one that is there.

    Args:
        ours: the card as this job writes it.
        stage: who says in the log what was repaired.
    """
    return _kept(path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None, ours, str(path), stage)


def with_card(
    api: HfApi, repo: str, sources: dict[str, Path | bytes], settings: Settings, stage: str
) -> dict[str, Path | bytes]:
    """The files to upload, with the repo's own card in place of ours where somebody has edited it on `main`.

    A card that was edited in `output/` replaces it.
    """
    if README not in sources:
        return sources
    given = sources[README]
    ours = given.decode() if isinstance(given, bytes) else given.read_text(encoding="utf-8")
    there = hub_client.retrying(f"reading {repo}", lambda: _in_repo(api, repo), settings)
    by_hand = edited.what(ours)
    if there is not None and (by_hand.metadata or by_hand.body):
        text = ours
        if there != ours:
            warn(stage, f"{README} of {repo} is replaced by the one that was edited in output/")
    else:
        text = _kept(there, ours, f"{README} of {repo}", stage)
    if card.consent(settings) not in text:
        warn(stage, f"{README} of {repo} was edited and does not say VOICE_CONSENT; write it there")
    return {**sources, README: text.encode()}


def _kept(found: str | None, ours: str, where: str, stage: str) -> str:
    by_others = edited.what(found) if found is not None else edited.Edited(False, False)
    if found is None or not (by_others.metadata or by_others.body):
        return ours
    text = card_rules.repaired(found, ours)
    changes = edited.difference(found, text)
    say(stage, f"{where} was edited and is kept{', its metadata repaired:' if changes else ''}")
    for line in changes:
        say(stage, line)
    return text


def _in_repo(api: HfApi, repo: str) -> str | None:
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = api.hf_hub_download(repo, README, local_dir=folder)
        except (EntryNotFoundError, RevisionNotFoundError):  # no such file, or a repo without any commit
            return None
        return Path(path).read_text(encoding="utf-8", errors="replace")
