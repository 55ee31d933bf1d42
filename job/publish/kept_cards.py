"""Keep what people have changed in a model card, in `output/` or in the repo, and repair only its metadata."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from job.config.settings import Settings
from job.core.console import say, warn
from job.core.errors import BadInput
from job.core.redact import SHORTEST_SECRET, holds_token
from job.publish import card, card_rules, edited, front_matter, hub_client, rights
from job.publish.targets import skipped, targets

if TYPE_CHECKING:
    from huggingface_hub import HfApi

README = "README.md"

#: What has been said in this process of each card's metadata: what of them is not kept, and why.
_told: dict[str, set[str]] = {}


def local(path: Path, ours: str, stage: str) -> str:
    """The card to write to `path`: `ours`, or what somebody has made of the one that is there.

    Args:
        ours: the card as this job writes it.
        stage: who says in the log what was repaired.
    """
    return _kept(path.read_bytes() if path.is_file() else None, ours, str(path), stage)


def check(settings: Settings) -> None:
    """Look before training at cards that somebody has edited, here and on the Hub: say what will be repaired of them.

    Raises:
        BadInput: one cannot be published.
        Unreachable: the Hub cannot be reached.
    """
    ours = card.render(settings)
    for directory in (settings.paths.best, settings.paths.last):
        readme = directory / README
        _look(readme.read_bytes() if readme.is_file() else None, ours, str(readme), settings)
    if skipped(settings) is not None:
        return
    api = hub_client.client(settings)

    def ask() -> dict[str, bytes | None]:
        account = rights.whoami(api)
        repos = [rights.full_name(target.repo, account) for target in targets(settings)]
        return {f"{README} of {repo}": _in_repo(api, repo) for repo in repos}

    about = f"{api.endpoint}: cannot read the model card that is there"
    for where, there in hub_client.asked(ask, settings, about, "set UPLOAD_TO_HUB=false").items():
        _look(there, ours, where, settings)


def _look(found: bytes | None, ours: str, where: str, settings: Settings) -> None:
    if found is None:
        return
    _refuse_secrets(front_matter.decoded(found, where)[0], where, settings)
    if problems := card_rules.check_card(_kept(found, ours, where, "doctor")):
        raise BadInput(f"{where} cannot be published: {'; '.join(problems)}; mend or remove it")


def _refuse_secrets(text: str, where: str, settings: Settings) -> None:
    """Refuse a card that holds a secret of this run, or what looks like anybody's.

    Raises:
        BadInput: naming the line.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if any(secret in line for secret in settings.secrets if len(secret) >= SHORTEST_SECRET):
            raise BadInput(f"{where}: line {number} holds a secret of this run; remove it")
        if holds_token(line):
            raise BadInput(f"{where}: line {number} holds what looks like a token; remove it")


def with_card(
    api: HfApi, repo: str, sources: dict[str, Path | bytes], settings: Settings, stage: str
) -> dict[str, Path | bytes]:
    """The files to upload, with the repo's own card in place of ours where somebody has edited it on `main`.

    A card that was edited in `output/` replaces it.
    """
    if README not in sources:
        return sources
    given = sources[README]
    ours = (given if isinstance(given, bytes) else given.read_bytes()).decode()
    there = hub_client.retrying(f"reading {repo}", lambda: _in_repo(api, repo), settings)
    by_hand = edited.what(ours)
    if there is not None and (by_hand.metadata or by_hand.body):
        text = ours
        if there != ours.encode():
            warn(stage, f"{README} of {repo} is replaced by the one that was edited in output/")
    else:
        text = _kept(there, ours, f"{README} of {repo}", stage)
    if card.consent(settings) not in text:
        warn(stage, f"{README} of {repo} was edited and does not say VOICE_CONSENT; write it there")
    return {**sources, README: text.encode()}


def _kept(found: bytes | None, ours: str, where: str, stage: str) -> str:
    if found is None:
        return ours
    written, encoding = front_matter.decoded(found, where)
    text = front_matter.closed(written)
    by_others = edited.what(text)
    if not (by_others.metadata or by_others.body):
        return ours
    kept = card_rules.repaired(text, ours)
    changes = edited.difference(written, kept)
    problems = card_rules.check_card(text) if changes else []
    lost = {*problems, *(line for line in changes if line.startswith("-"))}
    if changes and where in _told and lost <= _told[where]:
        say(stage, f"{where} was edited and is kept, its metadata repaired as said above")
        return kept
    if changes:
        _told.setdefault(where, set()).update(lost)
    say(stage, f"{where} was edited and is kept{', its metadata repaired:' if changes else ''}")
    if encoding:
        say(stage, f"it is in {encoding}, and becomes UTF-8")
    if text != written:
        say(stage, "no line of --- ends its metadata")
    for line in [*problems, *changes]:
        say(stage, line)
    return kept


def _in_repo(api: HfApi, repo: str) -> bytes | None:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = api.hf_hub_download(repo, README, local_dir=folder)
        except LocalEntryNotFoundError:  # not that there is none: the Hub could not be asked
            raise
        except (EntryNotFoundError, RevisionNotFoundError):  # no such file, or a repo without any commit
            return None
        except RepositoryNotFoundError as error:
            if hub_client.status_of(error) != 404:  # without a token a private repo does not exist either, as a 401
                raise
            return None
        return Path(path).read_bytes()
