"""Copy prepared data and checkpoints to the mirror in a thread, while the stages run."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from job.config.settings import Settings
from job.core import files, state
from job.core.console import say, warn
from job.core.errors import JobError
from job.core.redact import one_line
from job.mirror import addresses, belongings, identity, own_disks, returning
from job.mirror.archive import Archive
from job.mirror.background import MARGIN, Background
from job.processes.ranks import Ranks
from job.stages import Stage

#: Attempts once the stages are over.
LAST_ATTEMPTS = 3
#: Seconds that the end of the stages waits for the mirror when no signal has arrived.
LAST_SECONDS = 1800.0


@dataclass
class Copy:
    """A set of files to be stored.

    Attributes:
        facts: what the manifest is to say of it.
        sources: called in the thread: path in the set -> file.
        scratch: directory of its own to be removed afterwards.
        there: what the mirror was just listed to hold; None to ask it.
    """

    archive: Archive
    name: str
    facts: Callable[[], dict[str, Any]]
    sources: Callable[[], dict[str, Path]]
    scratch: Path | None = None
    there: Mapping[str, int] | None = None

    def discard(self) -> None:
        """Remove its links."""
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


class Mirror(Background):
    """Context manager of a run's mirror; does nothing without MIRROR_CHECKPOINTS.

    A failure is a warning, and tried again; it never ends the run or holds a step. What is on its way when the run ends
    is waited for, after a signal as long as GRACE_SECONDS allow.
    """

    def __init__(self, settings: Settings, *, active: bool = True, own_disks: bool = False) -> None:
        """`active` is false in all processes of a distributed run but the first; `own_disks`: see `share`."""
        super().__init__("mirror")
        self._settings = settings
        self._own_disks = own_disks
        self._store = addresses.opened(settings) if active else None
        self._due: dict[str, Copy] = {}  # one of each kind: a newer one replaces one that still waits
        self._lock = threading.Lock()
        self._seen: set[tuple[str, int]] | None = None  # checkpoints that were there before training; None outside it
        self._prepared = ""  # digest of the data that is trained on
        self._data_kept = False  # whether the data has been given to the thread

    def __enter__(self) -> Mirror:
        """Start nothing yet: the thread starts with the first set to be copied."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until everything has been copied, or there is no more time."""
        if self._thread is not None:
            self._finish()
        if self._store is not None:
            shutil.rmtree(self._settings.paths.output / belongings.SCRATCH, ignore_errors=True)

    def _seconds(self, left: float | None) -> float:
        return LAST_SECONDS if left is None else left - MARGIN

    def _too_late(self, left: float | None) -> None:
        why = "it took too long" if left is None else f"GRACE_SECONDS={self._settings.grace_seconds:g}"
        warn("mirror", f"the newest state is not there, {why}; a new machine resumes from the one before it")

    @cached_property
    def _data(self) -> Archive:
        assert self._store is not None
        return Archive(self._store, identity.data_folder(self._settings))

    @cached_property
    def _training(self) -> Archive:
        assert self._store is not None
        return Archive(self._store, identity.run_folder(self._settings, self._data.folder))

    def before(self, stage: Stage) -> None:
        """Bring back what this stage would make or resume from, if it is in the mirror and not on this machine.

        Raises:
            Unreachable: the mirror does not answer, and this machine has nothing to resume from.
        """
        if self._store is None or stage.name not in ("fetch", "prepare", "train"):
            return
        returning.bring_data(self._settings, self._data)
        if stage.name == "train":
            self._prepared = files.digest_tree(self._settings.paths.prepared)
            if not self._own_disks:
                returning.bring_training(self._settings, self._training, self._prepared)
                self._keep_current()
                self._watch()

    def share(self, ranks: Ranks) -> None:
        """Let all nodes train on the same data and from the same checkpoint, where each has a WORK_DIR of its own.

        Raises:
            Unreachable: the mirror does not answer one of them.
            BadInput: one of them does not find there what the first has stored.
        """
        offer = ranks.first_does(lambda: own_disks.offered(self._settings, self._data, self._training, self._prepared))
        own_disks.take(self._settings, ranks, offer)
        if ranks.first:
            self._watch()

    def _watch(self) -> None:
        """Copy from now on what training writes."""
        self._seen = set(self._found())
        self._keep_data()
        self._start()

    def after(self, stage: Stage) -> None:
        """Copy what this stage has finished."""
        if self._store is None:
            return
        if stage.name == "prepare":
            self._keep_data()
        elif stage.name == "train":
            self._seen = None
            if not (state.read(self._settings.paths.state, "train") or {}).get("restored"):
                self._keep_trained()

    # ---- what is copied ----------------------------------------------------------------------------------------------

    def _keep_data(self, there: Mapping[str, int] | None = None) -> None:
        paths = self._settings.paths
        if self._data_kept or not (paths.prepared / "summary.json").is_file():
            return
        self._data_kept = True

        def facts() -> dict[str, Any]:
            return {"step": 0, "prepared": files.digest_tree(paths.prepared)}

        self._submit("data", Copy(self._data, "prepared", facts, lambda: belongings.data_files(paths), there=there))

    def _keep_trained(self) -> None:
        """Link the result at once: the stages that follow change it."""
        paths = self._settings.paths
        done = state.read(paths.state, "train")
        if done is None:
            return
        try:
            linked = belongings.link_trained(paths)
        except OSError as error:
            warn("mirror", f"the trained model is not copied: {error.strerror or error}")
            return
        step = int(done["counts"]["steps"])
        copy = Copy(
            self._training,
            "trained",
            lambda: {"step": step, "prepared": self._prepared},
            lambda: linked,
            paths.output / belongings.SCRATCH / "trained",
        )
        self._submit("training", copy)

    def _keep_current(self) -> None:
        """Keep a training that need not be done again and is not in the mirror under this name: a new revision of the
        same contents is another run, and a new machine would train from the beginning."""
        if self._settings.force or not returning.is_current(self._settings, "train"):
            return
        assert self._store is not None
        try:
            there = self._store.listing()
        except Exception as error:
            warn("mirror", f"not asked for the trained model: {self._store.explain(error)}")
            return
        self._keep_data(there)
        if f"{self._training.folder}/trained.json" not in there:
            self._keep_trained()

    def _found(self) -> dict[tuple[str, int], Path]:
        found = {}
        for path in self._settings.paths.output.glob("checkpoint-*"):
            _, _, modified = files.stamp(path / "state.json")
            if modified > 0:
                found[path.name, modified] = path
        return found

    def _look(self) -> None:
        """Take links to the newest checkpoint if it is a new one."""
        seen = self._seen
        if seen is None:
            return
        new = {mark: path for mark, path in self._found().items() if mark not in seen}
        if not new:
            return
        mark, newest = max(new.items(), key=lambda one: int(one[1].name.removeprefix("checkpoint-")))
        seen |= set(new)
        linked = belongings.link_checkpoint(self._settings.paths, newest)
        if linked is None:
            seen.discard(mark)  # something was replaced meanwhile: look again
            return
        found = files.read_json(linked[f"output/{newest.name}/state.json"])
        facts = {"step": int(found["step"]), "key": found["key"], "prepared": self._prepared}
        scratch = self._settings.paths.output / belongings.SCRATCH / newest.name
        copy = Copy(self._training, newest.name, lambda: facts, lambda: linked, scratch)
        with self._lock:
            if self._seen is None:  # training has ended meanwhile, and its result is what counts
                copy.discard()
                return
            self._put("training", copy)

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _submit(self, kind: str, copy: Copy) -> None:
        with self._lock:
            self._put(kind, copy)
        self._wake.set()
        self._start()

    def _put(self, kind: str, copy: Copy) -> None:
        superseded, self._due[kind] = self._due.get(kind), copy
        if superseded is not None and superseded.scratch != copy.scratch:
            superseded.discard()

    def _work(self) -> None:
        last_tries = 0
        for closing in self._looks():
            try:
                self._look()
            except Exception as error:
                warn("mirror", f"a checkpoint is not copied: {one_line(error, self._settings.secrets)}")
            if closing and (not self._due or last_tries >= LAST_ATTEMPTS):
                return
            if not self._due or (self._must_wait() and not closing):
                continue
            with self._lock:
                kind = min(self._due)  # data before training
                copy = self._due.pop(kind)
            if self._copied(copy):
                self._succeeded()
                copy.discard()
                self._wake.set()
            else:
                self._failed()
                last_tries += closing
                self._put_back(kind, copy)

    def _put_back(self, kind: str, copy: Copy) -> None:
        with self._lock:
            newer = self._due.setdefault(kind, copy)
        if newer is not copy and newer.scratch != copy.scratch:
            copy.discard()

    def _copied(self, copy: Copy) -> bool:
        """Try to copy; a failure is one line."""
        try:
            there, copy.there = copy.there, None  # asked anew when it is tried again
            there = copy.archive.store.listing() if there is None else there
            sent = copy.archive.keep(copy.name, copy.facts(), copy.sources(), self._outlived(copy, there), there)
            if sent is not None:
                say("mirror", f"{copy.name} is there ({sent / 1e6:.1f} MB sent)")
            return True
        except Exception as error:
            assert self._store is not None
            reason = str(error) if isinstance(error, JobError) else self._store.explain(error)
            warn("mirror", f"{copy.name} could not be copied: {reason}; training continues, and it will be tried again")
            return False

    def _outlived(self, copy: Copy, listed: Mapping[str, int]) -> list[str]:
        """The checkpoints that go when this one has come: all but the newest SAVE_TOTAL_LIMIT, and of other weights."""
        if copy.archive is not self._training or copy.name == "trained":
            return []
        facts = copy.facts()
        there = [one for one in copy.archive.manifests(listed) if one.name != copy.name]
        same = [one for one in there if one.facts.get("key") == facts["key"]]
        same = sorted((one for one in same if int(one.facts["step"]) < facts["step"]), key=lambda m: m.facts["step"])
        kept = {one.name for one in same[len(same) - self._settings.save_total_limit + 1 :]}
        return [one.name for one in there if one.name not in kept]
