"""Before the first step all processes, on whichever node, are known to train the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from job.config.settings import load
from job.core.errors import BadInput
from job.processes.ranks import Ranks
from job.train.agreement import Basis, check
from tests.support.forked import in_two

OURS = Basis({"LEARNING_RATE": 1e-4, "SEED": 1}, ["data"], ["weights"])


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (OURS, ""),
        (
            replace(OURS, values={"LEARNING_RATE": 1e-5, "SEED": 1}),
            "LEARNING_RATE is '0.0001' on node 0 and '1e-05' on node 1; set the same variables on all nodes",
        ),
        (replace(OURS, weights=["others"]), "INIT_MODEL_PATH=demo has other weights on node 1 than on node 0; "),
        (replace(OURS, data=["others"]), "the prepared data on node 1 are not those of node 0; "),
    ],
)
def test_a_node_that_would_train_something_else_is_named(tmp_path: Path, theirs: Basis, said: str) -> None:
    """By all in the same words, of which the first process's are printed."""

    def process(ranks: Ranks) -> Any:
        settings = load({"PRESET": "demo", "NUM_NODES": "2", "NODE_RANK": str(ranks.rank)})
        try:
            check(settings, theirs if ranks.rank else OURS, ranks)
        except BadInput as error:
            return str(error)
        return ""

    one, other = in_two(process, tmp_path)
    assert one == other and one.startswith(said) and bool(one) == bool(said)


def test_a_checkpoint_that_is_missing_on_one_node_is_named(tmp_path: Path) -> None:
    """RESUME=<path>, which each node reads from its own disk."""
    directory = tmp_path / "node-0" / "checkpoint"
    directory.mkdir(parents=True)
    (directory / "checksums.json").write_text("{}")

    def process(ranks: Ranks) -> Any:
        settings = load({"PRESET": "demo", "NODE_RANK": "0", "RESUME": str(tmp_path / f"node-{ranks.rank}/checkpoint")})
        try:
            check(settings.model_copy(update={"node_rank": ranks.rank}), OURS, ranks)
        except BadInput as error:
            return str(error)
        return ""

    (tmp_path / "meeting").mkdir()
    one, _ = in_two(process, tmp_path / "meeting")
    assert "is not the same checkpoint on node 1 as on node 0" in one
