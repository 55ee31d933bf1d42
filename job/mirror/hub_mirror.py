"""A mirror on a branch of a private repo on the Hub."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from job.config.settings import Settings
from job.core.console import warn
from job.core.errors import BadInput
from job.publish import hub_client, rights
from job.publish.targets import Target, targets

#: The branch that everything is on; the repo's `main` is never written to.
BRANCH = "mirror"


class HubMirror:
    """Files below a path on the branch. Each `replace` is one commit, so nobody ever sees half of it."""

    def __init__(self, repo: str, path: str, settings: Settings) -> None:
        self._address = f"hf://{repo}/{path}".rstrip("/")
        self._repo, self._prefix = repo, f"{path.strip('/')}/" if path.strip("/") else ""
        self._settings = settings
        self._api = hub_client.client(settings)
        self._made = False

    def listing(self) -> dict[str, int]:
        """Every name and its size in bytes."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            info = self._api.model_info(self._repo, revision=BRANCH, files_metadata=True)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            if hub_client.status_of(error) != 404:  # without a token a private repo does not exist either, as a 401
                raise
            return {}
        there = {one.rfilename: int(one.size or 0) for one in info.siblings or []}
        return {name.removeprefix(self._prefix): size for name, size in there.items() if name.startswith(self._prefix)}

    def replace(self, new: Mapping[str, Path | bytes], gone: Collection[str] = ()) -> None:
        """Commit `new` and the removal of `gone`, also from the branch's history, where it would fill the quota."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars("huggingface_hub.lfs_upload")  # among the lines of training
        self._make()
        changes: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationDelete(f"{self._prefix}{name}", is_folder=False) for name in gone),
            *(CommitOperationAdd(f"{self._prefix}{name}", source) for name, source in new.items()),
        ]
        self._api.create_commit(self._repo, changes, commit_message="Mirror of a run", revision=BRANCH)
        if gone:
            try:
                self._api.super_squash_history(self._repo, branch=BRANCH, commit_message="Mirror of a run")
            except Exception as error:  # all that was to be kept is kept
                warn("mirror", f"{self._repo} still holds older checkpoints in its history: {self.explain(error)}")

    def bring(self, names: Collection[str], into: Path) -> None:
        """Copy files to `into`/<name>."""
        from huggingface_hub import snapshot_download

        if not names:
            return
        wanted = [f"{self._prefix}{name}" for name in names]
        scratch = into / ".download"
        snapshot_download(
            self._repo, revision=BRANCH, allow_patterns=wanted, local_dir=scratch, token=self._settings.token
        )
        for name in names:
            source = scratch / f"{self._prefix}{name}"
            if source.is_file():
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(source, into / name)
        shutil.rmtree(scratch, ignore_errors=True)

    def check(self) -> None:
        """Check that the token may write to a private repo that is not the voice's own.

        Raises:
            BadInput: it may not, or the repo is public or the voice's.
            Unreachable: the Hub cannot be reached.
        """
        if self._settings.token is None:
            raise BadInput(f"MIRROR_CHECKPOINTS={self._address}: set HF_TOKEN, with write access")

        def ask() -> None:
            account = rights.whoami(self._api)
            if self._repo in [rights.full_name(one.repo, account) for one in targets(self._settings)]:
                raise BadInput(
                    f"MIRROR_CHECKPOINTS={self._address}: the voice is published there; give the mirror its own repo"
                )
            target = Target(self._settings.paths.output, self._repo, "MIRROR_CHECKPOINTS")
            rights.check_target(self._api, account, target, self._settings)
            self._refuse_public()

        hub_client.asked(ask, self._settings, f"MIRROR_CHECKPOINTS={self._address}", "unset it")

    def explain(self, error: BaseException) -> str:
        """One line about a failure, without the token."""
        return hub_client.explain(error, self._settings)

    def _make(self) -> None:
        """Create the repo and the branch where they are missing."""
        if not self._made:
            self._api.create_repo(self._repo, private=True, exist_ok=True)
            self._refuse_public()
            self._api.create_branch(self._repo, branch=BRANCH, exist_ok=True)
            self._made = True

    def _refuse_public(self) -> None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            private = self._api.model_info(self._repo).private
        except RepositoryNotFoundError:
            return
        if private is False:
            raise BadInput(
                f"MIRROR_CHECKPOINTS={self._address}: the repo is public, and the recordings' codes would be as well; "
                "make it private, or name another"
            )
