"""Judges on made speech, with real models; how ratings are kept, compared and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from job.config.settings import Settings
from job.core.errors import BadInput
from job.evaluate.comparison import compare
from job.evaluate.judges import independent, intelligibility, mos, similarity
from job.evaluate.judges.figures import BY_NAME
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.models import cosine, known_as
from job.evaluate.judges.prosody import Prosody
from job.evaluate.judges.ratings import Ratings
from job.evaluate.verdict import table, verdict
from job.text.error_rates import error_rates, normalize
from tests.support.speech import spoken


def clip(waveform: np.ndarray, rate: int = 24_000, text: str = "Hello.", speaker: str = "ada") -> Clip:
    return Clip(np.asarray(waveform, dtype=np.float32), rate, text, speaker)


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Hello, World!", "hello world"),
        ("It’s  «fine» — really…", "it's fine really"),
        ("well-known", "well known"),
        ("STRASSE", "straße"),
        ("ﬁve", "five"),
        ("cafe\u0301", "café"),
        ("Ẹ kú àárọ̀, Ayọ̀!", "ẹ kú àárọ̀ ayọ̀"),
        ("你好，世界。", "你好 世界"),
        ("हिन्दी!", "हिन्दी"),
    ],
)
def test_case_punctuation_and_encoding_do_not_count(written: str, spoken: str):
    assert normalize(written) == normalize(spoken)


@pytest.mark.parametrize(("one", "other"), [("résumé", "resume"), ("हिन्दी", "हन्दी"), ("can't", "cant"), ("kø", "ko")])
def test_letters_with_marks_are_other_letters(one: str, other: str):
    assert normalize(one) != normalize(other)


def test_error_rates_count_each_kind_of_error_by_what_was_to_be_said():
    assert error_rates("one two three four", "one too three") == pytest.approx((2 / 4, 5 / 15))
    assert error_rates("one", "one two three")[0] == pytest.approx(2.0)
    assert error_rates("One, two!", "one two") == (0, 0)
    assert error_rates("one", "") == (1, 1)
    assert error_rates("…", "anything") == (None, None)


def test_where_no_spaces_are_written_a_character_counts_as_a_word():
    assert error_rates("今日は いい", "今日はいい") == (0, 0)
    assert error_rates("今天天气很好", "今天天气真好") == pytest.approx((1 / 6, 1 / 6))


def test_english_is_compared_as_whisper_compares_it_and_other_languages_are_not():
    assert error_rates("It's twenty-five Dr. Smith", "it is 25 doctor smith", "English")[0] == 0
    assert error_rates("It's twenty-five", "it is 25", "Auto")[0] != 0
    assert error_rates("uh", "uh", "english") == (0, 0)  # its rules leave nothing of that


def test_cosine():
    assert cosine(np.array([1.0, 0.0]), np.array([2.0, 0.0])) == pytest.approx(1)
    assert cosine(np.array([1.0, 0.0]), np.array([0.0, 3.0])) == pytest.approx(0)
    assert cosine(np.zeros(2), np.ones(2)) == 0


def tiny_wav2vec(head: str, directory: Path, **config: object) -> Path:
    import torch
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2ForSequenceClassification,
        Wav2Vec2ForXVector,
    )

    torch.manual_seed(0)
    shape = Wav2Vec2Config(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(10, 8), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=8, mask_time_prob=0.0,
        tdnn_dim=(8, 8), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1), xvector_output_dim=8, pad_token_id=0, **config,
    )  # fmt: skip
    heads = {"ctc": Wav2Vec2ForCTC, "regression": Wav2Vec2ForSequenceClassification, "speaker": Wav2Vec2ForXVector}
    heads[head](shape).save_pretrained(directory)
    Wav2Vec2FeatureExtractor(sampling_rate=16_000, return_attention_mask=True).save_pretrained(directory)
    return directory


def tiny_recogniser(directory: Path) -> Path:
    """A real CTC recogniser with random weights."""
    from transformers import Wav2Vec2CTCTokenizer

    tiny_wav2vec("ctc", directory)
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c"])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(directory / "vocab.json")).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recogniser(tmp_path_factory.mktemp("asr"))


def test_a_recogniser_hears_speech_at_the_codecs_rate_and_long_speech_in_chunks(recogniser: Path):
    judge = intelligibility.load(Settings(asr_model=str(recogniser)), "cpu")
    assert judge is not None and "jiwer" in judge.by
    rng = np.random.default_rng(0)
    heard = judge(clip(rng.uniform(-0.5, 0.5, 24_000)))
    assert set(heard["transcript"]) <= set("abc <unk>s/") and heard["wer"] is not None
    assert isinstance(judge(clip(rng.uniform(-1, 1, 31 * 8000), 8000))["transcript"], str)


def test_a_recogniser_hears_speech_at_its_own_speed(recogniser: Path):
    """At 24 kHz the same as after resampling to the 16 kHz that it takes, which transformers' pipeline leaves out."""
    from job.audio.clip import resample

    hear = intelligibility.load_transcriber(str(recogniser), "cpu")
    wave = spoken(2.0)
    assert hear(wave, 24_000) == hear(resample(wave, 24_000, 16_000), 16_000) != hear(wave, 16_000)


def test_clean_speech_scores_higher_than_the_same_speech_in_noise_without_being_asked_for():
    judge = mos.load(Settings(), "cpu")
    assert judge is not None and "distillmos" in judge.by
    clean = spoken(7.6)
    noise = np.random.default_rng(0).normal(0, 0.1, clean.size)
    scores = [judge(clip(clean + level * noise))["mos"] for level in (0.0, 0.3, 1.0)]
    assert 1 <= scores[2] < scores[1] < scores[0] <= 5


def test_speech_without_an_end_is_listened_to_in_some_places():
    torch = pytest.importorskip("torch")
    cut = mos.windows(torch.arange(1000.0), 10)
    assert cut.shape == (mos.MOST_WINDOWS, 10) and cut[0, 0] == 0 and cut[-1, -1] == 999
    assert mos.windows(torch.ones(4), 10).sum() == 4


def test_a_torchscript_mos_predictor_gets_16_khz_and_gives_its_score(tmp_path: Path):
    import torch

    class Loudness(torch.nn.Module):
        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return samples.abs().max(dim=1)[0] + samples.shape[1]

    class WithRate(torch.nn.Module):
        def forward(self, samples: torch.Tensor, rate: int) -> torch.Tensor:
            return samples.new_full((samples.shape[0],), float(rate))

    torch.jit.script(Loudness()).save(str(tmp_path / "one.pt"))
    torch.jit.script(WithRate()).save(str(tmp_path / "two.pt"))
    for name in ("one.pt", "two.pt"):
        judge = mos.load(Settings(mos_model=str(tmp_path / name)), "cpu")
        assert judge is not None and judge(clip(np.zeros(24_000)))["mos"] == pytest.approx(16_000)
    assert mos.load(Settings(mos_model="none"), "cpu") is None


def test_a_transformers_mos_predictor_gives_its_logit(tmp_path: Path):
    judge = mos.load(Settings(mos_model=str(tiny_wav2vec("regression", tmp_path, num_labels=1))), "cpu")
    assert judge is not None
    rng = np.random.default_rng(0)
    one, other = (judge(clip(rng.uniform(-a, a, 12_000)))["mos"] for a in (0.5, 0.01))
    assert np.isfinite(one) and one != other


def test_a_classifier_is_no_mos_predictor(tmp_path: Path):
    with pytest.raises(BadInput, match=r"MOS_MODEL=.*5 outputs"):
        mos.load(Settings(mos_model=str(tiny_wav2vec("regression", tmp_path, num_labels=5))), "cpu")


@pytest.mark.parametrize("judge", [mos, intelligibility, independent])
def test_a_model_that_is_not_there_is_one_line_that_names_the_variable(tmp_path: Path, judge: Any):
    variable = {mos: "mos_model", intelligibility: "asr_model", independent: "similarity_model"}[judge]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=variable.upper()) as refused:
        judge.load(Settings(**{variable: str(tmp_path / "empty")}), "cpu")
    assert "\n" not in str(refused.value)
    assert "cannot be loaded (there is no config.json in it)" in str(refused.value)
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInput, match=variable.upper()) as refused:
        judge.load(Settings(**{variable: str(tmp_path / "empty")}), "cpu")
    assert "\n" not in str(refused.value) and "original errors" not in str(refused.value)
    assert len(str(refused.value)) < 450, "no list of all models that there are"


def test_a_judge_is_known_by_its_models_name_and_not_by_where_it_lies(tmp_path: Path):
    """Figures are published with their judge; another model of the same name is another judge all the same."""
    cached = tmp_path / "hub" / "models--Qwen--Qwen3-TTS" / "snapshots" / ("a" * 40)
    for number, folder in enumerate((cached, tmp_path / "whisper", tmp_path / "other" / "whisper")):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(str(number))
    known = [known_as(str(folder)) for folder in (cached, tmp_path / "whisper", tmp_path / "other" / "whisper")]
    assert [one.split(" (")[0] for one in known] == ["Qwen/Qwen3-TTS", "whisper", "whisper"]
    assert len(set(known)) == 3
    assert known_as("openai/whisper-tiny") == "openai/whisper-tiny"


def test_an_independent_model_compares_with_recordings_but_not_with_a_recording_itself(tmp_path: Path):
    judge = independent.load(Settings(similarity_model=str(tiny_wav2vec("speaker", tmp_path, num_labels=2))), "cpu")
    assert judge is not None and independent.load(Settings(), "cpu") is None
    recordings = [clip(spoken(1.0, seed=seed), speaker="ada") for seed in range(2)]
    before = judge.by
    judge.know(recordings)
    assert judge.by != before  # other recordings, other ratings
    alone = cosine(judge.embed(recordings[0]), judge.embed(recordings[1]))
    assert judge(recordings[0])["similarity_independent"] == pytest.approx(alone, abs=1e-5)
    assert judge(clip(spoken(1.0), speaker="nobody"))["similarity_independent"] is None


def test_another_voice_at_the_start_and_a_drift_are_told_by_the_windows():
    steady, wrong = similarity.by_window([0.8] * 6), similarity.by_window([0.3] + [0.8] * 5)
    drifting = similarity.by_window([0.8, 0.8, 0.8, 0.7, 0.6, 0.5])
    assert steady == {"similarity_start": 0, "similarity_drift": 0}
    assert wrong["similarity_start"] == pytest.approx(-0.5) and wrong["similarity_drift"] == 0
    assert drifting["similarity_drift"] < -0.2
    assert similarity.by_window([0.8, 0.3]) == {}
    assert len(similarity.windows_of(spoken(5.0), 24_000)) == 2


def test_faster_and_higher_speech_is_measured_as_such():
    wave, text = spoken(4.0), "twenty-four letters are here"
    slow, fast = (Prosody()(clip(one, text=text)) for one in (wave, soxr.resample(wave, 1.5, 1.0)))
    assert fast["letters_per_second"] == pytest.approx(1.5 * slow["letters_per_second"], rel=0.1)
    assert fast["pitch"] == pytest.approx(1.5 * slow["pitch"], rel=0.1)
    assert Prosody()(clip(np.zeros(24_000))) == dict.fromkeys(
        ("letters_per_second", "rate_drift", "pitch", "pitch_range")
    )


class Length(Judge):
    """Rates by length, fails on what is empty, and counts how often it is asked."""

    name, by = "length", "length 1"

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, clip: Clip) -> dict[str, Any]:
        self.asked += 1
        if not clip.waveform.size:
            raise RuntimeError("no sound\nat all")
        return {"mos": clip.waveform.size / 10, "cer": float("nan")}


class Broken(Length):
    name = "broken"

    def __call__(self, clip: Clip) -> dict[str, Any]:
        raise MemoryError("out of memory")


def test_a_judge_that_fails_leaves_its_figures_empty_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    clips = [clip(np.zeros(n)) for n in (10, 0, 20)]
    ratings = Ratings([Broken(), Length()], tmp_path / "judged.jsonl")
    assert ratings.of([], clips) == [{"mos": 1.0, "cer": None}, {}, {"mos": 2.0, "cer": None}]
    assert ratings.accounts["broken"].failed == 3 and ratings.accounts["length"].failed == 1
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and "broken: nothing judged: out of memory" in warnings[0]
    assert warnings[1].endswith("length: 1 clips not judged: no sound")


def test_what_was_judged_before_a_kill_is_not_judged_again_unless_it_or_the_judge_has_changed(tmp_path: Path):
    path, clips = tmp_path / "judged.jsonl", [clip(np.zeros(n)) for n in (10, 20)]
    Ratings([Length()], path).of([], clips)
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 3])  # a kill cut the last line off
    again = Length()
    told = Ratings([again], path).of([], [*clips, clip(np.zeros(30))])
    assert again.asked == 1 and [one["mos"] for one in told] == [1, 2, 3]
    newer = Length()
    newer.by = "length 2"
    Ratings([newer], path).of([], clips)
    assert newer.asked == 2
    # only what this run used is kept
    assert len(path.read_text().splitlines()) == 2


def told(values: dict[str, list[float]], name: str = "mos") -> dict[str, list[dict[str, Any]]]:
    return {source: [{name: value} for value in some] for source, some in values.items()}


def test_a_difference_to_the_base_counts_where_it_is_more_than_chance():
    steady = compare(told({"voice": [4.0, 3.9, 4.1], "base": [3.5, 3.4, 3.7], "base_in_context": [2.0, 2.1, 2.0]}))
    (row,) = steady
    assert (row["against_base"], row["base_used"]) == ("better", "base")  # beside the better of the two ways
    assert row["delta"] == pytest.approx(4.0 - 10.6 / 3, abs=1e-5)
    scattered = compare(told({"voice": [4.0, 2.0, 4.5], "base": [3.0, 3.5, 3.5]}))
    assert scattered[0]["against_base"] == "same"
    lower = compare(told({"voice": [0.1, 0.1, 0.1], "base": [0.3, 0.3, 0.3]}, "wer"))
    assert lower[0]["against_base"] == "better" and lower[0]["delta"] < 0
    near = compare(told({"codec": [200.0], "voice": [210.0] * 3, "base": [150.0] * 3}, "pitch"))
    assert near[0]["against_base"] == "better"
    assert compare(told({"base": [3.0]})) == []


@pytest.mark.parametrize(
    ("voice", "codec", "failed", "word"),
    [
        (4.3, 4.4, 0, "Excellent"),
        (3.6, 4.4, 0, "Good"),
        (2.6, 4.4, 0, "Usable"),
        (1.6, 4.4, 0, "Not good yet"),
        (2.6, 2.7, 0, "As good as its recordings"),
        (4.3, 4.4, 3, "Not good yet"),
    ],
)
def test_the_verdict_is_the_mark_that_is_reached_or_what_the_recordings_allow(
    voice: float, codec: float, failed: int, word: str
):
    rows = compare(told({"voice": [voice] * 4, "codec": [codec] * 2}))
    said = verdict(rows, failed, 4, 0.25, "BASELINES=false")
    assert said.startswith(f"{word}: ")
    assert BY_NAME["mos"].shown(voice) in said and said.endswith("Not compared with the base model: BASELINES=false.")


def test_the_verdict_says_in_what_the_voice_is_better_and_in_what_not():
    both = {
        source: [{"mos": mos, "similarity": close, "wer": 0.1} for _ in range(3)]
        for source, mos, close in (("voice", 4.0, 0.6), ("base", 3.0, 0.8))
    }
    rows = compare(both)
    assert verdict(rows, 0, 3, 0.25).endswith(
        "Beside the base model cloning it: better in naturalness (+1.00), worse in similarity (−20 points) and without "
        "a clear difference in errors of words."
    )
    lines = table(rows)
    assert len({len(line) for line in lines[1:]}) <= 3 and "Base, x-vector" in lines[0] and "Recordings" not in lines[0]


def test_without_any_judge_the_verdict_still_tells_of_the_checks():
    assert verdict([], 0, 1, 0.25) == (
        "Not rated: the sample passes the checks. No judge could tell more. "
        "Not compared with the base model: no judge could tell."
    )
