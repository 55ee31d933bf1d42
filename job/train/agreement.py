"""What a training depends on, and that all processes of a run, on whichever node, depend on the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config import variables
from job.config.settings import Settings
from job.core import files
from job.core.errors import BadInput
from job.core.state import SHOWN, differences, some_of
from job.processes.ranks import Ranks
from job.train import warm


@dataclass(frozen=True)
class Basis:
    """Everything that a training's result depends on; contents only, no places and no times of day.

    So a run may resume in another directory, or on another machine.

    Attributes:
        values: the variables.
        data: digests of the prepared data's files.
        weights: digests of the base model's weights, and of the adapter's that it starts from.
    """

    values: dict[str, Any]
    data: list[str]
    weights: list[str]

    @property
    def key(self) -> str:
        """A hash of all; a checkpoint with another key is not resumed."""
        return files.digest_bytes(
            json.dumps([self.values, self.data, self.weights], sort_keys=True, default=str).encode()
        )

    def differences(self, state: dict[str, Any]) -> str:
        """What is different from the run that wrote a checkpoint's `state.json`, in brackets; empty if unknown."""
        before = state.get("basis")
        if not isinstance(before, dict):  # written by an earlier version
            return ""
        found = differences(*({**values, "RESUME": ""} for values in (before["values"], self.values)))
        found += ["the prepared data are others"] * (before["data"] != self.data)
        found += ["the base model's weights are others"] * (before["weights"] != self.weights)
        return f" ({some_of(found, ', ')})" if found else ""


def basis_of(settings: Settings, base: Path) -> Basis:
    """Read what a training with these settings on the prepared data and the base in `base` depends on."""
    groups = (variables.ModelVariables, variables.VoiceVariables, variables.TrainingVariables)
    fields = {name.upper() for group in groups for name in group.model_fields} - {"WORK_DIR", "OUTPUT_DIR"}
    values = {name: value for name, value in settings.fingerprint_values().items() if name in fields}
    if settings.resume == "never":  # ignoring old checkpoints does not make it a different run
        values["RESUME"] = "auto"
    prepared = settings.paths.prepared
    data = [files.digest_once(path) for path in (prepared / "summary.json", settings.paths.speakers)]
    data += [files.digest_once(path) for path in sorted(prepared.rglob("*.parquet"))]
    weights = [files.digest_weights(path) for path in sorted(base.glob("*.safetensors"))]
    adapter = warm.adapter_of(settings)
    weights += [files.digest_weights(path) for path in warm.weights_of(adapter)] if adapter else []
    return Basis(values, data, weights)


def check(settings: Settings, basis: Basis, ranks: Ranks) -> None:
    """Check before the first step that all processes would train the same; all raise the same, which is said once.

    Raises:
        BadInput: naming the node, and what is different there.
    """
    found = ranks.gather((settings.node_rank, basis))
    _, ours = found[0]
    for node, theirs in found[1:]:
        where = f"on node {node}"
        for name in sorted(ours.values.keys() | theirs.values.keys()):
            one, two = ours.values.get(name), theirs.values.get(name)
            if one != two:
                values = f"{str(one)[:SHOWN]!r} on node 0 and {str(two)[:SHOWN]!r} {where}"
                raise BadInput(f"{name} is {values}; set the same variables on all nodes")
        if ours.weights != theirs.weights:
            raise BadInput(
                f"INIT_MODEL_PATH={settings.init_model_path} has other weights {where} than on node 0; "
                "use the same model on all nodes"
            )
        if ours.data != theirs.data:
            raise BadInput(
                f"the prepared data {where} are not those of node 0; see WORK_DIR there, and run all nodes again"
            )


def check_start(settings: Settings, checkpoint: Path | None, ranks: Ranks) -> None:
    """Check that all processes resume from the same checkpoint, each from its own disk; all raise the same.

    Args:
        checkpoint: where this process reads it; None for a run from scratch.

    Raises:
        BadInput: naming the node that has another one, or none.
    """
    sums = checkpoint and checkpoint / "checksums.json"
    found = ranks.gather((settings.node_rank, files.digest_file(sums) if sums and sums.is_file() else None))
    for node, digest in found[1:]:
        if checkpoint is not None and digest != found[0][1]:
            what = checkpoint.name if settings.resume in ("auto", "never") else f"RESUME={settings.resume}"
            raise BadInput(f"{what} is not the same checkpoint on node {node} as on node 0; copy it there")
