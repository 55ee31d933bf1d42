"""A voice that is another person with every seed is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from job.core import files
from job.evaluate import other_seeds, synthesize
from tests.evaluate.conftest import write_prepared
from tests.evaluate.test_synthesize import install, settings


@pytest.mark.parametrize(
    ("others", "least", "warned"),
    [([0.81, 0.78], 0.78, False), ([0.95, 0.9], 0.8, False), ([0.82, 0.51], 0.51, True), ([0.99, None], None, False)],
)
def test_the_least_similar_seed_is_the_figure_and_a_wide_spread_is_said(
    others: list[float | None], least: float | None, warned: bool
) -> None:
    told = [{"similarity": 0.8}, *({"similarity": value} for value in others)]
    said = " ".join(other_seeds.add({3: told}, [{}, {}, {}, {"speaker": "kari", "text": "God morgen."}]))
    assert told[0].get("similarity_seeds") == least
    assert ("kari is not the same voice with every seed: 'God morgen.'" in said) == warned
    assert ("80%, 82%, 51%" in said) == warned


def test_one_text_of_each_speaker_is_said_three_times_and_judged(
    endless: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """By the real model and the base's speaker encoder; the least figure is in the table, no further file is kept."""
    asked = settings(install(endless, tmp_path), init_model_path=str(tiny_base), max_new_tokens=12, seed=5)
    texts = ("Cab.", "A bad cab.", "A bad cab came by.")
    write_prepared(asked.paths, [{"text": text, "speaker": "my_voice"} for text in texts])
    width = files.read_json(tiny_base / "config.json")["speaker_encoder_config"]["enc_dim"]
    save_file({"my_voice": torch.randn(width, generator=torch.Generator().manual_seed(1))}, asked.paths.speakers)
    synthesize.run(asked)
    written = files.read_json(asked.paths.samples / "stats.json")
    mine = [one for one in written["samples"] if one["speaker"] == "my_voice"]
    judged = [one for one in mine if "similarity_seeds" in one]
    assert len(judged) == 1
    assert judged[0]["similarity_seeds"] <= judged[0]["similarity"] + 1e-6
    assert written["judges"]["similarity"]["rated"] >= len(mine) + other_seeds.OTHERS
    assert "similarity_seeds" in [row["figure"] for row in written["comparison"]]
    assert len(list(asked.paths.samples.glob("*.wav"))) == len(written["samples"])
    again = settings(asked.work_dir, init_model_path=str(tiny_base), max_new_tokens=12, greedy=True)
    synthesize.run(again)
    assert "similarity_seeds" not in str(files.read_json(asked.paths.samples / "stats.json")["comparison"])
