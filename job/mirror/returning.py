"""Bring prepared data and training back from the mirror onto a machine that has neither."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from job.config.settings import Settings
from job.core import files, state
from job.core.attempts import repeated
from job.core.console import say, warn
from job.core.errors import Unreachable
from job.mirror.archive import Archive, Damaged, Manifest
from job.mirror.belongings import SCRATCH
from job.stages import fingerprint, stage, stage_values

T = TypeVar("T")

#: Attempts to reach the mirror before the run ends, to be tried again later; seconds before the second one.
ATTEMPTS = 4
FIRST_WAIT = 3.0


def bring_data(settings: Settings, archive: Archive) -> None:
    """Bring back what fetch and prepare have made of the same source with the same settings, if nothing is here yet.

    Raises:
        Unreachable: there may be something, but the mirror does not answer.
    """
    paths = settings.paths
    _forget_stale(settings)
    if settings.force or (paths.state / "fetch.json").exists() or (paths.prepared / "summary.json").exists():
        return
    for one in listed(settings, archive):
        edits = one.entries.get(f"work/{paths.edits.relative_to(paths.work).as_posix()}")
        if paths.edits.is_file() and (edits is None or files.digest_file(paths.edits) != edits.sha256):
            say("mirror", f"its prepared data are from before {paths.edits} was changed and are left out")
        else:
            bring(settings, archive, [one])


def bring_training(settings: Settings, archive: Archive, prepared: str) -> None:
    """Bring back the end of the same training or its newest complete checkpoint, unless this machine has got further.

    Args:
        prepared: digest of the prepared data that is trained on.

    Raises:
        Unreachable: there may be one, but the mirror does not answer.
    """
    if settings.force or settings.resume == "never" or is_current(settings, "train"):
        return
    here = own_steps(settings.paths.output, settings.paths.earlier)
    try:
        found = listed(settings, archive)
    except Unreachable as error:
        if not here:
            raise
        warn("mirror", f"{error}; continuing with what is on this machine")
        return
    usable = [one for one in found if one.facts.get("prepared") == prepared]
    if len(usable) < len(found):
        say("mirror", f"{len(found) - len(usable)} checkpoints there are of other prepared data and are left out")
    newer = [one for one in usable if int(one.facts["step"]) > here.get(str(one.facts.get("key")), -1)]
    bring(settings, archive, sorted(newer, key=_progress, reverse=True))


def _progress(one: Manifest) -> tuple[bool, int]:
    return one.name == "trained", int(one.facts["step"])


def is_current(settings: Settings, name: str) -> bool:
    """Whether a stage is done with the current settings and inputs."""
    one, found = stage(name), state.read(settings.paths.state, name) or {}
    return bool(found.get("fingerprint") == fingerprint(settings, one, stage_values(settings, one)))


def own_steps(*outputs: Path) -> dict[str, int]:
    """The key of each run that has checkpoints in these directories, and its newest step."""
    steps: dict[str, int] = {}
    for path in (path for output in outputs for path in output.glob("checkpoint-*/state.json")):
        try:
            found = files.read_json(path)
            steps[str(found["key"])] = max(int(found["step"]), steps.get(str(found["key"]), -1))
        except (OSError, ValueError, KeyError):
            continue
    return steps


def _forget_stale(settings: Settings) -> None:
    """Let fetch run again if prepare has to: what came from the mirror has no recordings with it."""
    directory = settings.paths.state
    if (state.read(directory, "fetch") or {}).get("restored") and not is_current(settings, "prepare"):
        for name in ("prepare", "fetch"):
            (directory / f"{name}.json").unlink(missing_ok=True)


def listed(settings: Settings, archive: Archive) -> list[Manifest]:
    """The complete sets of this run; says so if the mirror has only those of others."""
    there = patiently(settings, archive, archive.store.listing)
    found = patiently(settings, archive, lambda: archive.manifests(there))
    kind = archive.folder.partition("-")[0]
    others = {name.split("/")[0] for name in there if name.startswith(f"{kind}-")} - {archive.folder}
    if not found and others:
        what = "prepared data" if kind == "data" else "checkpoints"
        taken = sum(size for name, size in there.items() if name.split("/")[0] in others)
        say(
            "mirror",
            f"its {what} are of other settings or data ({len(others)} of them, {taken / 1e6:.1f} MB) and are left out; "
            "those of runs that are over are yours to delete",
        )
    return found


def bring(settings: Settings, archive: Archive, wanted: Iterable[Manifest]) -> bool:
    """Bring back the first of the sets that is intact, and put it into place; whether there was one."""
    paths = settings.paths
    roots = {"work": paths.work / SCRATCH, "output": paths.output / SCRATCH}
    for manifest in wanted:
        say("mirror", f"bringing back {manifest.name}: {len(manifest.entries)} files, {manifest.size / 1e6:.1f} MB")
        try:
            for root in roots.values():
                shutil.rmtree(root, ignore_errors=True)
            patiently(settings, archive, lambda manifest=manifest: archive.bring(manifest, roots))  # type: ignore[misc]
            _place(roots["output"], paths.output)
            _place(roots["work"], paths.work)
            _adopt(settings, roots["work"] / "state")
            return True
        except (Damaged, FileNotFoundError) as error:
            warn("mirror", f"{manifest.name} is left out: {archive.store.explain(error)}")
        finally:
            for root in roots.values():
                shutil.rmtree(root, ignore_errors=True)
    return False


def _place(source: Path, target: Path) -> None:
    """Move what was brought back into place, replacing whole directories where they belong together.

    Checkpoints come last: a kill before them means that nothing was brought back.
    """
    whole = ("best", "last", "prepared")
    for path in sorted(source.glob("*"), key=lambda one: one.name.startswith("checkpoint-")):
        into = target / path.name
        if path.name == "state":
            continue  # adopted
        if path.is_dir() and path.name not in whole and not path.name.startswith(("checkpoint-", "step-")):
            into.mkdir(parents=True, exist_ok=True)
            _place(path, into)
            continue
        if into.is_dir():
            shutil.rmtree(into)
        into.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, into)


def _adopt(settings: Settings, states: Path) -> None:
    """Let stages count as done here: their fingerprints name files' places and times, which differ by machine."""
    paths = settings.paths
    for name in ("fetch", "prepare", "train"):
        found = state.read(states, name)
        if found is not None:
            one = stage(name)
            now = fingerprint(settings, one, stage_values(settings, one))
            outputs = [str(path) for path in one.outputs(paths)]
            changed = {**found, "fingerprint": now, "outputs": outputs, "restored": True}
            files.write_json(paths.state / f"{name}.json", changed)


def patiently(settings: Settings, archive: Archive, ask: Callable[[], T]) -> T:
    """Ask the mirror a few times.

    Raises:
        Unreachable: it does not answer, which must not be mistaken for an empty mirror.
    """

    def reason(error: Exception) -> str | None:
        return None if isinstance(error, Damaged | FileNotFoundError) else archive.store.explain(error)

    try:
        return repeated(ask, ATTEMPTS, FIRST_WAIT, "mirror", reason)
    except (Damaged, FileNotFoundError):
        raise
    except Exception as error:
        raise Unreachable(
            f"MIRROR_CHECKPOINTS={settings.mirror_checkpoints}: {archive.store.explain(error)}; try again later, or "
            "unset it to start without what is there"
        ) from error
