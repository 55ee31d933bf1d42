"""A training of four steps that has ended, to be run again with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import made_rows


def trained(work: Path, base: Path, **more: Any) -> dict[str, Any]:
    """Train in a work directory, with a checkpoint after each step, the last two of which are kept.

    Args:
        base: the base model.
        more: further variables, or other values.

    Returns:
        The variables but WORK_DIR.
    """
    made_rows.write(work, base, made_rows.rows(base, 6), made_rows.rows(base, 2, seed=1))
    given = {
        "INIT_MODEL_PATH": base, "DATA_MODE": "none", "DEVICE": "cpu", "MAX_STEPS": 4, "BATCH_SIZE": 3,
        "SAVE_STEPS": 1, "SAVE_TOTAL_LIMIT": 2, "EVAL_STEPS": 2, "LOGGING_STEPS": 1, "LEARNING_RATE": "1e-3",
        "PROBE_SENTENCES": 0, "TRAIN_MODE": "lora", "EXPORT": "merged", **more,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["job"])
        from job import pipeline
        from job.config import settings as variables

        loaded = variables.load({name: str(value) for name, value in {**given, "WORK_DIR": work}.items()})
        pipeline.run(loaded, "train", "train")
    return given
