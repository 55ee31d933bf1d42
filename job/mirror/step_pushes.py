"""Upload the model as it is every PUSH_STEPS steps of training to a branch of the voice's repo, in a thread.

Training writes such a model as a plain folder to `output/to_push/step-N` (`job.train.handover`), the newest one only.
What is here takes it from there, so that a slow Hub, or none, never holds a step.
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from types import TracebackType

from job.config.settings import Settings
from job.core.console import say, warn
from job.core.errors import BadInput, JobError
from job.mirror.background import MARGIN, Background
from job.model import card_facts
from job.publish import card, hub_client, rights, uploading
from job.publish.targets import Target, skipped, targets
from job.stages import Stage

#: The branch that holds the newest such model and nothing else; `main` is never written to.
BRANCH = "checkpoints"
#: Everything on the branch but the Hub's own `.gitattributes`.
ALL = ("[!.]*",)
#: The name of what is being uploaded, so that training no longer replaces it.
TAKEN = "uploading"
#: Attempts once training is over, and seconds after the first of them.
LAST_ATTEMPTS = 8
LAST_WAIT = 1.0


def check(settings: Settings) -> None:
    """Check in the first minute that there is somewhere to push to; whether the token may is checked for `push`.

    Raises:
        BadInput: nothing is published with these settings.
    """
    if settings.push_steps:
        _need_repo(settings)
        say("doctor", f"every {settings.push_steps} steps the model goes to branch {BRANCH} of {settings.hf_repo_id}")


def _need_repo(settings: Settings) -> None:
    reason = skipped(settings)
    if reason is None and not settings.hf_repo_id:
        reason = "HF_REPO_ID not set"
    if reason is not None:
        raise BadInput(f"PUSH_STEPS={settings.push_steps}: {reason}, so there is nowhere to push to; set PUSH_STEPS=0")
    card_facts.need_facts(settings)


class StepPushes(Background):
    """Context manager of a run's pushes; does nothing without PUSH_STEPS.

    A failure is a warning, and tried again with the newest model there is then. What is on its way when the stages are
    over is waited for, never longer than GRACE_SECONDS.
    """

    def __init__(self, settings: Settings, *, active: bool = True) -> None:
        """`active` is false in all processes of a distributed run but the first."""
        super().__init__("pushes")
        self._settings = settings
        self._active = active and settings.push_steps > 0
        self._directory = settings.paths.to_push
        self._over = False
        self._warned = ""

    def __enter__(self) -> StepPushes:
        """Start nothing yet: the thread starts with training."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until the newest model has been uploaded, or there is no more time."""
        if self._thread is None:
            return
        self._finish()
        shutil.rmtree(self._directory, ignore_errors=True)

    def before(self, stage: Stage) -> None:
        """Start looking for models that this training writes; what an earlier one has left is not its own.

        Raises:
            BadInput: there is nowhere to push to.
        """
        if self._active and stage.name == "train":
            _need_repo(self._settings)
            shutil.rmtree(self._directory, ignore_errors=True)
            self._start()

    def after(self, stage: Stage) -> None:
        """Look once more after training, which writes no other; the stages that follow do not wait for it."""
        if self._thread is not None and stage.name == "train":
            self._close()

    def _seconds(self, left: float | None) -> float:
        return (self._settings.grace_seconds if left is None else left) - MARGIN

    def _too_late(self, left: float | None) -> None:
        self._over = True
        where = f"branch {BRANCH} of {self._settings.hf_repo_id}"
        grace = self._settings.grace_seconds
        warn("push", f"{where} has not got the newest step: it took longer than GRACE_SECONDS={grace:g}")

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        last_tries = 0
        for closing in self._looks():
            if self._must_wait() and not closing:
                continue
            newest = self._take()
            if newest is None or self._pushed(newest):
                self._succeeded()
                if closing:
                    return
            elif closing:
                last_tries += 1
                if last_tries == LAST_ATTEMPTS or self._over:
                    return
                time.sleep(LAST_WAIT * 2 ** (last_tries - 1))
            else:
                self._failed()

    def _take(self) -> Path | None:
        """The newest model that is complete, under a name of its own; the one that could not be uploaded before it."""
        before = next(iter(self._directory.glob(f"{TAKEN}-*")), None)
        found = sorted(self._directory.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        if not found:
            return before
        taken = self._directory / f"{TAKEN}-{found[-1].name.removeprefix('step-')}"
        try:
            found[-1].rename(taken)
        except FileNotFoundError:  # replaced by a newer one in this moment
            return before
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)
        return taken

    def _pushed(self, directory: Path) -> bool:
        """Try to upload; a failure is one line for each model."""
        step = directory.name.removeprefix(f"{TAKEN}-")
        try:
            self._push(directory, step)
        except Exception as error:
            reason = str(error) if isinstance(error, JobError) else hub_client.explain(error, self._settings)
            if self._warned != step and not self._over:
                warn("push", f"step {step} is not on branch {BRANCH} yet: {reason}; training continues")
            self._warned = step
            return False
        shutil.rmtree(directory, ignore_errors=True)
        return True

    def _push(self, directory: Path, step: str) -> None:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars("huggingface_hub.lfs_upload")  # among the lines of training
        settings = self._settings
        api = hub_client.client(settings)
        target = Target(directory, rights.full_name(targets(settings)[0].repo, rights.whoami(api)), "HF_REPO_ID")
        uploading.create(api, target.repo, settings, attempts=1)
        readme = card.render(settings, checkpoint=directory, branch=BRANCH).encode()
        sources: dict[str, Path | bytes] = {**uploading.model_files(target), "README.md": readme}
        send = partial(uploading.send, api, target.repo, sources, f"Step {step}", settings)
        sent = send(branch=BRANCH, stale=ALL, attempts=1)
        say("push", f"step {step} is on branch {BRANCH} of {api.endpoint}/{target.repo}")
        if sent.changed:
            try:  # the weights of earlier steps would fill the quota
                api.super_squash_history(target.repo, branch=BRANCH, commit_message=f"Step {step}")
            except Exception as error:
                warn("push", f"{target.repo} still holds earlier steps: {hub_client.explain(error, settings)}")
