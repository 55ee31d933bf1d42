"""What the base model can do besides the voice is compared with the finished checkpoint: by real tiny models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from job.config.settings import Settings
from job.core import files
from job.evaluate import (
    baselines,
    kept,
    kept_cloning,
    kept_instructions,
    kept_presets,
    kept_rows,
    report,
    synthesize,
)
from job.evaluate.judges.judge import Judge
from job.evaluate.judges.registry import load_judges
from job.evaluate.speaking import Sample
from job.evaluate.spoken_texts import Utterance
from job.model.loading import ModelConfig
from job.model.voices import ENCODER_FILE
from tests.evaluate.conftest import CODEBOOKS, write_prepared
from tests.evaluate.test_synthesize import settings

PRESETS = {"vivian": 3010, "ryan": 3011}
TABLE = "talker.model.codec_embedding.weight"
Weights = dict[str, torch.Tensor]


def model(
    base: Path, directory: Path, speakers: dict[str, int], change: Callable[[Weights], None] | None = None
) -> Path:
    """A CustomVoice model as this job writes it, with these speakers, whose voices differ."""
    shutil.copytree(base, directory)
    config = json.loads((directory / "config.json").read_text())
    config["tts_model_type"] = "custom_voice"
    config["talker_config"] |= {"spk_id": speakers, "spk_is_dialect": dict.fromkeys(speakers, False)}
    (directory / "config.json").write_text(json.dumps(config))
    weights = load_file(directory / "model.safetensors")
    encoder = {name: weights.pop(name) for name in list(weights) if name.startswith("speaker_encoder.")}
    save_file(encoder, directory / ENCODER_FILE, metadata={"format": "pt"})
    scale = weights[TABLE].float().std()
    for name, row in speakers.items():
        vector = torch.randn(weights[TABLE].shape[1], generator=torch.Generator().manual_seed(len(name)))
        weights[TABLE][row] = (4 * scale * vector).to(weights[TABLE].dtype)
    if change:
        change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def ready(work: Path, base: Path, voice: Path, rows: list[dict[str, Any]] | None = None, **values: Any) -> Settings:
    """A finished run of that checkpoint, with recordings of somebody."""
    (work / "output").mkdir(parents=True)
    (work / "output" / "best").symlink_to(voice, target_is_directory=True)
    given = {"max_new_tokens": 16, "kept_abilities": True, "synth_gate": "off", **values}
    asked = settings(work, init_model_path=str(base), **given)
    codes = np.random.default_rng(0).integers(0, 2048, (20, CODEBOOKS)).tolist()
    blank = {"text": "Someone said it.", "speaker": "my_voice", "language": "english", "codes": codes}
    write_prepared(asked.paths, [{**blank, **row} for row in rows or [{}, {"text": "And more."}]])
    width = files.read_json(base / "config.json")["speaker_encoder_config"]["enc_dim"]
    save_file({"my_voice": torch.randn(width, generator=torch.Generator().manual_seed(1))}, asked.paths.speakers)
    return asked


class Run:
    """Runs of `kept.of`, which count what models they load."""

    def __init__(self, asked: Settings) -> None:
        self.asked = asked
        self.judges: list[Judge] = load_judges(asked, "cpu")
        self.loaded: list[str] = []

    def __call__(self) -> dict[str, Any]:
        _, splits = synthesize.prepared(self.asked.paths)
        rows = [row for some in synthesize.rows_of(splits) for row in some]
        references = baselines.choose(splits, ["my_voice"], each=baselines.REFERENCES)
        directory = synthesize.find_checkpoint(self.asked.paths)
        loaders = synthesize._loaders(self.asked, directory)

        def counted(side: Any) -> Callable[[], Any]:
            def load() -> Any:
                self.loaded.append(side)
                return loaders[side]()

            return load

        return kept.of(self.asked, directory, rows, references, self.judges, {side: counted(side) for side in loaders})


def at_the_end(weights: Weights, factor: float) -> None:
    """Scale the talker's output row of the end token: it stops soon, or never."""
    weights["talker.codec_head.weight"][2150] *= factor


def test_the_same_weights_have_lost_nothing_and_nothing_is_said_twice(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished checkpoint clones as its base does, sample by sample, and a killed run goes on where it was."""
    monkeypatch.setattr(kept_cloning, "TEXTS", 1)
    asked = ready(tmp_path, tiny_base, model(tiny_base, tmp_path / "voice", {"my_voice": 3000}), max_new_tokens=8)
    run = Run(asked)
    found = run()
    assert run.loaded == ["base", "voice"]
    assert [row["ability"] for row in found["rows"]] == ["cloning"] * 4
    for row in found["rows"]:
        able = row["base"]["failed"] < row["base"]["samples"]
        assert row["base"] == row["voice"] and row["lost"] is (False if able else None)
        assert row["base"]["similarity"] is not None and row["base"]["samples"] == 1
    assert found["left_out"].keys() == {"preset", "instructions"} and found["warnings"] == []
    assert run() == found and run.loaded == ["base", "voice"], "both runs say it"
    (asked.paths.kept / "cloning-voice-in_context.npz").unlink()
    assert run() == found and run.loaded == ["base", "voice", "voice"], "only what is missing is said"
    capsys.readouterr()
    for path in asked.paths.kept.glob("cloning-base-*"):
        path.unlink()
    run.asked = asked.model_copy(update={"init_model_path": str(tiny_base), "attn_implementation": "no such"})
    less = run()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "cloning-base-x_vector is left out: " in told[0]
    assert all(row["base"] is None and row["voice"] and row["lost"] is None for row in less["rows"])


@pytest.mark.slow
def test_what_a_broken_voice_has_lost_is_named_in_the_log_the_stats_and_the_report(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It never stops, and reads the same into all texts, and so into both instructions."""
    monkeypatch.setattr(kept_instructions, "OPPOSITES", ("Speak fast.", "Speak slow."))

    def broken(weights: Weights) -> None:
        at_the_end(weights, 0.0)
        (name,) = [name for name in weights if name.endswith("text_embedding.weight")]
        weights[name][:] = weights[name][0]

    base = model(tiny_base, tmp_path / "base", PRESETS, lambda weights: at_the_end(weights, 8.0))
    voice = model(tiny_base, tmp_path / "voice", {**PRESETS, "my_voice": 3000}, broken)
    asked = ready(tmp_path / "work", base, voice, max_new_tokens=24, test_texts="Cab.", baselines=False)
    synthesize.run(asked)
    written = files.read_json(asked.paths.samples / "stats.json")
    lost = {row["label"]: row["why"] for row in written["kept"]["rows"] if row["lost"]}
    assert {"Preset speaker ryan", "Preset speaker vivian"} <= lost.keys()
    assert "of the base's 1 of 1" in lost["Preset speaker ryan"]
    assert "both give the same speech" in lost["Instructions: 'Speak fast.' against 'Speak slow.'"]
    assert sum(label.startswith("Cloning") for label in lost) >= 2
    told = capsys.readouterr().err
    assert all(line in told for line in written["warnings"]) and len(written["warnings"]) >= 4
    report.run(asked)
    page = asked.paths.report.read_text(encoding="utf-8")
    assert "Not asked" not in page, "everything was"
    assert "What the base model can do besides" in page and "Preset speaker vivian: lost in training" in page


def figures(samples: int = 3, **values: Any) -> dict[str, Any]:
    return {"samples": samples, "stopped": samples, "failed": 0, **dict.fromkeys(kept_rows.FIGURES), **values}


@pytest.mark.parametrize(
    ("base", "voice", "why"),
    [
        (figures(similarity=0.8), figures(similarity=0.7), ""),
        (figures(similarity=0.8), figures(similarity=0.6), "similarity 60 %, the base's 80 %"),
        (figures(), figures(stopped=1), "1 of 3 samples stop by themselves, of the base's 3 of 3"),
        (figures(stopped=1), figures(stopped=1), ""),
        (figures(), figures(failed=2), "2 of 3 samples fail a check, of the base's 0 of 3"),
        (figures(cer=0.1), figures(cer=0.35), ""),
        (figures(cer=0.1), figures(cer=0.5), "character error rate 50.0 %, the base's 10.0 %"),
        (figures(similarity=0.8), figures(), ""),
    ],
)
def test_it_is_lost_where_the_base_does_it_clearly_better(base: Any, voice: Any, why: str) -> None:
    row = kept_rows.compared("cloning", "Cloning", base, voice)
    assert (row.why, row.lost) == (why, bool(why))
    assert kept_rows.compared("cloning", "Cloning", None, voice).lost is None


def test_what_the_base_cannot_do_itself_is_not_called_kept() -> None:
    """A checkpoint that is as bad at it has kept nothing; one that is worse still has lost it."""
    row = kept_rows.compared("cloning", "Cloning", figures(failed=3), figures(failed=3))
    assert (row.lost, row.why) == (None, "all of the base's own samples fail a check")
    assert kept_rows.compared("cloning", "Cloning", figures(failed=3), figures(failed=3, stopped=0)).lost
    assert kept_rows.compared("cloning", "Cloning", figures(failed=2), figures(failed=3)).lost is False


@pytest.mark.parametrize(("hertz", "lost"), [(205.0, None), (140.0, True), (None, None)])
def test_where_no_judge_knows_voices_a_preset_of_another_pitch_is_lost(hertz: float | None, lost: bool | None) -> None:
    plain = {"speaker": "ryan", "stopped_by_eos": True, "passed": True, "pitch": 200.0}
    told = {"presets-base": [plain, plain], "presets-voice": [{**plain, "pitch": hertz}]}
    (row,) = kept_presets.rows(told, ["ryan"])
    assert row.lost is lost and ("140 Hz" in row.why) == bool(lost)


def instructed(rates: tuple[float, float], pitch: tuple[float, float]) -> list[list[dict[str, Any]]]:
    return [[{"letters_per_second": rates[n], "pitch": pitch[n]}] * 2 for n in (0, 1)]


@pytest.mark.parametrize(
    ("base", "voice", "lost"),
    [
        (instructed((18, 12), (200, 200)), instructed((15, 12), (200, 200)), False),
        (instructed((18, 12), (200, 200)), instructed((12.5, 12), (200, 200)), True),
        (instructed((18, 12), (200, 200)), instructed((10, 12), (200, 200)), True),  # the other way round
        (instructed((12, 12), (240, 180)), instructed((12, 12), (201, 200)), True),
        (instructed((18, 12), (240, 180)), instructed((12, 12), (230, 180)), False),  # the pitch still follows
        (instructed((12, 12), (200, 200)), instructed((12, 12), (200, 200)), None),  # the base's does not, either
    ],
)
def test_instructions_are_lost_where_less_than_a_third_of_their_effect_is_left(
    base: Any, voice: Any, lost: bool | None
) -> None:
    told, samples = {}, {}
    for side, both in (("base", base), ("voice", voice)):
        for number, some in enumerate(both):
            told[f"instructions-{side}-{number}"] = some
            waves = [np.full(4, number + n, dtype=np.float32) for n in range(len(some))]
            asked = Utterance("Text.", "ryan", instruct=str(number))
            samples[f"instructions-{side}-{number}"] = [Sample(asked, wave, 24_000, 1, True, 1.0) for wave in waves]
    pair = kept_instructions.Pair(("fast", "slow"), "ryan", "kari", "English")
    assert kept_instructions.row(told, samples, pair).lost is lost


def test_instructions_are_asked_for_only_where_somebody_has_learned_any() -> None:
    def config(kind: str, size: str = "1b7") -> ModelConfig:
        return ModelConfig({"tts_model_type": kind, "tts_model_size": size, "talker_config": {}})

    def asked(base: ModelConfig, presets: list[str], used: list[str]) -> Any:
        return kept_instructions.pair_of(base, presets, used, "kari", "Norwegian")

    opposite = asked(config("custom_voice"), ["ryan"], [])
    assert (opposite.instructs, opposite.preset) == (kept_instructions.OPPOSITES, "ryan")
    assert asked(config("base"), [], ["Whisper.", "Shout."]).instructs == ("Whisper.", "Shout.")
    alone = asked(config("base"), [], ["Whisper."])
    assert (alone.instructs, alone.preset) == (("Whisper.", None), None)
    assert asked(config("base"), [], []) == "neither the base model nor the data has any"
    assert "take no instructions" in asked(config("custom_voice", "0b6"), ["ryan"], ["Shout."])


def test_it_runs_on_a_gpu_or_where_it_is_asked_for(tmp_path: Path) -> None:
    assert kept.left_out(settings(tmp_path), "cuda:0") is None
    assert "KEPT_ABILITIES=true" in str(kept.left_out(settings(tmp_path), "cpu"))
    assert kept.left_out(settings(tmp_path, kept_abilities=True), "cpu") is None
    assert kept.left_out(settings(tmp_path, kept_abilities=False), "cuda:0") == "KEPT_ABILITIES=false"
