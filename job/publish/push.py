"""Stage `push`: publish output/best (and output/last) to the Hub, and check beforehand that it will work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.core.console import say, warn
from job.core.errors import BadInput, JobError, PublishFailed
from job.core.redact import redact
from job.model import card_facts
from job.publish import card_rules, contents, front_matter, hub_client, kept_cards, rights, uploading
from job.publish.targets import Target, skipped, targets

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: Path of the console log in the repo.
LOG_IN_REPO = "logs/console_log.txt"


def intent(settings: Settings) -> list[str]:
    """The repos that push would publish to with the current settings; empty if it would be skipped.

    Part of the stage's fingerprint: a push skipped without a token must run once there is one.
    """
    return [] if skipped(settings) else [target.repo for target in targets(settings)]


def check(settings: Settings) -> dict[str, Any]:
    """Check that publishing will work, without creating or uploading anything.

    Asks the Hub who the token is, whether it may write to the repos' owner, and, for a repo that exists, whether it
    may upload to it. A repo that does not exist yet must be one that the token may create.

    Returns:
        `{"user": ..., "repos": [full names]}`, or `{"skipped": reason}`.

    Raises:
        BadInput: naming the variable and the fix.
        Unreachable: the Hub cannot be reached.
    """
    reason = skipped(settings)
    if reason is not None:
        return {"skipped": reason}
    card_facts.need_facts(settings)
    api = hub_client.client(settings)

    def ask() -> dict[str, Any]:
        account = rights.whoami(api)
        repos = [rights.check_target(api, account, target, settings) for target in targets(settings)]
        return {"user": str(account.get("name")), "repos": repos}

    about = f"{api.endpoint}: cannot check whether publishing will work"
    return hub_client.asked(ask, settings, about, "set UPLOAD_TO_HUB=false")


def run(settings: Settings) -> dict[str, Any]:
    """Create missing repos, upload changed files, and compare the repo with the local files.

    Only the files of `contents.ALLOWED` are uploaded, in one commit per repo once all data has been sent. A rerun
    uploads only what is missing. `upload_large_folder` would commit several times and write a cache into the folder; a
    checkpoint has a dozen files, whose uploads resume individually. With SYNTH_GATE=fail they go to a branch, which
    `release` moves `main` to.

    Returns:
        `{"repo", "commit", "url", "branch", "files", "bytes", "uploaded", "private"}` of HF_REPO_ID, and the same of
        HF_LAST_REPO_ID under `"last"`; `{"skipped": reason}` when there is nothing to do.

    Raises:
        BadInput: UPLOAD_TO_HUB=true without token or repo, the base model has no name, or there is no checkpoint.
        PublishFailed: the Hub refuses, or cannot be reached for too long; the checkpoint is kept.
    """
    reason = skipped(settings)
    if reason is not None:
        say("push", f"skipped: {reason}")
        return {"skipped": reason}
    card_facts.need_facts(settings)
    wanted = targets(settings)
    for target in wanted:
        _check_local(target, settings)
    kept = f"{' and '.join(str(t.directory) for t in wanted)} kept; rerun `python -m job push`"
    try:
        api = hub_client.client(settings)
        account = hub_client.retrying("asking for the account", lambda: rights.whoami(api), settings)
        results = [_publish(api, account, target, settings) for target in wanted]
    except JobError as error:
        raise PublishFailed(f"{error}; {kept}") from None
    except Exception as error:  # all other failures of the client or the network also become one line
        raise PublishFailed(f"publishing failed: {hub_client.explain(error, settings)}; {kept}") from None
    first, *others = results
    return {**first, **({"last": others[0]} if others else {})}


def upload_log(settings: Settings) -> None:
    """Upload the console log, secrets redacted, to `logs/console_log.txt` of the repo when UPLOAD_LOGS is true.

    Never raises: it runs last, even after a failed run, and must not hide that run's exit code.
    """
    try:
        if not settings.upload_logs:
            return
        reason = skipped(settings)
        if reason is None and not settings.console_log.is_file():
            reason = f"{settings.console_log} is missing"
        if reason is not None:
            warn("push", f"log not uploaded: {reason}")
            return
        text = settings.console_log.read_text(encoding="utf-8", errors="replace")
        data = redact(text, settings.secrets).encode()
        api = hub_client.client(settings)

        account = hub_client.retrying("asking for the account", lambda: rights.whoami(api), settings, hub_client.FEW)
        repo = rights.full_name(targets(settings)[0].repo, account)
        uploading.create(api, repo, settings, hub_client.FEW)

        def upload() -> None:
            waiting = uploading.candidate(settings)  # what waits on its branch, or was refused, leaves main as it is
            branch = waiting if uploading.gated(settings) and api.revision_exists(repo, waiting) else None
            api.upload_file(
                path_or_fileobj=data,
                path_in_repo=LOG_IN_REPO,
                repo_id=repo,
                revision=branch,
                commit_message="Console log of the run",
            )

        try:
            hub_client.retrying("uploading the log", upload, settings, hub_client.FEW)
        except Exception as error:
            uploading.remove_unused(api, repo, settings, error)
            raise
        say("push", f"uploaded the log to {repo}/{LOG_IN_REPO}")
    except Exception as error:
        warn("push", f"the log could not be uploaded: {hub_client.explain(error, settings)}")


def _check_local(target: Target, settings: Settings) -> None:
    """Refuse to publish a checkpoint that does not exist or has no valid model card.

    Raises:
        BadInput: naming what to run.
    """
    readme = target.directory / "README.md"
    if not target.directory.is_dir():
        raise BadInput(f"{target.directory} is missing, so there is nothing to push to {target.repo}; run train first")
    if not readme.is_file():
        raise BadInput(f"{readme} is missing; run `python -m job validate` first")
    text, _ = front_matter.decoded(readme.read_bytes(), str(readme))
    problems = card_rules.check_card(text)
    if card_facts.base_model(settings) and not re.search(r"^base_model:", text, re.MULTILINE):
        problems.append(f"it does not name the base model {card_facts.base_model(settings)}")
    if problems:
        raise BadInput(f"{readme} cannot be published: {'; '.join(problems)}; then run `python -m job validate`")


def _publish(api: HfApi, account: dict[str, Any], target: Target, settings: Settings) -> dict[str, Any]:
    """Publish one checkpoint to `main`, or to its candidate branch while the speech gate has to pass first."""
    sources: dict[str, Path | bytes] = dict(uploading.model_files(target))
    uploading.guard(sources, settings)
    wanted = rights.full_name(target.repo, account)
    repo = hub_client.retrying(
        f"checking {wanted}", lambda: rights.check_target(api, account, target, settings), settings
    )
    branch = uploading.candidate(settings) if uploading.gated(settings) else uploading.MAIN
    uploading.create(api, repo, settings)
    sources = kept_cards.with_card(api, repo, sources, settings, "push")
    message = uploading.commit_message(target, settings)
    try:
        sent = uploading.send(api, repo, sources, message, settings, branch=branch, stale=contents.ALL_STALE)
    except PublishFailed:
        raise
    except Exception as error:
        uploading.remove_unused(api, repo, settings, error)
        raise
    url = f"{api.endpoint}/{repo}"
    visibility = "private" if sent.private else "public"
    say("push", f"{url} ({visibility}) {'is now up to date' if sent.changed else 'was already up to date'}")
    if branch != uploading.MAIN:
        say("push", f"SYNTH_GATE=fail: it is on branch {branch}, and main follows once the test speech has passed")
    return {
        "repo": repo,
        "commit": sent.commit,
        "url": url,
        "branch": branch,
        "files": len(sources),
        "bytes": sum(uploading.size_of(source) for source in sources.values()),
        "uploaded": sent.changed,
        "private": sent.private,
    }
