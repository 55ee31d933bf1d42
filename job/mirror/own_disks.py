"""Nodes that train together, each with a WORK_DIR of its own: how they get the same data and the same checkpoint.

The first node offers what the mirror holds completely. Every node makes sure that it has that on its disk, and none has
anything else to begin from: a checkpoint that one node has alone, or that one of them cannot read, is left out by all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from job.config.settings import Settings
from job.core import files
from job.core.console import say, warn
from job.core.errors import BadInput, Unreachable
from job.mirror import addresses, belongings, returning
from job.mirror.archive import Archive, Manifest
from job.model.loading import base_directory
from job.processes.ranks import Ranks
from job.stages import stage


@dataclass(frozen=True)
class Offer:
    """What the first node lets all begin with.

    Attributes:
        data: the prepared data that are trained on, as they are in the mirror's folder `data_folder`.
        checkpoints: those that are complete in the mirror's folder `training_folder`, newest first.
        finished: training is over; there is nothing to begin.
    """

    data_folder: str
    data: Manifest
    training_folder: str
    checkpoints: tuple[Manifest, ...] = ()
    finished: bool = False


def offered(settings: Settings, data: Archive, training: Archive, prepared: str) -> Offer:
    """On the first node: store its prepared data and its newest checkpoint, and list what all can begin with.

    Args:
        data: where prepared data are stored.
        training: where checkpoints of this run are stored.
        prepared: digest of the prepared data.

    Raises:
        Unreachable: the mirror does not answer.
    """
    facts = {"step": 0, "prepared": prepared}
    sources = belongings.data_files(settings.paths)
    returning.patiently(settings, data, lambda: data.keep("prepared", facts, sources))
    stored = returning.patiently(settings, data, data.manifests)
    (mine,) = [one for one in stored if one.name == "prepared"]
    offer = Offer(data.folder, _only(mine, "work/data/prepared/"), training.folder)
    if _begins_anew(settings):
        return offer
    if _is_finished(settings):
        return replace(offer, finished=True)
    usable = [one for one in returning.listed(settings, training) if one.facts.get("prepared") == prepared]
    if returning.bring(settings, training, [one for one in usable if one.name == "trained"]):
        return replace(offer, finished=_is_finished(settings))
    usable = _by_step(one for one in usable if one.name != "trained")
    if _send_newer(settings, training, usable, prepared):
        again = returning.patiently(settings, training, training.manifests)
        usable = _by_step(one for one in again if one.facts.get("prepared") == prepared and one.name != "trained")
    return replace(offer, checkpoints=tuple(usable))


def take(settings: Settings, ranks: Ranks, offer: Offer) -> None:
    """On all nodes: bring what is offered and not on this disk yet, and agree on one checkpoint, or on none.

    Raises:
        Unreachable: the mirror does not answer.
        BadInput: it does not hold here what the first node has stored.
    """
    archives = _Archives(settings, offer)
    ranks.each_disk(lambda: None if ranks.first else _take_data(settings, archives.data, offer.data))
    if offer.finished or _begins_anew(settings):
        return
    chosen = None
    for one in offer.checkpoints:
        if all(ranks.each_disk(lambda one=one: _has(settings, archives.training, one, first=ranks.first))):  # type: ignore[misc]
            chosen = one.name
            break
        if ranks.first:
            warn("mirror", f"{one.name} is not whole on every node, and is left out by all")
    ranks.each_disk(lambda: _leave_only(settings, chosen))


class _Archives:
    """The archives of an offer, opened where they are needed."""

    def __init__(self, settings: Settings, offer: Offer) -> None:
        self._settings, self._offer = settings, offer

    def _opened(self, folder: str) -> Archive:
        store = addresses.opened(self._settings)
        assert store is not None, "checked when the nodes met"
        return Archive(store, folder)

    @property
    def data(self) -> Archive:
        return self._opened(self._offer.data_folder)

    @property
    def training(self) -> Archive:
        return self._opened(self._offer.training_folder)


def _is_finished(settings: Settings) -> bool:
    outputs = stage("train").outputs(settings.paths)
    return returning.is_current(settings, "train") and all(path.exists() for path in outputs)


def _begins_anew(settings: Settings) -> bool:
    return settings.force or settings.resume == "never"


def _by_step(found: Any) -> list[Manifest]:
    return sorted(found, key=lambda one: int(one.facts["step"]), reverse=True)


def _only(manifest: Manifest, *prefixes: str) -> Manifest:
    """The part of a set that lies below these."""
    return replace(manifest, entries={path: one for path, one in manifest.entries.items() if path.startswith(prefixes)})


def _send_newer(settings: Settings, training: Archive, usable: list[Manifest], prepared: str) -> bool:
    """Store the newest checkpoint of this disk, if the mirror has none as new; whether one was stored."""
    from job.train import resume  # imports torch

    paths = settings.paths
    keys = [str(usable[0].facts.get("key"))] if usable else _keys(paths.output)
    after = int(usable[0].facts["step"]) if usable else -1
    own = resume.newest(paths.output, keys[0], after=after) if keys else None
    linked = belongings.link_checkpoint(paths, own) if own is not None else None
    if own is None or linked is None:
        return False
    say("mirror", f"{own.name} is on this disk only: storing it, so that all nodes can begin from it")
    facts = {"step": resume.step_of(own), "key": keys[0], "prepared": prepared}
    try:
        returning.patiently(settings, training, lambda: training.keep(own.name, facts, linked))
        return True
    except Unreachable as error:
        warn("mirror", f"{own.name} is left out: {error}")
        return False
    finally:
        shutil.rmtree(paths.output / belongings.SCRATCH / own.name, ignore_errors=True)


def _keys(output: Path) -> list[str]:
    """The key of the run with the newest checkpoint on this disk."""
    steps = returning.own_steps(output)
    return sorted(steps, key=lambda key: steps[key], reverse=True)[:1]


def _take_data(settings: Settings, archive: Archive, manifest: Manifest) -> None:
    """On another node: have the first one's prepared data, and the base model."""
    from job.dataset.prepared import write_cache  # imports pyarrow

    base_directory(settings)
    paths = settings.paths
    wanted = manifest.facts["prepared"]
    if files.digest_tree(paths.prepared) != wanted:
        returning.bring(settings, archive, [manifest])
        if files.digest_tree(paths.prepared) != wanted:
            raise BadInput(
                f"MIRROR_CHECKPOINTS={settings.mirror_checkpoints}: this node does not find there the data that node 0 "
                "has stored; name a place that all nodes reach"
            )
    write_cache(paths)


def _has(settings: Settings, archive: Archive, manifest: Manifest, *, first: bool) -> bool:
    """Whether this disk now has a checkpoint; the first node's with what training resumes with beside it."""
    output = settings.paths.output
    part = _only(manifest, f"output/{manifest.name}/")
    if _is_here(output, part):
        return True
    return returning.bring(settings, archive, [manifest if first else part])


def _is_here(output: Path, part: Manifest) -> bool:
    for path, entry in part.entries.items():
        file = output / path.removeprefix("output/")
        if not file.is_file() or file.stat().st_size != entry.size or files.digest_file(file) != entry.sha256:
            return False
    return bool(part.entries)


def _leave_only(settings: Settings, chosen: str | None) -> None:
    """Remove the other checkpoints of this disk, which not all nodes have."""
    named = None if settings.resume == "auto" else Path(settings.resume).expanduser().absolute()
    for path in settings.paths.output.glob("checkpoint-*"):
        if path.name != chosen and path != named:
            shutil.rmtree(path, ignore_errors=True)
