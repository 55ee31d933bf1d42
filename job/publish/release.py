"""After the report: publish the test speech with the model, and move `main` to a model that has waited for the gate.

The Hub cannot move a branch, so `main` gets a commit of the same files: it knows the large ones by their hash, and
nothing is sent twice. Everything is one commit, so `main` has the old voice or the new one with all that belongs to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.core import files
from job.core.console import say
from job.core.errors import JobError, PublishFailed
from job.publish import card, contents, hub_client, kept_cards, places, rights, uploading
from job.publish.targets import Target, targets

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: What is replaced as a whole in the repo: test speech and report of an earlier run.
OLD_SPEECH = ("samples/*", "report/*")


def passed(settings: Settings) -> dict[str, Any]:
    """Publish the test speech to where the model is, and move `main` to a model that has waited on its branch.

    Raises:
        PublishFailed: the Hub refuses, or cannot be reached for too long; all is kept, and a rerun continues.
    """
    return _release(settings, heard=True, good=True)


def refused(settings: Settings) -> dict[str, Any]:
    """Publish the test speech that failed the gate beside the model that said it, and leave `main` as it is.

    Raises:
        PublishFailed: as above.
    """
    return _release(settings, heard=True, good=False)


def unheard(settings: Settings) -> dict[str, Any]:
    """Publish the report of a model that has said nothing (it cannot, or `synthesize` has not been run).

    Raises:
        PublishFailed: as above.
    """
    return _release(settings, heard=False, good=False)


def _release(settings: Settings, *, heard: bool, good: bool) -> dict[str, Any]:
    gated = uploading.gated(settings)
    moves = gated and good
    try:
        api = hub_client.client(settings)
        account = hub_client.retrying("asking for the account", lambda: rights.whoami(api), settings)
        done = [
            _one(api, rights.full_name(target.repo, account), target, settings, heard, gated, moves)
            for target in targets(settings)
        ]
    except JobError as error:
        raise PublishFailed(f"{error}; run the same again") from None
    except Exception as error:  # all other failures of the client or the network also become one line
        raise PublishFailed(f"publishing failed: {hub_client.explain(error, settings)}; run the same again") from None
    return {"repos": done, "moved": moves}


def _one(
    api: HfApi, repo: str, target: Target, settings: Settings, heard: bool, gated: bool, moves: bool
) -> dict[str, Any]:
    waiting = uploading.candidate(settings)
    branch = waiting if gated and not moves else uploading.MAIN
    sources: dict[str, Path | bytes] = dict(uploading.model_files(target)) if moves else {}
    speaks = target.directory == settings.paths.best and (heard or not gated)
    if speaks:
        sources |= _speech(api, repo, target, settings, heard, branch)
    sources = kept_cards.with_card(api, repo, sources, settings, "release")
    if sources:
        message = f"{uploading.commit_message(target, settings)}, with its test speech" if moves else "Test speech"
        stale = [*(OLD_SPEECH if speaks and heard else ()), *(contents.ALL_STALE if moves else ())]
        uploading.send(api, repo, sources, message, settings, branch=branch, stale=stale, stage="release")
    if branch == uploading.MAIN:
        hub_client.retrying(f"tagging {repo}", lambda: uploading.tag(api, repo, target, settings), settings)
        # with the gate or, once it was refused, without it: main has what has waited
        hub_client.retrying(f"tidying {repo}", lambda: _drop(api, repo, waiting), settings)
    if moves:
        say("release", f"{api.endpoint}/{repo}: the test speech has passed, main has the new voice")
    elif gated:
        why = f"has failed, the candidate is at {api.endpoint}/{repo}/tree/{branch}" if heard else "has not passed yet"
        say("release", f"main of {repo} stays as it was: the test speech {why}")
    else:
        say("release", f"{api.endpoint}/{repo} is complete")
    return {"repo": repo, "branch": branch}


def _speech(
    api: HfApi, repo: str, target: Target, settings: Settings, heard: bool, branch: str
) -> dict[str, Path | bytes]:
    """The samples, their figures, the report, and the card with its table and players; no directory of this machine."""
    paths = settings.paths
    found: dict[str, Path | bytes] = {"report/index.html": places.report(paths.report, settings)}
    if heard:
        sounds = sorted(path for path in paths.samples.rglob("*") if path.suffix == ".wav")
        found |= {f"samples/{path.relative_to(paths.samples).as_posix()}": path for path in sounds}
        figures = places.without_places((paths.samples / "stats.json").read_text(encoding="utf-8"), settings)
        found["samples/stats.json"] = figures.encode()
        stats = json.loads(figures)
        text = card.render(settings, stats, f"{api.endpoint}/{repo}/resolve/{branch}/samples")
        text = kept_cards.local(target.directory / "README.md", text, "release")
        found["README.md"] = text.encode()
        if branch == uploading.MAIN:
            files.write_text(target.directory / "README.md", text)
    return found


def _drop(api: HfApi, repo: str, branch: str) -> None:
    if api.revision_exists(repo, branch):
        api.delete_branch(repo, branch=branch)
