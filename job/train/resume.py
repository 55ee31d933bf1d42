"""Checkpoints that resume a run exactly: saves and restores everything the next step depends on.

A checkpoint is a directory `checkpoint-<step>/` of safetensors and JSON (nothing that executes code when read):

    trained.safetensors    the trained weights, fp32
    optimizer.safetensors  the optimizer's tensors, `<index of the parameter>.<name>`
    random.safetensors     states of the random number generators
    state.json             step, position in the data, scheduler, guards, sizes of the logs
    checksums.json         SHA-256 of the files above; written last

It is written under a temporary name and then renamed. The newest one with matching checksums is used; a damaged one is
skipped with a message.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from job.config.optimizer_choice import other_kind
from job.core import files
from job.core.console import say, warn
from job.core.errors import BadInput
from job.train import random_state
from job.train.spread import copied, like
from job.train.warm import other_parameters

_NAME = re.compile(r"checkpoint-(\d+)")
_FILES = ("trained.safetensors", "optimizer.safetensors", "random.safetensors", "state.json")


@dataclass
class Snapshot:
    """A checkpoint in memory, taken after a step, with its `state.json`: copies that training does not change."""

    step: int
    state: dict[str, Any]
    trained: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]
    random: dict[str, torch.Tensor]


def snapshot(
    step: int,
    state: dict[str, Any],
    parameters: list[tuple[str, torch.nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    kind: str,
) -> Snapshot:
    """Copy everything the next step depends on. With a sharded model this is a collective: all processes call it.

    Args:
        kind: that of the optimizer's state (`optimizer_choice.kind_of`).
    """
    moments, rates = _optimizer_state(optimizer)
    state = copy.deepcopy(state)  # training appends to these lists before they are written
    state.update(step=step, optimizer={"groups": rates, "kind": kind})
    return Snapshot(step, state, {name: copied(p) for name, p in parameters}, moments, random_state.current())


def save(
    output: Path, taken: Snapshot, keep: int, making_room: Callable[[Callable[[], None]], None] = lambda write: write()
) -> None:
    """Write `checkpoint-<step>` and remove all but the newest `keep`.

    A full disk, if `making_room` cannot help, loses this checkpoint but does not end the run: there are earlier ones.
    """
    from safetensors.torch import save_file

    def fill(target: Path) -> None:
        save_file(taken.trained, target / "trained.safetensors")
        save_file(taken.moments, target / "optimizer.safetensors")
        save_file(taken.random, target / "random.safetensors")
        files.write_json(target / "state.json", taken.state)
        files.write_json(target / "checksums.json", {name: files.digest_file(target / name) for name in _FILES})

    step = taken.step
    try:
        making_room(lambda: files.replace_directory(output / f"checkpoint-{step}", fill))
    except Exception as error:
        if not files.is_full(error):
            raise
        kept = ", ".join(path.name for path in _found(output)[:1]) or "the start"
        warn(
            "train",
            f"checkpoint-{step} is not written, OUTPUT_DIR={output} is full: make room; until the next one is, a "
            f"restart resumes from {kept}",
        )
        return
    # Later ones are damaged, or from before the run went back to an earlier step: do not count them, or they would push
    # out the one to resume from.
    for old in [path for path in _found(output) if _step(path) <= step][keep:]:
        files.remove_directory(old)


def named(path: str) -> Path:
    """Return the checkpoint that RESUME=<path> names.

    Raises:
        BadInput: it is not a checkpoint, or is damaged.
    """
    found = Path(path).expanduser().absolute()
    if not (found / "state.json").is_file():
        raise BadInput(f"RESUME={path}: neither a checkpoint of this job nor an adapter; use auto, never or a path")
    problem = _problem(found)
    if problem is not None:
        raise BadInput(f"RESUME={path}: {problem}; take another checkpoint, or RESUME=auto")
    return found


def step_of(path: Path, name: str = "state.json") -> int:
    """Read the step a checkpoint was written after from its file `name`; -1 if there is none."""
    try:
        return int(files.read_json(path / name)["step"])
    except FileNotFoundError:
        return -1


def latest(output: Path) -> Path | None:
    """The newest checkpoint that was written to its end, of whatever run; its weights are not looked at."""
    return next((path for path in _found(output) if (path / "checksums.json").is_file() and key_of(path)), None)


def key_of(path: Path) -> str:
    """Which run a checkpoint is of (see `newest`); empty if that cannot be read."""
    try:
        return str(files.read_json(path / "state.json")["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def newest(
    output: Path, key: str, after: int = -1, differences: Callable[[dict[str, Any]], str] | None = None
) -> Path | None:
    """Find the newest intact checkpoint of the run `key`; others are reported and skipped.

    `key` is the hash of everything the run's result depends on; resuming another run's steps would give neither run's
    result. Checkpoints up to and including step `after` are ignored.

    Args:
        differences: what is different in this run, by another run's `state.json`; it is said of that run's newest.
    """
    others = False
    for path in _found(output):
        if _step(path) <= after:
            break
        problem = _problem(path)
        if problem is not None:
            warn("train", f"{path.name} is left out: {problem}")
            continue
        state = files.read_json(path / "state.json")
        if state.get("key") != key:
            if not others:
                what = differences(state) if differences else ""
                say("train", f"{path.name} is of a run with other settings or data{what} and is left out")
            others = True
            continue
        return path
    return None


def restore(
    path: Path, parameters: list[tuple[str, torch.nn.Parameter]], optimizer: torch.optim.Optimizer, kind: str
) -> None:
    """Restore weights, optimizer state and random number generators.

    The number of processes may differ from the run that wrote it: it holds full tensors, and each process takes its
    shard of them.

    Args:
        kind: that of the optimizer's state (`optimizer_choice.kind_of`).

    Raises:
        BadInput: it is from a run with other trained parameters or another optimizer (RESUME=<path>).
    """
    from safetensors.torch import load_file

    trained = load_file(path / "trained.safetensors")
    state = files.read_json(path / "state.json")
    ours = {name: tuple(parameter.shape) for name, parameter in parameters}
    if ours != {name: tuple(tensor.shape) for name, tensor in trained.items()}:
        raise BadInput(other_parameters(path))
    if problem := other_kind(state["optimizer"].get("kind", kind), kind):
        raise BadInput(f"RESUME={path}: {problem}")
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(like(trained[name], parameter))
    _restore_optimizer(optimizer, load_file(path / "optimizer.safetensors"), state["optimizer"])
    random_state.restore(load_file(path / "random.safetensors"))


def restore_rates(scheduler: Any, saved: dict[str, Any]) -> None:
    """Restore a `LambdaLR`'s position but keep the settings' learning rates, which may differ with RESUME=<path>."""
    scheduler.load_state_dict({**saved, "base_lrs": scheduler.base_lrs})
    shares = [share(scheduler.last_epoch) for share in scheduler.lr_lambdas]
    rates = [rate * share for rate, share in zip(scheduler.base_lrs, shares, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def clear(output: Path, but: Path | None = None) -> int:
    """Remove all checkpoints, because another run begins; returns how many there were. `but` is left."""
    found = [path for path in _found(output) if but is None or path.resolve() != but.resolve()]
    for path in reversed(found):  # so that the newest is there, and can be kept, until all others are gone
        files.remove_directory(path)
    for partial in output.glob(f".checkpoint-*{files.TEMPORARY_SUFFIX}"):
        shutil.rmtree(partial, ignore_errors=True)
    return len(found)


def truncate_log(path: Path, size: int) -> None:
    """Truncate a log to its size at a checkpoint, so that no step is in it twice."""
    if not path.exists():
        files.write_text(path, "")
    with open(path, "r+b") as handle:
        handle.truncate(min(size, path.stat().st_size))


def _found(output: Path) -> list[Path]:
    """List the checkpoints, newest first."""
    named = [path for path in output.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(named, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _problem(path: Path) -> str | None:
    """Say why a checkpoint cannot be resumed from; None if it is intact."""
    try:
        checksums = files.read_json(path / "checksums.json")
    except (OSError, ValueError):
        return "it has no checksums, so its writing was cut short"
    for name in _FILES:
        try:
            if files.digest_file(path / name) != checksums.get(name):
                return f"{name} is damaged"
        except OSError:
            return f"{name} is missing"
    return None


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Return the optimizer's tensors by flat names, and its learning rates."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": copied(value) if isinstance(value, torch.Tensor) else torch.tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    rates = [{"lr": group["lr"], "initial_lr": group.get("initial_lr")} for group in state["param_groups"]]
    return tensors, rates


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], saved: dict[str, Any]
) -> None:
    state = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        values.setdefault(int(index), {})[key] = like(tensor, parameters[int(index)])
    state["state"] = values
    for group, rates in zip(state["param_groups"], saved["groups"], strict=True):
        group.update({key: value for key, value in rates.items() if value is not None})
    optimizer.load_state_dict(state)
