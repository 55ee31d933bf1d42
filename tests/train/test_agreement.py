"""Before the first step all processes, on whichever node, are known to train the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from job.config.settings import load
from job.core.errors import BadInput
from job.processes.ranks import Ranks
from job.train.agreement import Basis, check, check_start
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


@pytest.mark.parametrize(
    ("resume", "there", "said"),
    [
        ("auto", "same", ""),
        ("auto", "other", "checkpoint-4 is not the same checkpoint on node 1 as on node 0; "),
        ("auto", None, "checkpoint-4 is not the same checkpoint on node 1 as on node 0; "),
        ("/a/checkpoint-4", None, "RESUME=/a/checkpoint-4 is not the same checkpoint on node 1 as on node 0; "),
    ],
)
def test_no_node_resumes_from_another_step_than_the_others(
    tmp_path: Path, resume: str, there: str | None, said: str
) -> None:
    """Each reads it from its own disk."""
    for rank, contents in enumerate(("same", there)):
        directory = tmp_path / f"node-{rank}" / "checkpoint-4"
        directory.mkdir(parents=True)
        if contents:
            (directory / "checksums.json").write_text(contents)
    (tmp_path / "meeting").mkdir()

    def process(ranks: Ranks) -> Any:
        settings = load({"PRESET": "demo", "NUM_NODES": "2", "NODE_RANK": str(ranks.rank), "RESUME": resume})
        try:
            check_start(settings, tmp_path / f"node-{ranks.rank}" / "checkpoint-4", ranks)
        except BadInput as error:
            return str(error)
        return ""

    one, other = in_two(process, tmp_path / "meeting")
    assert one == other and one.startswith(said) and bool(one) == bool(said)
