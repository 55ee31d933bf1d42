"""The synthesize stage on real tiny checkpoints, spoken with by stock qwen_tts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from job.config.settings import Settings
from job.core.errors import BadInput, SpeechFailed
from job.evaluate import baselines, own, samples, speaking, spoken_texts, synthesize
from job.evaluate.audio_stats import measure
from job.evaluate.spoken_texts import Utterance
from tests.evaluate.conftest import SENTENCES, write_prepared
from tests.evaluate.test_judges import recogniser  # noqa: F401 - a fixture

Talking = tuple[Path, list[dict[str, Any]]]


def settings(work: Path, **values: Any) -> Settings:
    return Settings(**{"work_dir": work, "device": "cpu", "mixed_precision": "no", "mos_model": "none", **values})


def install(checkpoint: Path, work: Path, name: str = "best") -> Path:
    (work / "output").mkdir(parents=True, exist_ok=True)
    (work / "output" / name).symlink_to(checkpoint, target_is_directory=True)
    return work


def stats(work: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((work / "samples" / "stats.json").read_text())
    return value


@pytest.mark.slow
def test_a_voice_that_stops_passes_and_what_is_written_is_what_was_said(
    talking: Talking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every figure of stats.json agrees with the file beside it, and the codes are the ones the checkpoint knows."""
    checkpoint, rows = talking
    work = install(checkpoint, tmp_path)
    write_prepared(
        settings(work).paths, [{k: row[k] for k in ("text", "speaker", "language", "codes")} for row in rows]
    )
    monkeypatch.setattr(spoken_texts, "shipped", lambda language: [])  # it can say nothing but what it has learned
    # through a random codec all speech is noise; the recordings are too, and so it is no fault
    counts = synthesize.run(settings(work, greedy=True, synth_gate="fail"))
    written = stats(work)
    # the texts are the data's own for my_voice; `other` has none of its own and borrows them
    assert counts["samples"] == len(written["samples"]) == 6
    assert {one["speaker"] for one in written["samples"]} == {"my_voice", "other"}
    assert sorted(p.name for p in (work / "samples").iterdir()) == sorted(
        [one["file"] for one in written["samples"]] + ["stats.json"]
    )
    for one in written["samples"]:
        audio, rate = soundfile.read(work / "samples" / one["file"], dtype="float32")
        assert soundfile.info(work / "samples" / one["file"]).subtype == "PCM_16"
        assert (rate, audio.size) == (24_000, one["frames"] * 1920)
        assert one["seconds"] == pytest.approx(audio.size / rate)
        assert one["rms"] == pytest.approx(measure(audio, rate).rms, abs=1e-3)
        assert one["real_time_factor"] > 0
        assert one["text"] in SENTENCES and one["language"] == "english" and one["layout"] == "non_streaming"
        assert one["passed"] == (not one["problems"])
        assert one["stopped_by_eos"] != ("never stopped" in one["problems"])
    mine = {one["text"]: one for one in written["samples"] if one["speaker"] == "my_voice"}
    assert all(mine[text]["stopped_by_eos"] for text in SENTENCES)
    assert written["summary"]["samples"] == 6
    assert written["settings"]["greedy"] is True


@pytest.mark.slow
def test_the_same_seed_gives_the_same_speech_and_another_seed_does_not(talking: Talking, tmp_path: Path):
    work = install(talking[0], tmp_path)
    spoken = []
    for seed in (1, 1, 2):
        synthesize.run(settings(work, test_texts="Hello there, you.", seed=seed, max_new_tokens=20, synth_gate="off"))
        spoken.append((work / "samples" / "01-my_voice.wav").read_bytes())
    assert spoken[0] == spoken[1]
    assert spoken[0] != spoken[2]


def test_endless_speech_is_reported_and_fails_the_gate_after_everything_is_written(endless: Path, tmp_path: Path):
    work = install(endless, tmp_path, "last")  # no best/: the last checkpoint speaks
    (work / "samples").mkdir()
    (work / "samples" / "09-stale.wav").write_bytes(b"of an earlier run")
    values = {"test_texts": "Two two.|One.", "max_new_tokens": 10, "greedy": True, "text_layout": "mixed"}
    with pytest.raises(SpeechFailed, match=r"8 of 8 samples failed.*never stopped") as refused:
        synthesize.run(settings(work, synth_gate="fail", **values))
    assert refused.value.exit_code == 6
    written = stats(work)
    assert not (work / "samples" / "09-stale.wav").exists()
    # in the order that was asked for, although short and long texts and the two layouts are said in other groups
    assert [(one["speaker"], one["text"], one["layout"]) for one in written["samples"]] == [
        (speaker, text, layout)
        for speaker in ("my_voice", "other")
        for text in ("Two two.", "One.")
        for layout in ("non_streaming", "streaming")
    ]
    # ten tokens are drawn, and the last one never becomes a frame: a comparison of lengths would call this a stop
    assert all(one["frames"] == 9 and not one["stopped_by_eos"] for one in written["samples"])
    assert all((work / "samples" / one["file"]).is_file() for one in written["samples"])


def test_speakers_are_known_by_their_own_rows_and_others_by_all(talking: Talking):
    import pyarrow as pa
    import torch

    from job.dataset.prepared import schema
    from job.model.loading import load_model

    model = load_model(talking[0], torch.device("cpu"), torch.float32)
    one = {"language": "auto", "instruct": None, "codes": np.zeros((9, 16), np.int16).tolist()}
    rows = [
        {**one, "id": f"{name}-{n}", "speaker": name, "text": "a" * 10 * n, "seconds": seconds * n}
        for name, seconds in (("quick", 0.5), ("slow", 2.0))
        for n in range(1, 7)
    ]
    table = pa.Table.from_pylist(rows, schema=schema(16))
    found = own.of_speakers(model, [table.slice(0, 0), table], ["quick", "slow", "nobody"])
    quick, slow, anybody = (found[name].pace for name in ("quick", "slow", "nobody"))
    assert quick is not None and slow is not None and anybody is not None
    assert quick.per_letter == pytest.approx(0.05, rel=0.05) and slow.per_letter == pytest.approx(0.2, rel=0.05)
    assert quick.per_letter < anybody.per_letter < slow.per_letter


@pytest.fixture
def loudness(tmp_path: Path) -> Path:
    """A real, if simple, predictor of MOS."""
    import torch

    class Loudness(torch.nn.Module):
        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return 1 + samples.abs().max(dim=1)[0]

    torch.jit.script(Loudness()).save(str(tmp_path / "loudness.pt"))
    return tmp_path / "loudness.pt"


@pytest.mark.slow
def test_the_voice_its_recordings_and_the_base_cloning_it_are_judged_alike(
    talking: Talking,
    tiny_base: Path,
    recogniser: Path,  # noqa: F811
    loudness: Path,
    clips_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """Similarity to a speaker's x-vector is 1 for the very clip that the x-vector was made from."""
    import torch
    from safetensors.torch import save_file

    from job.audio.clip import load
    from job.core import files
    from job.evaluate.judges import similarity
    from job.evaluate.judges.judge import Clip
    from job.model.speaker_encoder import SpeakerEncoder

    checkpoint, rows = talking
    work = install(checkpoint, tmp_path)
    values = {
        "init_model_path": str(tiny_base), "asr_model": str(recogniser), "mos_model": str(loudness),
        "baselines": True, "greedy": True, "synth_gate": "off", "max_new_tokens": 12,
    }  # fmt: skip
    audio = sorted(clips_dir.glob("en-*.flac"))[0]
    clip = load(audio, 24_000).samples
    vector = SpeakerEncoder(tiny_base, torch.device("cpu")).embed(clip, 24_000)
    paths = settings(work).paths
    names = ("my_voice", "my_voice", "other")
    data = [
        {**{k: row[k] for k in ("text", "language", "codes")}, "speaker": name, "id": f"r{n}"}
        for n, (row, name) in enumerate(zip(rows, names, strict=True))
    ]
    write_prepared(paths, data)
    files.write_jsonl(paths.manifest("train"), [{"id": row["id"], "audio": str(audio)} for row in data])
    save_file({"my_voice": vector, "other": -vector}, paths.speakers)
    judge = similarity.load(settings(work, **values), "cpu")
    assert judge is not None
    assert judge(Clip(clip, 24_000, "", "My_Voice"))["similarity"] == pytest.approx(1, abs=1e-5)
    assert judge(Clip(clip, 24_000, "", "nobody"))["similarity"] is None

    synthesize.run(settings(work, test_texts="Ten.", **values))
    written = stats(work)
    mine, _ = written["samples"]
    assert all(mine[name] is not None for name in ("wer", "cer", "mos", "similarity")) and "transcript" in mine
    by_name = {row["figure"]: row for row in written["comparison"]}
    for name in ("mos", "similarity", "wer"):
        assert all(by_name[name][source] is not None for source in ("recordings", "codec", "base", "voice"))
    assert by_name["mos"]["base_in_context"] is not None
    assert [one["file"] for one in written["compared"]["base"]] == ["base/01-my_voice.wav", "base/02-other.wav"]
    assert all((work / "samples" / one["file"]).is_file() for one in written["compared"]["base_in_context"])
    own_similarity = written["compared"]["recordings"][0]["similarity"]
    assert own_similarity == pytest.approx(1, abs=1e-5)  # it is what the x-vector was made from
    assert written["summary"]["verdict"] in capsys.readouterr().out
    rated = {name: account["rated"] for name, account in written["judges"].items()}
    # two of the voice, two and two of the base, three recordings, and these through the codec
    assert rated == dict.fromkeys(("mos", "similarity", "intelligibility", "prosody"), 12)

    # killed before it was done and started again: the same speech is not judged again
    (work / "samples" / "stats.json").unlink()
    synthesize.run(settings(work, test_texts="Ten.", **values))
    assert all(one["rated"] == 0 and one["seconds"] < 1 for one in stats(work)["judges"].values())
    assert stats(work)["comparison"] == written["comparison"]


def test_a_base_model_that_is_not_asked_for_not_there_or_cannot_clone_is_a_reason_in_one_line(
    talking: Talking, tiny_base: Path, tmp_path: Path
):
    def reason(device: str = "cuda", **values: Any) -> str | None:
        return baselines.left_out(settings(tmp_path, **values), device)

    assert reason(init_model_path=str(tiny_base)) == "there are no prepared x-vectors to clone from"
    settings(tmp_path).paths.speakers.parent.mkdir(parents=True)
    settings(tmp_path).paths.speakers.touch()
    assert reason(init_model_path=str(tiny_base)) is None
    assert "CPU" in str(reason("cpu", init_model_path=str(tiny_base)))
    assert reason("cpu", init_model_path=str(tiny_base), baselines=True) is None
    assert reason(baselines=False) == "BASELINES=false"
    assert "no such directory" in str(reason(init_model_path=str(tmp_path / "none")))
    assert reason(init_model_path=str(talking[0])) == "a custom_voice model cannot clone"


def test_no_checkpoint_an_adapter_alone_and_a_broken_one_are_one_line_each(endless: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="job train"):
        synthesize.run(settings(tmp_path / "none", test_texts="Hi."))
    adapter = tmp_path / "adapter" / "output" / "best"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="EXPORT"):
        synthesize.run(settings(tmp_path / "adapter", test_texts="Hi."))
    broken = tmp_path / "broken" / "output" / "best"
    shutil.copytree(endless, broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(BadInput, match="cannot be loaded") as refused:
        synthesize.run(settings(tmp_path / "broken", test_texts="Hi."))
    assert "\n" not in str(refused.value)


def test_a_metric_model_that_is_missing_is_found_before_anything_is_said(endless: Path, tmp_path: Path):
    work = install(endless, tmp_path)
    with pytest.raises(BadInput, match="ASR_MODEL"):
        synthesize.run(settings(work, test_texts="Hi.", asr_model=str(tmp_path / "nothing")))
    assert not (work / "samples").exists()


def test_sampling_variables_reach_talker_and_sub_talker():
    arguments = speaking.generation_arguments(Settings(temperature=0.5, top_p=0.8, top_k=7))
    assert arguments["do_sample"] and arguments["subtalker_dosample"]
    for prefix in ("", "subtalker_"):
        values = [arguments[f"{prefix}{name}"] for name in ("temperature", "top_p", "top_k")]
        assert values == [0.5, 0.8, 7]
    greedy = speaking.generation_arguments(Settings(greedy=True))
    assert not greedy["do_sample"] and not greedy["subtalker_dosample"]


@pytest.mark.parametrize("speaker", ["a/b", "../up", "Ayọ̀ 1", "x.y"])
def test_a_speakers_name_cannot_leave_the_directory(speaker: str):
    name = samples.file_name(3, Utterance("Hi.", speaker))
    assert name.startswith("03-") and Path(name).name == name and ".." not in name


@pytest.mark.parametrize("letter", ["a", "王", "𠀀"])
def test_a_long_name_of_a_speaker_still_gives_a_file(tmp_path: Path, letter: str):
    """After training is no time to find that a file's name has at most 255 bytes."""
    name = samples.file_name(3, Utterance("Hi.", 300 * letter))
    (tmp_path / f".{name}.partial").touch()


def test_the_package_is_imported_without_torch():
    modules = [path.stem for path in sorted(Path(synthesize.__file__).parent.glob("[a-z]*.py"))]
    assert "synthesize" in modules
    line = f"import sys; {'; '.join(f'import job.evaluate.{name}' for name in modules)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
