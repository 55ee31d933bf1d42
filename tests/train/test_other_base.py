"""Prepared data may be trained on another base than it was prepared with: that base tells which languages are new."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.support import made_rows
from tests.support.commands import run_job


def knowing(tmp_path, base, *languages):
    """The base, with these among its languages."""
    other = shutil.copytree(base, tmp_path / "knowing")
    config = json.loads((other / "config.json").read_text())
    config["talker_config"]["codec_language_id"].update({name: 2080 + n for n, name in enumerate(languages)})
    (other / "config.json").write_text(json.dumps(config))
    return other


@pytest.mark.parametrize("languages", [("yoruba", "auto"), ("auto",)], ids="-".join)
def test_plan_counts_the_languages_that_this_base_lacks(tmp_path, tiny_base, capsys, languages):
    """The codec embedding is trained for them; each base is given the data of the other."""
    plain, knows = tiny_base, knowing(tmp_path, tiny_base, "yoruba")
    for base, prepared_with in ((plain, knows), (knows, plain)):
        work = tmp_path / f"with-{base.name}"
        made_rows.write(work, prepared_with, made_rows.rows(prepared_with, 2, frames=[3], languages=languages))
        given = {
            "WORK_DIR": work, "INIT_MODEL_PATH": base, "DATA_MODE": "none", "DEVICE": "cpu", "MAX_STEPS": 1,
            "TRAIN_MODE": "lora", "EXPORT": "merged", "PROBE_SENTENCES": 0,
        }  # fmt: skip
        planned, trained = (run_job(capsys, [command], given) for command in ("plan", "train"))
        assert (planned.code, trained.code) == (0, 0), planned.err + trained.err
        counts = json.loads((work / "state/train.json").read_text())["counts"]["trained_parameters"]
        assert ("language_rows" in counts) == (base == plain and "yoruba" in languages)
        assert f"{sum(counts.values()) / 1e6:,.2f} M trained" in planned.out
