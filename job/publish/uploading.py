"""Upload files to a repo on the Hub in one commit, to `main` or to a branch, and compare what has arrived."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from job.config.settings import Settings
from job.core import files, state
from job.core.console import say, warn
from job.core.errors import PublishFailed
from job.core.redact import SHORTEST_SECRET
from job.model import card_facts
from job.publish import contents, hub_client
from job.publish.targets import Target

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

MAIN = "main"
MODEL = "model"
#: Path in the repo -> the local file, or what it holds.
Sources = Mapping[str, Path | bytes]


@dataclass(frozen=True)
class Arrived:
    """A commit that has been compared with the local files, and whether it changed anything."""

    commit: str
    changed: bool
    private: bool


def gated(settings: Settings) -> bool:
    """Whether `main` has to wait for the speech gate; a checkpoint that cannot speak has none to wait for."""
    return settings.synth_gate == "fail" and contents.merged(settings)


def candidate(settings: Settings) -> str:
    """The branch that a checkpoint waits on: `candidate-` and eight digits, the same whenever its run is continued."""
    return f"candidate-{_run_digits(settings)}"


def tag(api: HfApi, repo: str, target: Target, settings: Settings) -> None:
    """Tag what `main` now has by run and step, unless this checkpoint has its tag already."""
    row = card_facts.losses(settings, target.directory).saved or {}
    name = f"{_run_digits(settings)}-{row.get('step', 0)}"
    if name not in {ref.name for ref in api.list_repo_refs(repo).tags}:
        api.create_tag(repo, tag=name, tag_message=commit_message(target, settings), exist_ok=True)
        say("release", f"{repo}: this voice is tagged {name}")


def _run_digits(settings: Settings) -> str:
    trained = settings.paths.best / "training_state.json"
    kept = files.digest_file(trained) if trained.is_file() else "none"
    return hashlib.sha256((state.digest(settings.paths.state, "train") + kept).encode()).hexdigest()[:8]


def model_files(target: Target) -> dict[str, Path]:
    """The files of a checkpoint that are published."""
    return {name: target.directory / name for name in contents.published(target.directory)}


def commit_message(target: Target, settings: Settings) -> str:
    """The commit message: checkpoint, step and loss."""
    row = card_facts.losses(settings, target.directory).saved or {}
    parts = [f"{target.directory.name} checkpoint"]
    if row.get("step") is not None:
        parts.append(f"step {row['step']}")
    if isinstance(row.get("loss"), float | int):
        parts.append(f"loss {float(row['loss']):.4f}")
    return ", ".join(parts)


def send(
    api: HfApi,
    repo: str,
    sources: Sources,
    message: str,
    settings: Settings,
    *,
    branch: str = MAIN,
    stale: Sequence[str] = (),
    stage: str = "push",
    attempts: int = hub_client.ATTEMPTS,
    kind: str = MODEL,
) -> Arrived:
    """Upload the files in one commit, and verify that the branch then has them.

    Nothing is sent that the repo already has, on whatever branch: the Hub knows large files by their hash. No files
    have changed: no commit. `upload_folder` does the same for one folder, and these come from several.

    Args:
        branch: created from `main` if the repo does not have it.
        stale: patterns of files to remove that are not among `sources`.
        stage: who says so in the log.
        attempts: how often each request is tried.
        kind: of the repo, `model` or `dataset`.

    Raises:
        PublishFailed: what arrived is not what was sent.
    """
    guard(sources, settings)

    if branch != MAIN:
        make = partial(api.create_branch, repo, branch=branch, repo_type=kind, exist_ok=True)
        hub_client.retrying(f"making a branch of {repo}", make, settings, attempts)
    read = partial(api.repo_info, repo, revision=branch, repo_type=kind)
    before = hub_client.retrying(f"reading {repo}", read, settings, attempts)
    size = sum(size_of(source) for source in sources.values())
    where = repo if branch == MAIN else f"{repo}, branch {branch}"
    say(stage, f"{len(sources)} files, {size / 1e6:.1f} MB, for {where}")
    upload = partial(_commit, api, repo, sources, stale, message, branch, kind)
    commit, hashes = hub_client.retrying(f"uploading to {repo}", upload, settings, attempts)
    look = partial(api.repo_info, repo, revision=branch, repo_type=kind, files_metadata=True)
    after = hub_client.retrying(f"checking {repo}", look, settings, attempts)
    arrived = {sibling.rfilename: sibling for sibling in after.siblings or []}
    wrong = [name for name, source in sources.items() if not _same(arrived.get(name), source, hashes[name])]
    if wrong:
        raise PublishFailed(f"{repo} has {len(wrong)} files that differ from the local ones, first {wrong[0]}")
    return Arrived(commit, commit != before.sha, bool(after.private))


def _commit(
    api: HfApi, repo: str, sources: Sources, stale: Sequence[str], message: str, branch: str, kind: str
) -> tuple[str, dict[str, str]]:
    """Commit the files; returns the commit, and each file's SHA-256, which the client has computed anyway.

    What is there is asked each time: an attempt whose answer was lost may have removed what is stale.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    listed = api.repo_info(repo, revision=branch, repo_type=kind).siblings if stale else None
    there = [one.rfilename for one in listed or []]
    removed = [CommitOperationDelete(name, is_folder=False) for name in _stale(there, sources, stale)]
    added = [CommitOperationAdd(name, source) for name, source in sources.items()]
    commit = api.create_commit(repo, [*removed, *added], commit_message=message, revision=branch, repo_type=kind)
    return str(commit.oid), {one.path_in_repo: one.upload_info.sha256.hex() for one in added}


def _same(there: RepoSibling | None, source: Path | bytes, sha256: str) -> bool:
    """Whether a file in the repo is the local one, by its size and its hash: git's own for a small file."""
    if there is None or there.size != size_of(source):
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == sha256
    from huggingface_hub.utils.sha import git_hash

    return there.blob_id == git_hash(source if isinstance(source, bytes) else source.read_bytes())


def _stale(there: Sequence[str], sources: Sources, patterns: Sequence[str]) -> list[str]:
    return [name for name in there if name not in sources and any(fnmatchcase(name, one) for one in patterns)]


def size_of(source: Path | bytes) -> int:
    """Bytes of what is uploaded."""
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def guard(sources: Sources, settings: Settings) -> None:
    """Refuse to upload a text file that contains a token or a key.

    Raises:
        PublishFailed: naming the file.
    """
    key = settings.wandb_api_key.get_secret_value() if settings.wandb_api_key else None
    known = [("HF_TOKEN", settings.token), ("WANDB_API_KEY", key)]
    if settings.notify_url:
        known += [("an address of NOTIFY_URL", one) for one in settings.notify_url.get_secret_value().split()]
    known += [("a key of the environment", one) for one in settings.secrets if one not in [value for _, value in known]]
    secrets = [(name, value.encode()) for name, value in known if value and len(value) >= SHORTEST_SECRET]
    for name, source in sources.items():
        if name.endswith((".safetensors", ".wav")):
            continue
        data = source if isinstance(source, bytes) else source.read_bytes()
        for variable, secret in secrets:
            if secret in data:
                where = name if isinstance(source, bytes) else source
                raise PublishFailed(f"{where} contains {variable}, so nothing is uploaded; remove it from the file")


def create(api: HfApi, repo: str, settings: Settings, attempts: int = hub_client.ATTEMPTS, kind: str = MODEL) -> None:
    """Create the repo if there is none, and note that this run did: `remove_unused` removes no other."""
    from huggingface_hub.errors import RepositoryNotFoundError

    def there() -> bool:
        try:
            api.repo_info(repo, repo_type=kind)
            return True
        except RepositoryNotFoundError:
            return False

    def made() -> bool:
        try:
            api.create_repo(repo, private=settings.hub_private, repo_type=kind)
            return True
        except Exception as error:
            if hub_client.status_of(error) == 409:  # made meanwhile, or by an attempt whose answer was lost
                return False
            raise

    if hub_client.retrying(f"reading {repo}", there, settings, attempts):
        return
    if hub_client.retrying(f"creating {repo}", made, settings, attempts) and kind == MODEL:
        files.write_json(settings.paths.created_repos, [*created(settings), repo])


def created(settings: Settings) -> list[str]:
    """The repos that runs in this work directory have created."""
    path = settings.paths.created_repos
    return list(files.read_json(path)) if path.is_file() else []


def remove_unused(api: HfApi, repo: str, settings: Settings, error: BaseException) -> None:
    """Remove a repo that this run created, if the Hub refuses for good (rights, quota) what was to go into it.

    After a failure that may pass it stays, and with it what has arrived for the next attempt. So does a repo that
    somebody else made, or that has any file or branch of anybody.
    """
    if hub_client.may_pass(error) or repo not in created(settings):
        return

    def removed() -> bool:
        branches = [ref.name for ref in api.list_repo_refs(repo).branches]
        empty = {name for ref in branches for name in api.list_repo_files(repo, revision=ref)} <= {".gitattributes"}
        if empty:
            api.delete_repo(repo, missing_ok=True)
        return empty

    try:
        if hub_client.retrying(f"looking what is in {repo}", removed, settings, hub_client.FEW):
            say("push", f"{repo}, created for this and empty, is removed")
    except Exception as failure:  # the reason why nothing could be uploaded counts, not this
        warn("push", f"{repo} is left empty: {hub_client.explain(failure, settings)}")
