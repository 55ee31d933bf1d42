"""Say in one line what went wrong with a Hub dataset: the variable, the problem, the fix."""

from __future__ import annotations

import errno
from typing import Any

from job.config.settings import Settings
from job.core.errors import NO_CONNECTION, BadInput, JobError, Unreachable, causes, is_outage, kinds_of, status_of
from job.fetch.scripted import conversion
from job.fetch.table import RowError


class Explained:
    """Context manager that converts exceptions of the Hub's clients to a one-line `BadInput` or `Unreachable`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, JobError | RowError):
            return
        raise (Unreachable if is_outage(error) else BadInput)(explain(error, self.settings)) from None


def explain(error: BaseException, settings: Settings) -> str:
    """Describe a failure of `datasets` or `huggingface_hub` in one line: the variable, the problem, the fix."""
    where = f"DATASET_NAME={settings.dataset_name}"
    chain = causes(error)
    status, kinds = status_of(chain), kinds_of(chain)
    text = " ".join(" ".join(str(e).split()) for e in chain)
    if settings.token:
        text = text.replace(settings.token, "***")
    hint = "check HF_TOKEN" if settings.token else "set HF_TOKEN if it is private or gated"
    if any(getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for e in chain):
        return f"{where}: no space left for the download; make room, or point HF_HOME and WORK_DIR to a larger disk"
    if "scripts are no longer supported" in text:
        return about_script(settings, where)
    if "GatedRepoError" in kinds or "gated" in text[:300]:
        return f"{where} is gated: accept its terms on the Hub with the account of HF_TOKEN ({hint})"
    if "RevisionNotFoundError" in kinds or (settings.dataset_revision and "revision" in text.lower()):
        return f"DATASET_REVISION={settings.dataset_revision or 'main'}: {settings.dataset_name} has no such revision"
    if status in (401, 403) or "RepositoryNotFoundError" in kinds or "DatasetNotFoundError" in kinds or status == 404:
        return f"{where}: no such dataset on the Hub, or no access to it; check the name, or {hint}"
    if "DataFilesNotFoundError" in kinds or "EmptyDatasetError" in kinds:
        return f"{where}: no data files in it that can be read (Parquet, JSONL, CSV, or audio with metadata)"
    if (configuration := conversion.configuration_problem(text, settings)) is not None:
        return configuration
    if kinds & {*NO_CONNECTION, "OfflineModeIsEnabled"}:
        return f"{where}: the Hub cannot be reached or broke off; check the network, then run the same command again"
    if status is not None and (status >= 500 or status == 429):
        return f"{where}: the Hub answers {status}; run the same command again later"
    return f"{where} cannot be read: {type(chain[-1]).__name__}: {text[:300]}"


def about_script(settings: Settings, where: str) -> str:
    """What to do about a dataset with a loading script, while DATASET_TRUST_REMOTE_CODE is off or the Hub away."""
    if settings.dataset_trust_remote_code:
        return f"{where} is a loading script, which can only be run while the Hub can be reached; unset HF_HUB_OFFLINE"
    return (
        f"{where} is a loading script, a program that datasets >= 4 no longer runs; if you trust it, set "
        "DATASET_TRUST_REMOTE_CODE=true: it is then run once, confined and without your token (docs/data.md); or name "
        "data that needs no script"
    )
