"""x-vectors are the base model's own, and each speaker's reference is the one that the variables name."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from job import doctor
from job.audio.clip import load
from job.core import files
from job.core.errors import BadInput
from job.dataset.prepared import read_speakers, read_summary
from job.model import loading
from job.model.speaker_encoder import SpeakerEncoder
from job.prepare import speakers
from job.prepare.clips import best_clips
from job.prepare.stage import prepare
from job.prepare.work import Work
from tests.prepare.conftest import Make, voice

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def encoder(tiny_base: Path) -> SpeakerEncoder:
    return SpeakerEncoder(tiny_base, CPU)


def vector_of(path: str | Path, encoder: SpeakerEncoder) -> torch.Tensor:
    return encoder.embed(load(Path(path), encoder.sample_rate).samples, encoder.sample_rate)


def test_the_x_vector_is_what_stock_code_computes(
    tiny_base: Path, encoder: SpeakerEncoder, clips: list[dict[str, Any]]
) -> None:
    """`extract_speaker_embedding` of the whole stock model in fp32, for several recordings."""
    stock = loading.load_model(tiny_base, CPU, torch.float32).model
    for row in clips[:4]:
        samples = load(Path(row["audio"]), 24_000).samples
        ours = encoder.embed(samples, 24_000)
        assert ours.dtype == torch.float32
        assert ours.shape == (files.read_json(tiny_base / "config.json")["speaker_encoder_config"]["enc_dim"],)
        torch.testing.assert_close(ours, stock.extract_speaker_embedding(samples, 24_000), rtol=1e-6, atol=1e-7)


def test_different_speakers_have_different_x_vectors(encoder: SpeakerEncoder, clips: list[dict[str, Any]]) -> None:
    assert not torch.allclose(vector_of(clips[0]["audio"], encoder), vector_of(clips[-1]["audio"], encoder), atol=1e-3)


def test_weights_in_several_files_give_the_same_x_vector(
    tiny_base: Path, tmp_path: Path, encoder: SpeakerEncoder
) -> None:
    base = tmp_path / "sharded"
    shutil.copytree(tiny_base, base)
    tensors = load_file(base / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, base / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    files.write_json(base / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    (base / "model.safetensors").unlink()
    samples = voice(2.0)
    assert torch.equal(SpeakerEncoder(base, CPU).embed(samples, 24_000), encoder.embed(samples, 24_000))


def test_weights_without_a_speaker_encoder_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "without"
    shutil.copytree(tiny_base, base)
    tensors = load_file(base / "model.safetensors")
    rest = {key: value for key, value in tensors.items() if not key.startswith("speaker_encoder.")}
    save_file(rest, base / "model.safetensors")
    with pytest.raises(BadInput, match=r"INIT_MODEL_PATH=.*no speaker encoder"):
        SpeakerEncoder(base, CPU)


def test_a_custom_voice_model_without_encoder_trains_its_own_voices_only(
    make: Make, wav: Callable[..., str], tiny_base: Path, tmp_path: Path
) -> None:
    """No encoder and no configuration of one, as released; a name with capitals, as the vendor's script saves it.

    A new voice is refused before anything is encoded.
    """
    base = tmp_path / "custom"
    shutil.copytree(tiny_base, base)
    tensors = load_file(base / "model.safetensors")
    rest = {key: value for key, value in tensors.items() if not key.startswith("speaker_encoder.")}
    save_file(rest, base / "model.safetensors")
    config = files.read_json(base / "config.json")
    del config["speaker_encoder_config"]
    config["tts_model_type"] = "custom_voice"
    config["talker_config"].update(spk_id={"Vivian": 3065}, spk_is_dialect={"Vivian": False})
    files.write_json(base / "config.json", config)
    rows = [{"audio": wav(f"a{n}", voice(1.0, seed=n)), "speaker": "Vivian"} for n in range(2)]
    manifest = tmp_path / "train.jsonl"
    files.write_jsonl(manifest, [{"audio": row["audio"], "text": f"Text {n}."} for n, row in enumerate(rows)])
    values = {"init_model_path": str(base), "train_jsonl": manifest, "base_model_id": "me/custom"}
    doctor.run(make(rows, **values))
    settings = make(rows, **values)
    prepare(settings)
    row = tensors["talker.model.codec_embedding.weight"][3065].to(torch.float32)
    assert torch.equal(read_speakers(settings.paths)["vivian"], row)
    other = make([{**rows[0], "speaker": "New"}], work="new", **values)
    with pytest.raises(BadInput, match=r"INIT_MODEL_PATH=.*no speaker encoder"):
        prepare(other)
    assert not list(other.paths.encoding.glob("*"))


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.3])
def test_a_very_short_reference_still_has_an_x_vector(encoder: SpeakerEncoder, seconds: float) -> None:
    assert torch.isfinite(encoder.embed(voice(seconds), 24_000)).all()


def rows_of(clips: list[dict[str, Any]], count: int = 3, **extra: Any) -> list[dict[str, Any]]:
    return [{"audio": row["audio"], "text": row["text"], **extra} for row in clips[:count]]


def test_a_reference_file_stands_for_the_only_speaker(
    make: Make, clips: list[dict[str, Any]], wav: Callable[..., str], encoder: SpeakerEncoder
) -> None:
    reference = wav("reference", voice(3.0), rate=44_100)
    settings = make(rows_of(clips, ref_audio=clips[9]["audio"]), ref_audio_path=reference, speaker_name="My_Voice")
    prepare(settings)
    vectors = read_speakers(settings.paths)
    assert list(vectors) == ["my_voice"]
    assert torch.equal(vectors["my_voice"], vector_of(reference, encoder))
    about = read_summary(settings.paths)["speakers"]["my_voice"]
    assert (about["reference"], about["strategy"], about["rows"]) == (reference, "file", 3)


def test_the_rows_own_reference_comes_before_the_best_clips(
    make: Make, clips: list[dict[str, Any]], encoder: SpeakerEncoder
) -> None:
    settings = make(rows_of(clips, ref_audio=clips[9]["audio"]))
    prepare(settings)
    assert torch.equal(read_speakers(settings.paths)["speaker"], vector_of(clips[9]["audio"], encoder))
    assert read_summary(settings.paths)["speakers"]["speaker"]["strategy"] == "same"


def test_first_is_the_first_usable_clip(
    make: Make, clips: list[dict[str, Any]], wav: Callable[..., str], encoder: SpeakerEncoder
) -> None:
    rows = [{"audio": wav("silent", np.zeros(24_000))}, *rows_of(clips)]
    settings = make(rows, ref_audio_strategy="first")
    prepare(settings)
    assert torch.equal(read_speakers(settings.paths)["speaker"], vector_of(clips[0]["audio"], encoder))


def test_best_averages_the_clean_clips_in_fp32(make: Make, wav: Callable[..., str], encoder: SpeakerEncoder) -> None:
    good = [wav(f"good{n}", voice(3.1, seed=n)) for n in range(2)]
    short = wav("short", voice(1.0, seed=8))
    clipped = wav("clipped", np.clip(8 * voice(3.1, seed=9), -1, 1))
    settings = make([{"audio": path} for path in [short, clipped, *good]], ref_audio_strategy="best")
    prepare(settings)
    mean = torch.stack([vector_of(path, encoder) for path in good]).mean(dim=0)
    torch.testing.assert_close(read_speakers(settings.paths)["speaker"], mean, rtol=1e-6, atol=1e-7)
    assert sorted(read_summary(settings.paths)["speakers"]["speaker"]["references"]) == good


@pytest.mark.parametrize("strategy", ["best", "first"])
def test_a_clip_that_is_long_enough_to_train_on_can_be_the_reference(
    make: Make, wav: Callable[..., str], monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """MAX_SECONDS says what is too long of the data; the bound on reference files is not for it."""
    monkeypatch.setattr(speakers, "LONGEST_REFERENCE", 1.5)
    prepare(make([{"audio": wav("chapter", voice(2.5))}], ref_audio_strategy=strategy, max_seconds=3.0))


def test_names_in_two_forms_are_one_speaker_and_one_language(make: Make, wav: Callable[..., str]) -> None:
    """Decomposed letters look the same as composed ones, and are what macOS gives."""
    forms = [unicodedata.normalize(form, "Kåre") for form in ("NFC", "NFD")]
    tongues = [unicodedata.normalize(form, "BOKMÅL") for form in ("NFD", "NFC")]
    rows = [{"audio": wav(str(n), voice(1.0, seed=n)), "speaker": forms[n], "language": tongues[n]} for n in range(2)]
    settings = make([*rows, {"audio": wav("2", voice(1.0, seed=2))}], speaker_name=forms[1], language=tongues[0])
    prepare(settings)
    summary = read_summary(settings.paths)
    assert {name: one["rows"] for name, one in summary["speakers"].items()} == {"kåre": 3}
    assert {name: one["rows"] for name, one in summary["languages"].items()} == {"norwegian bokmål": 3}


def test_a_speaker_name_that_no_row_takes_is_said(
    make: Make, wav: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the name would be missed after training, when it is to speak."""
    rows = [{"audio": wav("a", voice(1.0)), "speaker": "Anna"}]
    prepare(make(rows, speaker_name="My Voice"))
    assert "SPEAKER_NAME=My Voice is not used: every row names its speaker" in capsys.readouterr().err
    for work, values in (("named", {"speaker_name": "ANNA"}), ("unset", {})):
        prepare(make(rows, work=work, **values))
        assert "SPEAKER_NAME" not in capsys.readouterr().err


def best(*rows: tuple[str, float, float, float], rates: tuple[int, ...] | None = None) -> list[str]:
    """Names of the best of some clips: (name, seconds, speech over noise, clipped share), at 24 kHz or `rates`."""
    names = [row[0] for row in rows]
    seconds, snr, clipped = (np.array([row[n] for row in rows]) for n in (1, 2, 3))
    rate = np.array(rates or [24_000] * len(rows), dtype=np.int32)
    return [names[n] for n in best_clips(seconds, snr, clipped, rate)]


def test_best_prefers_clean_speech_of_three_to_ten_seconds() -> None:
    assert best(("long", 12, 30, 0), ("noisy", 5, 10, 0), ("clipped", 5, 30, 0.1), ("clean", 5, 50, 0)) == [
        "clean",
        "noisy",
    ]
    assert len(best(*((str(n), 4, 30, 0) for n in range(20)))) == 5


def test_a_telephone_recording_is_no_best_clip_beside_whole_ones() -> None:
    """It measures cleanest, having no noise above 4 kHz, and has only half of the voice."""
    rows = (("telephone", 5, 70, 0), ("studio", 5, 50, 0), ("encoded", 5, np.nan, np.nan))
    assert best(*rows, rates=(8_000, 44_100, 0)) == ["studio", "encoded"]
    assert best(("telephone", 5, 70, 0), ("short", 1, 50, 0), rates=(8_000, 48_000)) == ["short"]
    assert best(("telephone", 5, 70, 0), ("clipped", 5, 50, 0.1), rates=(8_000, 48_000)) == ["telephone"]


def test_best_falls_back_to_the_longest() -> None:
    assert best(("short", 1, 30, 0), ("longer", 2.5, 30, 0), ("clipped", 2.9, 30, 0.1)) == ["longer", "short"]
    assert best(("clipped", 5, 30, 0.1)) == ["clipped"]


def test_clips_that_were_not_measured_are_taken_as_clean() -> None:
    assert best(("encoded", 5, np.nan, np.nan), ("measured", 5, 20, 0)) == ["measured", "encoded"]


def test_every_speaker_has_its_own_voice_under_its_lower_case_name(
    make: Make, clips: list[dict[str, Any]], encoder: SpeakerEncoder
) -> None:
    rows = [{"audio": row["audio"], "speaker": name} for row, name in zip(clips, ["Åsa", "BOB", " bob "], strict=False)]
    settings = make(rows, ref_audio_strategy="first")
    prepare(settings)
    vectors = read_speakers(settings.paths)
    assert sorted(vectors) == ["bob", "åsa"]
    assert torch.equal(vectors["bob"], vector_of(clips[1]["audio"], encoder))


def test_with_several_speakers_the_file_is_the_named_ones(
    make: Make, clips: list[dict[str, Any]], encoder: SpeakerEncoder, wav: Callable[..., str]
) -> None:
    reference = wav("reference", voice(3.0))
    rows = [{"audio": clips[0]["audio"], "speaker": "Ann"}, {"audio": clips[1]["audio"], "speaker": "Bob"}]
    settings = make(rows, ref_audio_path=reference, speaker_name="Ann")
    prepare(settings)
    vectors = read_speakers(settings.paths)
    assert torch.equal(vectors["ann"], vector_of(reference, encoder))
    assert torch.equal(vectors["bob"], vector_of(clips[1]["audio"], encoder))


def test_a_file_that_could_mean_several_speakers_is_refused(
    make: Make, clips: list[dict[str, Any]], wav: Callable[..., str]
) -> None:
    rows = [{"audio": clips[0]["audio"], "speaker": "Ann"}, {"audio": clips[1]["audio"], "speaker": "Bob"}]
    settings = make(rows, ref_audio_path=wav("reference", voice(3.0)), speaker_name="Carl")
    with pytest.raises(BadInput, match=r"REF_AUDIO_PATH=.*2 speakers \(ann, bob\); set SPEAKER_NAME"):
        prepare(settings)


@pytest.mark.parametrize(
    ("content", "says"), [("silent", "silent"), ("broken", "it is a text file"), ("missing", "no such file")]
)
@pytest.mark.parametrize("variable", ["REF_AUDIO_PATH", "ref_audio"])
def test_an_unusable_reference_stops_the_stage_and_is_named(
    make: Make,
    clips: list[dict[str, Any]],
    wav: Callable[..., str],
    tmp_path: Path,
    content: str,
    says: str,
    variable: str,
) -> None:
    reference = str(tmp_path / "reference.wav")
    if content == "silent":
        wav("reference", np.zeros(48_000))
    elif content == "broken":
        Path(reference).write_text("not audio")
    if variable == "REF_AUDIO_PATH":
        settings = make(rows_of(clips), ref_audio_path=reference)
    else:
        settings = make(rows_of(clips, ref_audio=reference))
    with pytest.raises(BadInput, match=f"{variable}: .*reference.wav: .*{says}") as caught:
        prepare(settings)
    assert caught.value.exit_code == 2
    assert not settings.paths.prepared.exists()


def test_references_that_disagree_are_refused_and_equal_copies_are_not(
    make: Make, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.flac"
    shutil.copy(clips[9]["audio"], copy)
    rows = rows_of(clips, 2, ref_audio=clips[9]["audio"])
    rows[1]["ref_audio"] = str(copy)
    prepare(make(rows))
    rows[1]["ref_audio"] = clips[10]["audio"]
    with pytest.raises(BadInput, match=r"speaker 'speaker': row 1 has ref_audio .* and row 2 has .*REF_AUDIO_STRATEGY"):
        prepare(make(rows, work="second"))


def test_a_strategy_without_what_it_needs_is_refused(make: Make, clips: list[dict[str, Any]]) -> None:
    with pytest.raises(BadInput, match="REF_AUDIO_STRATEGY=same: no row of speaker 'speaker' has ref_audio"):
        prepare(make(rows_of(clips), ref_audio_strategy="same"))
    with pytest.raises(BadInput, match="REF_AUDIO_STRATEGY=file: set REF_AUDIO_PATH"):
        prepare(make(rows_of(clips), work="second", ref_audio_strategy="file"))


def test_more_speakers_than_the_base_has_room_for_are_refused_before_anything_is_encoded(
    make: Make, clips: list[dict[str, Any]]
) -> None:
    """And not by training, hours later; data that is prepared for others is not trained on here."""
    rows = [{**clips[0], "speaker": f"speaker {number}"} for number in range(1100)]
    settings = make(rows)
    with pytest.raises(BadInput, match=r"1100 new speakers, but the model has room for \d+; set SPEAKER_COLUMN"):
        prepare(settings)
    assert not list(settings.paths.work.rglob("*.parquet"))
    work = Work(settings.model_copy(update={"prepare_only": True}))
    work.check_room(work.manifest.speakers)
