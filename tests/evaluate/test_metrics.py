"""Error rates against an independent implementation, and real (random) models that listen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.core.errors import BadInput
from job.evaluate import metrics

WORDS = st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=8)


@settings(deadline=None)  # the first example pays for importing torchaudio
@given(WORDS, WORDS)
def test_edit_distance_is_levenshteins(reference: list[str], hypothesis: list[str]):
    from torchaudio.functional import edit_distance

    assert metrics.edit_distance(reference, hypothesis) == edit_distance(reference, hypothesis)


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
    assert metrics.normalize(written) == metrics.normalize(spoken)


@pytest.mark.parametrize(("one", "other"), [("résumé", "resume"), ("हिन्दी", "हन्दी"), ("can't", "cant"), ("kø", "ko")])
def test_letters_with_marks_are_other_letters(one: str, other: str):
    assert metrics.normalize(one) != metrics.normalize(other)


def test_word_error_rate_counts_each_kind_of_error_by_the_words_of_the_reference():
    assert metrics.word_error_rate("one two three four", "one too three") == pytest.approx(2 / 4)
    assert metrics.word_error_rate("one", "one two three") == pytest.approx(2.0)
    assert metrics.word_error_rate("One, two!", "one two") == 0
    assert metrics.word_error_rate("…", "anything") is None


def test_character_error_rate_does_not_depend_on_spaces():
    assert metrics.character_error_rate("今日は いい", "今日はいい") == 0
    assert metrics.character_error_rate("abcd", "abxd") == pytest.approx(0.25)


def test_cosine():
    assert metrics.cosine(np.array([1.0, 0.0]), np.array([2.0, 0.0])) == pytest.approx(1)
    assert metrics.cosine(np.array([1.0, 0.0]), np.array([0.0, 3.0])) == pytest.approx(0)
    assert metrics.cosine(np.zeros(2), np.ones(2)) == 0


def tiny_wav2vec(head: str, directory: Path, **config: object) -> Path:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    shape = Wav2Vec2Config(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(10, 8), conv_kernel=(10, 8), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=8, mask_time_prob=0.0,
        pad_token_id=0, **config,
    )  # fmt: skip
    heads = {"ctc": Wav2Vec2ForCTC, "regression": Wav2Vec2ForSequenceClassification}
    heads[head](shape).save_pretrained(directory)
    Wav2Vec2FeatureExtractor(sampling_rate=16_000, return_attention_mask=True).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real CTC recogniser with random weights."""
    from transformers import Wav2Vec2CTCTokenizer

    directory = tiny_wav2vec("ctc", tmp_path_factory.mktemp("asr"))
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "c"])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(directory / "vocab.json")).save_pretrained(directory)
    return directory


def test_a_recogniser_hears_speech_at_the_codecs_rate(recogniser: Path):
    transcribe = metrics.load_transcriber(str(recogniser), "cpu")
    rng = np.random.default_rng(0)
    waveform = rng.uniform(-0.5, 0.5, 24_000).astype(np.float32)
    heard = transcribe(waveform, 24_000)
    assert isinstance(heard, str)
    assert heard == transcribe(waveform, 24_000)
    assert set(heard) <= set("abc <unk>s/")


def test_speech_of_over_thirty_seconds_is_transcribed_in_chunks(recogniser: Path):
    transcribe = metrics.load_transcriber(str(recogniser), "cpu")
    assert isinstance(transcribe(np.random.default_rng(0).uniform(-1, 1, 31 * 8000).astype(np.float32), 8000), str)


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
    waveform = np.zeros(24_000, dtype=np.float32)
    assert metrics.load_mos(str(tmp_path / "one.pt"), "cpu")(waveform, 24_000) == pytest.approx(16_000)
    assert metrics.load_mos(str(tmp_path / "two.pt"), "cpu")(waveform, 24_000) == pytest.approx(16_000)


def test_a_transformers_mos_predictor_gives_its_logit(tmp_path: Path):
    directory = tiny_wav2vec("regression", tmp_path, num_labels=1)
    score = metrics.load_mos(str(directory), "cpu")
    rng = np.random.default_rng(0)
    one, other = (score(rng.uniform(-a, a, 12_000).astype(np.float32), 24_000) for a in (0.5, 0.01))
    assert np.isfinite(one) and one != other


def test_a_classifier_is_no_mos_predictor(tmp_path: Path):
    with pytest.raises(BadInput, match=r"MOS_MODEL=.*5 outputs"):
        metrics.load_mos(str(tiny_wav2vec("regression", tmp_path, num_labels=5)), "cpu")


@pytest.mark.parametrize(("load", "variable"), [("load_transcriber", "ASR_MODEL"), ("load_mos", "MOS_MODEL")])
def test_a_model_that_is_not_there_is_one_line_that_names_the_variable(tmp_path: Path, load: str, variable: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=variable) as refused:
        getattr(metrics, load)(str(tmp_path / "empty"), "cpu")
    assert "\n" not in str(refused.value)
