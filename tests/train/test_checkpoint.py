"""Checkpoints: rows, adapters, other forms, warm starts, and training on from a voice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from job import pipeline
from job.config import settings as variables
from job.core.errors import BadInput, StoppedBySignal
from job.model.embedding_rows import language_rows, speaker_rows, taken_rows
from job.model.voices import scale_in_place, scaled_model
from job.train import resume, warm
from job.train.step import Stepper
from tests.support.commands import run_job

RUN = {
    "PRESET": "demo",
    "MAX_TRAIN_SAMPLES": "4",
    "MAX_STEPS": "3",
    "DEVICE": "cpu",
    "TRAIN_MODE": "lora",
    "LORA_R": "4",
    "LORA_ALPHA": "8",
    "LEARNING_RATE": "3e-2",
    "LANGUAGE": "auto",
    "SAVE_STEPS": "1",
}


def train(work, **values):
    settings = variables.load({**RUN, "WORK_DIR": str(work), **values})
    pipeline.run(settings, "fetch", "train")
    return settings


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, tiny_base):
    """A short LoRA run with EXPORT=both."""
    return train(tmp_path_factory.mktemp("adapted"), INIT_MODEL_PATH=str(tiny_base))


talkers = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(2300, 3072),
        "codec_bos_id": st.integers(2048, 2299),
        "codec_eos_token_id": st.integers(2048, 2299),
        "codec_language_id": st.dictionaries(
            st.text("abc", min_size=1, max_size=3), st.integers(2048, 2299), max_size=5
        ),
        "spk_id": st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.integers(2048, 2299), max_size=5),
    }
)


@given(talkers, st.lists(st.text("uvwxyz", min_size=1, max_size=3), unique=True, max_size=8))
def test_new_rows_are_never_in_use(talker, names):
    """Speakers and languages get rows of their own that are never sampled; those the base has keep theirs."""
    config = {"talker_config": talker}
    languages = language_rows(config, ["hausa", "auto", *talker["codec_language_id"]])
    rows = speaker_rows(config, names, languages)
    assert set(languages) == {"hausa"} - set(talker["codec_language_id"])
    new = {name: row for name, row in rows.items() if name not in talker["spk_id"]}
    assert all(rows[name] == talker["spk_id"][name] for name in names if name in talker["spk_id"])
    given_away = [*languages.values(), *new.values()]
    assert len(set(given_away)) == len(given_away)
    assert not set(given_away) & taken_rows(talker)
    assert all(talker["vocab_size"] - 1024 <= row < talker["vocab_size"] for row in given_away)


def test_a_voice_of_the_base_with_capitals_keeps_its_row():
    """`generate` could not find it as it is; the published table has it in lower case."""
    config = {"talker_config": {"vocab_size": 3072, "codec_language_id": {}, "spk_id": {"My_Voice": 3000}}}
    assert speaker_rows(config, ["my_voice", "new"], {}) == {"my_voice": 3000, "new": 3001}


def test_more_speakers_than_rows():
    config = {"talker_config": {"vocab_size": 3072, "codec_language_id": {}, "spk_id": {}}}
    with pytest.raises(BadInput, match="2000 new speakers"):
        speaker_rows(config, [f"s{n}" for n in range(2000)], {})


def _same(ours, theirs):
    torch.testing.assert_close(ours.float(), theirs.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_peft_loads_the_adapter_on_the_base_and_equals_the_merged_weights(adapted, tiny_base):
    """PeftModel.from_pretrained(base, best/adapter) is the merged checkpoint, to 1e-5 in fp32."""
    from peft import PeftModel
    from qwen_tts import Qwen3TTSModel

    best = adapted.paths.best
    base = Qwen3TTSModel.from_pretrained(str(tiny_base), dtype=torch.float32).model
    merged = PeftModel.from_pretrained(base, str(best / "adapter")).merge_and_unload()
    projection = load_file(best / "adapter" / "text_projection.safetensors")
    merged.talker.text_projection.load_state_dict(projection)
    ours = load_file(best / "model.safetensors")
    changed = 0
    for name, tensor in merged.state_dict().items():
        if name.startswith("speaker_encoder.") or "codec_embedding" in name:
            continue
        _same(ours[name], tensor)
        changed += not torch.equal(tensor, load_file(tiny_base / "model.safetensors")[name].float())
    assert changed > 20, "the adapter must have changed many layers for this to prove anything"


@pytest.mark.slow
def test_an_adapters_config_is_the_same_whoever_writes_it(adapted):
    """peft keeps the names of the adapted layers as a set, and would write them in another order in every process."""
    names = json.loads((adapted.paths.best / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert len(names) > 20 and names == sorted(names)


def test_stock_qwen_tts_ignores_the_adapter_beside_the_weights(adapted):
    """from_pretrained("output/best") loads the merged weights, not a base model named in an adapter's config."""
    from qwen_tts import Qwen3TTSModel

    best = adapted.paths.best
    loaded = Qwen3TTSModel.from_pretrained(str(best), dtype=torch.float32).model.state_dict()
    saved = load_file(best / "model.safetensors")
    assert set(saved) == set(loaded)
    for name, tensor in saved.items():
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_lora_scale(adapted, tiny_base, tmp_path, scale):
    """LORA_SCALE=s speaks with W + s (alpha / r) B A: 0 is the base's layers, 1 the checkpoint."""
    scaled_model(adapted.paths.best, tmp_path / "scaled", scale)
    base, best = load_file(tiny_base / "model.safetensors"), load_file(adapted.paths.best / "model.safetensors")
    ours = load_file(tmp_path / "scaled" / "model.safetensors")
    name = "talker.model.layers.0.self_attn.q_proj.weight"
    _same(ours[name], base[name].float() + scale * (best[name].float() - base[name].float()))
    assert not (tmp_path / "scaled" / "adapter").exists()


def test_a_scale_that_is_kept_is_the_checkpoints_own_from_then_on(adapted, tmp_path):
    """TUNE_SPEECH: weights and adapter are scaled alike, so LORA_SCALE still reaches the base and what was trained."""
    shutil.copytree(adapted.paths.best, tmp_path / "best")
    scale_in_place(tmp_path / "best", 0.7, {"training_state.json": {"step": 3}})
    scaled_model(adapted.paths.best, tmp_path / "expected", 0.7)
    ours, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("best", "expected"))
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
    scaled_model(tmp_path / "best", tmp_path / "back", 1 / 0.7)
    trained, back = (load_file(path / "model.safetensors") for path in (adapted.paths.best, tmp_path / "back"))
    for name, tensor in trained.items():
        _same(back[name], tensor)
    others = {path.name for path in adapted.paths.best.rglob("*") if path.is_file()}
    assert {path.name for path in (tmp_path / "best").rglob("*") if path.is_file()} == others
    assert json.loads((tmp_path / "best" / "training_state.json").read_text()) == {"step": 3}


@pytest.mark.slow
def test_warm_start_from_an_adapter(adapted, tiny_base, tmp_path):
    """RESUME=<adapter>: training begins where the adapter ended; names as other tools write them fit too."""
    other = tmp_path / "other"
    shutil.copytree(adapted.paths.best / "adapter", other)
    tensors = load_file(other / "adapter_model.safetensors")
    renamed = {
        name.replace("base_model.model.talker.", "base_model.model.model.talker."): t for name, t in tensors.items()
    }
    save_file(renamed, other / "adapter_model.safetensors")
    projection = load_file(other / "text_projection.safetensors")
    (other / "text_projection.safetensors").unlink()
    torch.save(projection, other / "text_projection.bin")
    begun = train(
        tmp_path / "w", INIT_MODEL_PATH=str(tiny_base), RESUME=str(other), LEARNING_RATE="1e-12", MAX_STEPS="1"
    )
    ours = load_file(begun.paths.best / "model.safetensors")
    theirs = load_file(adapted.paths.best / "model.safetensors")
    for name in ours:
        if "codec_embedding" not in name:
            _same(ours[name], theirs[name])


@pytest.mark.slow
def test_an_adapter_brings_its_text_projection_along(adapted, tiny_base, tmp_path):
    """Started from an adapter with one and trained without: what is saved is still what was trained."""
    start = adapted.paths.best / "adapter"
    values = {"RESUME": str(start), "EXPORT": "both", "TRAIN_TEXT_PROJECTION": "false"}
    best = train(tmp_path, INIT_MODEL_PATH=str(tiny_base), MAX_STEPS="1", **values).paths.best
    kept, saved = (load_file(path / "text_projection.safetensors") for path in (start, best / "adapter"))
    merged = load_file(best / "model.safetensors")
    for name, tensor in kept.items():
        assert torch.equal(saved[name], tensor)
        assert torch.equal(merged[f"talker.text_projection.{name}"], tensor)


@pytest.mark.slow
def test_warm_start_with_another_rank_is_refused(adapted, tiny_base, tmp_path):
    """The line names LORA_R and the adapter's value."""
    with pytest.raises(BadInput, match="LORA_R=4"):
        train(tmp_path, INIT_MODEL_PATH=str(tiny_base), RESUME=str(adapted.paths.best / "adapter"), LORA_R="8")


def test_warm_start_from_something_else_is_refused(adapted, tmp_path):
    """An adapter of another model has no place here."""
    config = {"r": 4, "lora_alpha": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.bert.q.lora_A.weight": torch.zeros(4, 4)}, tmp_path / "adapter_model.safetensors")
    model = torch.nn.Module()
    with pytest.raises(BadInput, match="none of its tensors fits"):
        warm.start_from(model, tmp_path)


@pytest.mark.slow
def test_a_voice_can_be_cloned_with_and_trained_on(adapted, tmp_path, clips_dir, capsys):
    """The checkpoint as a Base model clones (x-vector and in context); training on from the CustomVoice checkpoint
    keeps its speakers' rows and vectors, and adds new ones."""
    from qwen_tts import Qwen3TTSModel

    best = adapted.paths.best
    made = run_job(capsys, ["cloning", str(tmp_path / "cloning")], {"WORK_DIR": adapted.paths.work})
    assert made.code == 0 and f"{tmp_path}/cloning clones voices" in made.out, made.err
    model = Qwen3TTSModel.from_pretrained(str(tmp_path / "cloning"), dtype=torch.float32)
    reference = str(clips_dir / "en-05.flac")
    for arguments in ({"x_vector_only_mode": True}, {"ref_text": "Good evening."}):
        waves, _ = model.generate_voice_clone("Hello.", ref_audio=reference, max_new_tokens=5, **arguments)
        assert len(waves[0]) > 0

    before = json.loads((best / "config.json").read_text())["talker_config"]
    rows = [
        {"audio": str(clips_dir / "en-01.flac"), "text": "Hello.", "speaker": next(iter(before["spk_id"]))},
        {"audio": str(clips_dir / "de-01.flac"), "text": "Danke.", "speaker": "newcomer"},
    ]
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    on = train(
        tmp_path / "on",
        INIT_MODEL_PATH=str(best),
        TRAIN_JSONL=str(manifest),
        TRAIN_MODE="full",
        LEARNING_RATE="1e-3",
        WEIGHT_DECAY="0.1",
        MAX_STEPS="2",
    )
    after = json.loads((on.paths.best / "config.json").read_text())["talker_config"]
    for name, row in before["spk_id"].items():
        assert after["spk_id"][name] == row
    assert "newcomer" in after["spk_id"]
    table = "talker.model.codec_embedding.weight"
    old, new = load_file(best / "model.safetensors")[table], load_file(on.paths.best / "model.safetensors")[table]
    for row in before["spk_id"].values():
        assert torch.equal(old[row], new[row])


@pytest.mark.slow
def test_a_new_language_in_every_mode(tmp_path, tiny_base, clips_dir):
    """A language the base lacks gets a row, starts from LANGUAGE_INIT, is trained in LoRA too, and stock qwen_tts takes
    it by name; no other row of the embedding changes in LoRA."""
    from qwen_tts import Qwen3TTSModel

    rows = [{"audio": str(clips_dir / f"en-0{n}.flac"), "text": f"Sannu {n}.", "language": "Hausa"} for n in (1, 2, 3)]
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    common = {"INIT_MODEL_PATH": str(tiny_base), "TRAIN_JSONL": str(manifest), "SPEAKER_NAME": "A", "MAX_STEPS": "2"}
    table = "talker.model.codec_embedding.weight"
    base = load_file(tiny_base / "model.safetensors")[table].float()
    english = json.loads((tiny_base / "config.json").read_text())["talker_config"]["codec_language_id"]["english"]
    settings = train(tmp_path / "lora", LANGUAGE_INIT="English", LEARNING_RATE="1e-3", **common)
    config = json.loads((settings.paths.best / "config.json").read_text())["talker_config"]
    row = config["codec_language_id"]["hausa"]
    ours = load_file(settings.paths.best / "model.safetensors")[table].float()
    assert not torch.equal(ours[row], base[english])
    assert (ours[row] - base[english]).abs().max() < 0.02
    untouched = np.setdiff1d(np.arange(len(base)), [row, config["spk_id"]["a"]])
    assert torch.equal(ours[untouched], base[untouched])
    voice = Qwen3TTSModel.from_pretrained(str(settings.paths.best))
    waves, _ = voice.generate_custom_voice("Sannu.", speaker="a", language="hausa", max_new_tokens=4)
    assert len(waves[0]) > 0


def test_a_new_language_is_not_left_out_of_an_adapter_alone(tmp_path, tiny_base, clips_dir):
    """Its row stands in merged weights only: refused before training, and not found missing after it."""
    row = {"audio": str(clips_dir / "en-01.flac"), "text": "Sannu.", "language": "hausa"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    values = {"TRAIN_JSONL": str(tmp_path / "rows.jsonl"), "SPEAKER_NAME": "A", "EXPORT": "adapter"}
    with pytest.raises(BadInput, match=r"EXPORT=adapter: hausa is a new language.*EXPORT=both"):
        train(tmp_path / "w", INIT_MODEL_PATH=str(tiny_base), **values)


@pytest.mark.slow
def test_an_adapter_alone_is_trained_once(tmp_path, tiny_base, capsys):
    """EXPORT=adapter: a rerun has nothing to do, and nobody is asked to speak what cannot."""
    train(tmp_path, INIT_MODEL_PATH=str(tiny_base), EXPORT="adapter", MAX_STEPS="1")
    settings = train(tmp_path, INIT_MODEL_PATH=str(tiny_base), EXPORT="adapter", MAX_STEPS="1")
    assert "[train] nothing to do" in capsys.readouterr().out
    pipeline.run(settings, "synthesize", "report")
    assert "[synthesize] skipped: EXPORT=adapter" in capsys.readouterr().out
    assert settings.paths.report.is_file()


@pytest.mark.slow
def test_a_checkpoint_by_its_path(adapted, tiny_base, tmp_path):
    """RESUME=<checkpoint>: it ends as the run it is of; other rates count from then on; what does not fit is refused in
    one line, before anything is overwritten."""
    start = adapted.paths.output / "checkpoint-2"
    assert json.loads((start / "state.json").read_text())["guards"]["patience"]["best_step"] == 0
    values = {"INIT_MODEL_PATH": str(tiny_base), "RESUME": str(start)}
    same = train(tmp_path, **values)
    assert [json.loads(line)["step"] for line in same.paths.training_log.read_text().splitlines()] == [3]
    ours, theirs = (load_file(run.paths.last / "model.safetensors") for run in (same, adapted))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    constant = {"LR_SCHEDULER": "constant", "WARMUP_STEPS": "0", "LOGGING_STEPS": "1"}
    slower = train(tmp_path, LEARNING_RATE="1e-4", MAX_STEPS="4", GRAD_ACCUM="2", **constant, **values)
    assert json.loads((slower.paths.output / "checkpoint-3/state.json").read_text())["parts"] == 2
    rates = [json.loads(line)["learning_rate"] for line in slower.paths.training_log.read_text().splitlines()]
    assert rates == [1e-4, 1e-4]

    for other, said in (
        ({"TRAIN_MODE": "full"}, "holds other parameters than this run trains"),
        ({"LORA_R": "8"}, "holds other parameters than this run trains"),
        ({"OPTIMIZER": "adamw_8bit"}, "written with OPTIMIZER=adamw_fused or adamw, MASTER_WEIGHTS=fp32; set"),
        ({"MAX_STEPS": "1"}, "at step 2, and the run has 1; raise MAX_STEPS"),
    ):
        with pytest.raises(BadInput, match=said):
            train(tmp_path, **values, **other)
    damaged = shutil.copytree(start, tmp_path / "damaged")
    (damaged / "trained.safetensors").write_bytes((damaged / "trained.safetensors").read_bytes()[:100])
    with pytest.raises(BadInput, match=r"RESUME=.*trained\.safetensors is damaged"):
        train(tmp_path, **{**values, "RESUME": str(damaged)})
    assert len(slower.paths.training_log.read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("start", ["best/adapter", "checkpoint-1"])
def test_what_began_with_a_path_goes_on_after_a_stop(adapted, tiny_base, tmp_path, monkeypatch, capsys, start):
    """RESUME=<path>, stopped: the same command resumes from what it wrote since, and ends as an undisturbed run."""
    values = {"INIT_MODEL_PATH": str(tiny_base), "RESUME": str(adapted.paths.output / start), "MAX_STEPS": "5"}
    undisturbed = train(tmp_path / "undisturbed", **values)
    take = Stepper.take

    def stopped(self, planned, batches):
        if planned.step == 4:
            self._stop.name = "SIGTERM"  # as after the first signal
        return take(self, planned, batches)

    with monkeypatch.context() as patched, pytest.raises(StoppedBySignal):
        patched.setattr(Stepper, "take", stopped)
        train(tmp_path / "stopped", **values)
    capsys.readouterr()
    again = train(tmp_path / "stopped", **values)
    assert "resuming from checkpoint-4" in capsys.readouterr().out
    ours, theirs = (load_file(run.paths.last / "model.safetensors") for run in (again, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_later_damaged_checkpoint_does_not_push_out_the_one_to_go_on_from(tmp_path):
    """SAVE_TOTAL_LIMIT counts what leads up to the step."""
    one = {"a": torch.zeros(1)}
    (tmp_path / "checkpoint-9").mkdir()
    for step in (3, 4):
        resume.save(tmp_path, resume.Snapshot(step, {"key": "k", "step": step}, one, one, one), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-9"]
    assert resume.newest(tmp_path, "k") == tmp_path / "checkpoint-4"


def test_an_unknown_language_to_start_from(tmp_path, tiny_base, clips_dir):
    manifest = tmp_path / "rows.jsonl"
    row = {"audio": str(clips_dir / "en-01.flac"), "text": "Sannu.", "language": "hausa"}
    manifest.write_text(json.dumps(row))
    with pytest.raises(BadInput, match="LANGUAGE_INIT=klingon: not a language of the base model"):
        train(
            tmp_path / "w", INIT_MODEL_PATH=str(tiny_base), TRAIN_JSONL=str(manifest), SPEAKER_NAME="A",
            LANGUAGE_INIT="klingon",
        )  # fmt: skip
