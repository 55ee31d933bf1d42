"""Experiment trackers: send the two logs to TensorBoard, Weights & Biases or trackio through accelerate.

The JSONL logs are always written by the loop itself, so a tracker may fail without harm: it is dropped with one warning
and training continues. The trackers' files are in OUTPUT_DIR/trackers.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from job.core import files
from job.core.console import warn
from job.core.errors import BadInput, JobError
from job.core.redact import one_line, redact

if TYPE_CHECKING:
    from job.config.settings import Settings

#: Tracker -> its requirement for `pip install`. trackio >= 0.21 needs a huggingface_hub that qwen-tts cannot use.
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio<0.21"}
#: Always on; not one of accelerate's trackers.
ALWAYS = "jsonl"
#: Seconds W&B may take to start, and to send its remaining data at the end: the GPU is being paid for meanwhile.
WANDB_START_SECONDS = 60.0
WANDB_FINISH_SECONDS = 60.0


def names(settings: Settings) -> list[str]:
    """List the trackers of TRACKERS and USE_WANDB, in order, without `jsonl`.

    Raises:
        BadInput: one is unknown, or its package is missing.
    """
    wanted = [name.strip().lower() for name in settings.trackers.split(",")]
    wanted = [name for name in dict.fromkeys([*wanted, *["wandb"] * settings.use_wandb]) if name and name != ALWAYS]
    for name in wanted:
        if name not in PACKAGES:
            raise BadInput(f"TRACKERS={settings.trackers}: {name!r} is not one of {ALWAYS}, {', '.join(PACKAGES)}")
        if importlib.util.find_spec(name) is None:
            variable = "TRACKERS" if name in settings.trackers.lower() else "USE_WANDB"
            raise BadInput(f"{variable}: {name} is not installed; run `pip install '{PACKAGES[name]}'` or leave it out")
    return wanted


def directory(settings: Settings) -> Path:
    """Return the directory of the trackers' files."""
    return settings.paths.output / "trackers"


def check(settings: Settings) -> list[str]:
    """Reject settings that would leave a run untracked. Returns `names`.

    Raises:
        BadInput: a tracker is unknown or not installed, or W&B has neither a key nor WANDB_MODE=offline.
    """
    wanted = names(settings)
    if "wandb" in wanted:
        import wandb

        # W&B reads its own variables and files; without a key `wandb.init` would prompt for one on a terminal.
        unsent = wandb.setup().settings.mode in ("offline", "dryrun", "disabled")
        if not unsent and not _logged_in(wandb) and _key(settings) is None:
            raise BadInput("TRACKERS: wandb has no key; set WANDB_API_KEY, or WANDB_MODE=offline to keep the run here")
    return wanted


class Trackers:
    """Context manager of one run's trackers. The accelerator was given their `names` and `directory`."""

    def __init__(self, settings: Settings, accelerator: Any) -> None:
        self._settings = settings
        self._accelerator = accelerator
        self._secrets = settings.secrets
        self._running: dict[str, Any] = {}

    def __enter__(self) -> Trackers:
        """Do nothing yet: `start` opens the trackers, once it is known whether the run resumes from a checkpoint."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all trackers, however training ended."""
        for name, tracker in list(self._running.items()):
            if name == "wandb":
                self._attempt(name, tracker.tracker.finish, exit_code=int(error is not None))
            else:
                self._attempt(name, tracker.finish)
        self._running.clear()
        self._accelerator.trackers = []

    def start(self, resumed_from: int = 0) -> None:
        """Open the trackers, on the main process only. A resumed run continues its curves; one from 0 is a new run."""
        if not self._accelerator.is_main_process or not self._accelerator.log_with:
            return
        where = directory(self._settings)
        identity = self._identity(where / "run.json", resumed_from)
        wanted, opened = list(self._accelerator.log_with), []
        for one in wanted:  # one by one, so that one failure does not affect the others
            name = str(one)
            self._accelerator.log_with, self._accelerator.trackers = [one], []
            if self._attempt(name, self._open, name, where, identity, resumed_from):
                (self._running[name],) = self._accelerator.trackers
                opened += self._accelerator.trackers
        self._accelerator.log_with, self._accelerator.trackers = wanted, opened

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        """Send one log line (`kind` is `train` or `validation`), its numbers as `<kind>/<name>`."""
        step = int(record["step"])
        numbers = {f"{kind}/{k}": v for k, v in record.items() if k != "step" and _is_number(v)}
        for name, tracker in list(self._running.items()):
            # accelerate does not pass the step on to trackio, which then counts calls instead.
            log = tracker.tracker.log if name == "trackio" else tracker.log
            self._attempt(name, log, numbers, step=step)

    def _open(self, name: str, where: Path, identity: dict[str, str], resumed_from: int) -> None:
        settings = self._settings
        config = _config(settings)
        options: dict[str, Any] = {}
        if name == "tensorboard":
            # Hide points after the checkpoint, logged before the run was interrupted.
            options = {"purge_step": resumed_from + 1} if resumed_from else {}
        elif name == "wandb":
            options = {
                "dir": str(where),
                "id": identity["id"],
                "name": settings.wandb_run_name,
                "entity": settings.wandb_entity,
                "resume": "allow" if resumed_from else None,
                "config": config,  # not set later: offline, accelerate would open a second run for it
                "settings": _wandb_settings(settings),
            }
        elif name == "trackio":
            # The only way to tell trackio where to write; a value set by the user takes precedence.
            os.environ.setdefault("TRACKIO_DIR", str(where / "trackio"))
            options = {"name": identity["name"], "resume": "allow", "config": config, "embed": False}
        where.mkdir(parents=True, exist_ok=True)
        self._accelerator.init_trackers(settings.wandb_project, init_kwargs={name: options})
        if name == "tensorboard" and not resumed_from:
            (tracker,) = self._accelerator.trackers
            tracker.store_init_configuration(config)

    def _identity(self, path: Path, resumed_from: int) -> dict[str, str]:
        """Return the run's id and name: those of the resumed run, or new ones, saved for a later resume."""
        if resumed_from:
            try:
                known = files.read_json(path)
                return {"id": str(known["id"]), "name": str(known["name"])}
            except (OSError, ValueError, KeyError, TypeError):
                pass  # the run was not tracked before it was resumed
        new = secrets.token_hex(4)  # not from our seeded generators: must differ between runs and not advance them
        identity = {"id": new, "name": f"{self._settings.wandb_run_name or 'run'}-{new}"}
        files.write_json(path, identity)
        return identity

    def _attempt(self, name: str, do: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        """Call `do` and return whether it succeeded. If not, this tracker is dropped from now on."""
        try:
            do(*args, **kwargs)
            return True
        except JobError:
            raise  # mainly a signal's
        except Exception as error:  # no tracker failure is worth ending training
            self._running.pop(name, None)
            reason = one_line(error, self._secrets)
            warn("train", f"TRACKERS: {name} failed and is left out from now on: {reason}")
            return False


def _config(settings: Settings) -> dict[str, Any]:
    """Return the variables that can change a result, as plain values; anything that looks like a secret is masked."""
    values = {}
    for name, value in settings.fingerprint_values().items():
        if value is not None:
            plain = value if isinstance(value, bool | int | float) else redact(str(value), settings.secrets)
            values[name] = plain
    return values


def _wandb_settings(settings: Settings) -> Any:
    """Return W&B's own settings: send curves and configuration, and nothing else about this machine."""
    import wandb

    return wandb.Settings(
        api_key=_key(settings),
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        init_timeout=WANDB_START_SECONDS,
        finish_timeout=WANDB_FINISH_SECONDS,
    )


def _key(settings: Settings) -> str | None:
    """Return WANDB_API_KEY from our variables (it may be in a `.env` file, which W&B does not read)."""
    return settings.wandb_api_key.get_secret_value() if settings.wandb_api_key else None


def _logged_in(wandb: Any) -> bool:
    """Return whether W&B finds a key itself: WANDB_API_KEY, its settings, or ~/.netrc. Sends and prompts nothing."""
    settings = wandb.setup().settings
    silent = settings.silent
    settings.silent = True  # its greeting looks up the account, for minutes if the server is down
    try:
        return bool(wandb.login(verify=False, prompt=False))
    except wandb.Error as error:
        raise BadInput(f"WANDB_API_KEY: {one_line(error)}") from error
    finally:
        settings.silent = silent


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
