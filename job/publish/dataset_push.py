"""Publish the prepared dataset (PUSH_DATASET): codes, texts and the speakers' x-vectors, and no recording.

Whoever names the repository as DATASET_NAME trains from it without encoding anything.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.core import files
from job.core.console import say
from job.core.errors import BadInput, JobError, PublishFailed
from job.dataset import prepared
from job.model import card_facts
from job.publish import dataset_card, hub_client, rights, uploading
from job.publish.targets import Target

if TYPE_CHECKING:
    from huggingface_hub import HfApi

STAGE = "share"
VARIABLE, KIND = "PUSH_DATASET", "dataset"
#: What is replaced as a whole in the repo.
_STALE = ("data/*.parquet",)


def skipped(settings: Settings) -> str | None:
    """Why no dataset is published, in a few words; None if one is.

    Raises:
        BadInput: PUSH_DATASET is set and HF_TOKEN is not.
    """
    if not settings.push_dataset:
        return "PUSH_DATASET is not set"
    if settings.upload_to_hub is False:
        return "UPLOAD_TO_HUB=false"
    if not settings.token:
        raise BadInput("PUSH_DATASET needs HF_TOKEN; set it, or unset PUSH_DATASET")
    return None


def check(settings: Settings) -> str | None:
    """Check in the first minute that the dataset may be published; returns the repo's full name, None if none is.

    Raises:
        BadInput: naming the variable and the fix.
        Unreachable: the Hub cannot be reached.
    """
    if skipped(settings):
        return None
    card_facts.need_facts(settings)
    api = hub_client.client(settings)

    def ask() -> str:
        return _checked(api, settings)

    about = f"{api.endpoint}: cannot check whether PUSH_DATASET will work"
    return hub_client.asked(ask, settings, about, "unset PUSH_DATASET")


def run(settings: Settings) -> dict[str, Any]:
    """Upload the prepared dataset in one commit, and compare what has arrived with what is here.

    The Hub knows large files by their hash: what an earlier attempt has sent is not sent again, and where nothing has
    changed there is no commit.

    Returns:
        `{"repo", "commit", "url", "files", "bytes", "uploaded", "private"}`.

    Raises:
        BadInput: there is no prepared dataset, or the settings do not allow it.
        PublishFailed: the Hub refuses, or cannot be reached for too long.
    """
    if reason := skipped(settings):
        say(STAGE, f"skipped: {reason}")
        return {"skipped": reason}
    card_facts.need_facts(settings)
    kept = f"{settings.paths.prepared} kept; run the same again"
    directory = settings.paths.to_share
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        api = hub_client.client(settings)
        repo = hub_client.retrying("checking PUSH_DATASET", lambda: _checked(api, settings), settings)
        uploading.create(api, repo, settings, kind=KIND)
        sources = _sources(settings, directory)
        rows = card_facts.summary(settings)["splits"]["train"]["rows"]
        message = f"{rows} rows of codes"
        sent = uploading.send(api, repo, sources, message, settings, stale=_STALE, stage=STAGE, kind=KIND)
    except PublishFailed as error:
        raise PublishFailed(f"{VARIABLE}: {error}; {kept}") from None
    except JobError:
        raise
    except Exception as error:  # all other failures of the client or the network also become one line
        raise PublishFailed(f"{VARIABLE}: {hub_client.explain(error, settings)}; {kept}") from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    url = f"{api.endpoint}/datasets/{repo}"
    done = "is now up to date" if sent.changed else "was already up to date"
    say(STAGE, f"{url} ({'private' if sent.private else 'public'}) {done}")
    return {
        "repo": repo,
        "commit": sent.commit,
        "url": url,
        "files": len(sources),
        "uploaded": sent.changed,
        "private": sent.private,
    }


def _checked(api: HfApi, settings: Settings) -> str:
    """The repo's full name, after checking that it may be written and is not somebody's recordings.

    Raises:
        BadInput: it may not, or is.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    account = rights.whoami(api)
    target = Target(settings.paths.prepared, settings.push_dataset or "", VARIABLE)
    repo = rights.check_target(api, account, target, settings, kind=KIND)
    try:
        there = set(api.list_repo_files(repo, repo_type=KIND))
    except RepositoryNotFoundError:
        return repo
    if there - {".gitattributes", "README.md"} and prepared.VECTORS not in there:
        raise BadInput(f"{VARIABLE}={repo} is another dataset, which would be overwritten; name a repo of its own")
    return repo


def _sources(settings: Settings, directory: Path) -> dict[str, Path | bytes]:
    """The files as they are published: columns have the names that fetch knows, and no path is in any."""
    import pyarrow.parquet as parquet

    paths = settings.paths
    sources: dict[str, Path | bytes] = {prepared.VECTORS: paths.speakers}
    for split in prepared.SPLITS:
        shards = prepared.parquet_files(paths, split)
        for number, shard in enumerate(shards):
            table = parquet.read_table(shard)
            names = ["audio_codes" if name == "codes" else name for name in table.schema.names]
            file = directory / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            with files.named_errors(file):
                parquet.write_table(table.rename_columns(names), file, compression="zstd")
            sources[f"data/{file.name}"] = file
    card = dataset_card.render(settings, [name for name in sources if name.startswith("data/")])
    return {**sources, "README.md": card.encode()}
