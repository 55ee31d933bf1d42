"""Which checkpoint is published to which repo, or why none is, derived from the settings alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from job.config.settings import Settings
from job.core.errors import BadInput


@dataclass(frozen=True)
class Target:
    """A checkpoint and the repo that it is published to."""

    directory: Path
    repo: str
    variable: str


def targets(settings: Settings) -> list[Target]:
    """All checkpoints to publish, with the repo names as given."""
    wanted = (
        (settings.paths.best, settings.hf_repo_id, "HF_REPO_ID"),
        (settings.paths.last, settings.hf_last_repo_id, "HF_LAST_REPO_ID"),
    )
    return [Target(directory, repo, variable) for directory, repo, variable in wanted if repo]


def skipped(settings: Settings) -> str | None:
    """Why nothing is published, in a few words; None if something is.

    Raises:
        BadInput: UPLOAD_TO_HUB=true, and the token or the repo is missing; or both checkpoints go to one repo.
    """
    repos = [target.repo for target in targets(settings)]
    if len(set(repos)) < len(repos):
        raise BadInput(f"HF_REPO_ID and HF_LAST_REPO_ID are both {repos[0]}; give the last checkpoint its own repo")
    if settings.upload_to_hub is False:
        return "UPLOAD_TO_HUB=false"
    missing = [name for name, value in (("HF_TOKEN", settings.token), ("HF_REPO_ID", repos)) if not value]
    if missing and settings.upload_to_hub:
        raise BadInput(f"UPLOAD_TO_HUB=true needs {' and '.join(missing)}; set it, or UPLOAD_TO_HUB=false")
    return f"{' and '.join(missing)} not set" if missing else None
