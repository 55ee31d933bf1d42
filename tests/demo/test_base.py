"""The tiny base is a real base directory: stock classes load it, and it clones, encodes, speaks and decodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from job.core import files
from job.core.errors import BadInput
from job.demo import manifest
from job.demo.base import CODEC_IDS, FILES, LANGUAGES, build
from job.demo.cached_base import cached_base, is_complete

if TYPE_CHECKING:
    import torch

FRAME = 1920
RATE = 24_000


def load(directory: Path) -> Any:
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel.from_pretrained(str(directory))


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load(tiny_base)


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    """The embedded clips, zero-padded to whole frames."""
    read = [soundfile.read(row["audio"], dtype="float32")[0] for row in manifest()]
    return [np.pad(wave, (0, -len(wave) % FRAME)) for wave in read]


@pytest.fixture(scope="module")
def codes(model: Any, waves: list[np.ndarray]) -> list[torch.Tensor]:
    return list(model.model.speech_tokenizer.encode(waves, sr=RATE).audio_codes)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_two_builds_are_equal_byte_for_byte_and_a_seed_changes_them(tiny_base: Path, tmp_path: Path) -> None:
    first = contents(tiny_base)
    assert contents(build(tmp_path / "again")) == first
    other = contents(build(tmp_path / "other", seed=1))
    changed = {name for name in first if other[name] != first[name]}
    assert changed == {"model.safetensors", "speech_tokenizer/model.safetensors"}


@pytest.mark.slow
def test_building_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(3)
    before = torch.get_rng_state()
    build(tmp_path / "base")
    assert torch.equal(torch.get_rng_state(), before)


def test_it_has_every_file_of_a_base_directory_in_about_16_megabytes(tiny_base: Path) -> None:
    found = contents(tiny_base)
    assert set(found) == set(FILES)
    assert sum(map(len, found.values())) < 17e6


def test_configuration_is_that_of_a_released_base(tiny_base: Path) -> None:
    config = files.read_json(tiny_base / "config.json")
    talker = config["talker_config"]
    assert (config["model_type"], config["tts_model_type"]) == ("qwen3_tts", "base")
    assert talker["vocab_size"] == 3072
    assert talker["code_predictor_config"]["vocab_size"] == 2048
    assert talker["codec_language_id"] == LANGUAGES
    assert {name: talker[name] for name in CODEC_IDS} == CODEC_IDS
    assert talker["spk_id"] == talker["spk_is_dialect"] == {}
    # Stock code drops instruct for every size that is a substring of "0b6".
    assert config["tts_model_size"] not in "0b6"


def test_role_template_has_the_token_counts_that_generate_cuts_by(model: Any) -> None:
    def count(text: str) -> int:
        return int(model.processor(text=text, return_tensors="pt").input_ids.shape[1])

    assert count("<|im_start|>assistant\n") == 3
    assert count("<|im_end|>\n<|im_start|>assistant\n") == 5
    for row in manifest():
        tokens = count(row["text"])
        assert count(model._build_assistant_text(row["text"])) == 3 + tokens + 5
        assert count(model._build_instruct_text(row["text"])) == 3 + tokens + 2


def test_text_tokens_round_trip_and_are_fewer_than_frames(model: Any, codes: list[torch.Tensor]) -> None:
    tokenizer = model.processor.tokenizer
    for row, frames in zip(manifest(), codes, strict=True):
        ids = model.processor(text=row["text"], return_tensors="pt").input_ids[0]
        assert tokenizer.decode(ids) == row["text"]
        # The streaming layout spends a frame on every token.
        assert len(ids) < len(frames), row["text"]
    assert tokenizer.decode(tokenizer("Blåbærsyltetøy 你好 🎈").input_ids) == "Blåbærsyltetøy 你好 🎈"


def test_special_ids_agree_between_tokenizer_and_configuration(model: Any) -> None:
    config, tokenizer = model.model.config, model.processor.tokenizer
    for name, token in {
        "im_start_token_id": "<|im_start|>",
        "im_end_token_id": "<|im_end|>",
        "tts_pad_token_id": "<tts_pad>",
        "tts_bos_token_id": "<tts_text_bos>",
        "tts_eos_token_id": "<tts_text_eod>",
        "assistant_token_id": "assistant",
    }.items():
        assert getattr(config, name) == tokenizer.convert_tokens_to_ids(token), name
    assert len(tokenizer) <= config.talker_config.text_vocab_size


def test_codes_follow_the_sound_in_every_codebook(codes: list[torch.Tensor]) -> None:
    import torch

    frames = torch.cat(codes)
    assert frames.shape[1] == 16
    assert frames.min() >= 0 and frames.max() < 2048
    assert len(torch.unique(frames, dim=0)) > 0.9 * len(frames)
    for codebook in range(16):
        counts = frames[:, codebook].bincount(minlength=2048)
        assert (counts > 0).sum() > 100, f"book {codebook}"
        assert counts.max() < 0.2 * len(frames), f"book {codebook}"
    for index, one in enumerate(codes):
        for other in codes[index + 1 :]:
            shared = min(len(one), len(other))
            assert (one[:shared] == other[:shared]).float().mean() < 0.1


def test_codes_of_whole_frames_do_not_depend_on_the_batch(
    model: Any, waves: list[np.ndarray], codes: list[torch.Tensor]
) -> None:
    import torch

    for wave, batched in zip(waves, codes, strict=True):
        assert len(batched) == len(wave) // FRAME
    for wave, batched in list(zip(waves, codes, strict=True))[::3]:
        (alone,) = model.model.speech_tokenizer.encode(wave, sr=RATE).audio_codes
        assert torch.equal(alone, batched)


@pytest.mark.slow
def test_decoding_gives_whole_frames_that_are_audible_and_follow_the_codes(model: Any) -> None:
    import torch

    random = np.random.default_rng(5)
    codebooks = [torch.from_numpy(random.integers(0, 2048, (frames, 16))) for frames in (1, 40, 40, 320)]
    decoded, rate = model.model.speech_tokenizer.decode({"audio_codes": codebooks})
    assert rate == RATE
    for wave, frames in zip(decoded, codebooks, strict=True):
        assert len(wave) == len(frames) * FRAME
    for wave in decoded[1:]:
        assert 0.03 < np.sqrt(np.square(wave).mean()) < 0.3
        assert np.abs(wave).max() < 1.0
        assert abs(wave.mean()) < 1e-3
    assert np.sqrt(np.square(decoded[1] - decoded[2]).mean()) > 0.05


def test_x_vectors_tell_voices_apart_and_have_the_size_of_codec_rows(model: Any, waves: list[np.ndarray]) -> None:
    import torch

    rows = manifest()
    vectors = torch.stack([model.model.extract_speaker_embedding(wave, RATE) for wave in waves]).clone()
    scale = model.model.talker.get_input_embeddings().weight.norm(dim=1).mean()
    assert bool((vectors.norm(dim=1) > 0.3 * scale).all() and (vectors.norm(dim=1) < 6 * scale).all())
    voices = [torch.tensor([row["speaker"] == name for row in rows]) for name in ("ada", "emil")]
    apart = (vectors[voices[0]].mean(0) - vectors[voices[1]].mean(0)).norm()
    assert apart > 0.3 * scale


def test_it_clones_and_speaks_in_both_prompt_modes(model: Any, waves: list[np.ndarray]) -> None:
    import torch

    reference = (waves[0], RATE)
    for options in ({"x_vector_only_mode": True}, {"ref_text": manifest()[0]["text"]}):
        prompt = model.create_voice_clone_prompt(reference, **options)
        torch.manual_seed(0)
        wave, rate = model.generate_voice_clone(
            "Hello there.", language="English", voice_clone_prompt=prompt, max_new_tokens=8
        )
        assert rate == RATE
        assert len(wave[0]) % FRAME == 0 and len(wave[0]) > 0
        assert np.isfinite(wave[0]).all() and np.abs(wave[0]).max() > 0.01


@pytest.mark.slow
def test_other_sizes_and_ids_load_encode_and_speak(tmp_path: Path, waves: list[np.ndarray]) -> None:
    """Tests of other stages build bases like this one to show that no size and no id is built in."""
    import torch

    ids = {name: index - 2048 + 512 + 300 for name, index in CODEC_IDS.items()}
    model = load(
        build(
            tmp_path / "other",
            seed=4,
            hidden_size=48,
            text_hidden_size=80,
            layers=3,
            heads=6,
            key_value_heads=3,
            head_dim=12,
            sub_talker_hidden_size=32,
            sub_talker_layers=1,
            codebooks=5,
            codebook_size=512,
            codec_ids=ids,
            languages={"norwegian": 700, "english": 701},
            reserved_text_tokens=7,
            size="tiny",
            dtype="float32",
        )
    )
    talker = model.model.talker
    assert isinstance(talker.code_predictor.small_to_mtp_projection, torch.nn.Linear)
    assert set(model.model.get_supported_languages()) == {"auto", "norwegian", "english"}
    config = model.model.config
    assert model.processor.tokenizer.convert_tokens_to_ids("<tts_pad>") == config.tts_pad_token_id
    assert config.talker_config.codec_eos_token_id == ids["codec_eos_token_id"]
    encoded = model.model.speech_tokenizer.encode(waves[:2], sr=RATE).audio_codes
    assert encoded[0].shape[1] == 5 and encoded[0].max() < 512
    prompt = model.create_voice_clone_prompt((waves[0], RATE), x_vector_only_mode=True)
    assert prompt[0].ref_spk_embedding.shape == (48,)
    wave, _ = model.generate_voice_clone("Hei.", language="Norwegian", voice_clone_prompt=prompt, max_new_tokens=6)
    assert len(wave[0]) % FRAME == 0 and len(wave[0]) > 0


def test_default_sub_talker_has_the_talkers_width_and_so_no_projection(model: Any) -> None:
    import torch

    assert isinstance(model.model.talker.code_predictor.small_to_mtp_projection, torch.nn.Identity)


# The last line is ours: qwen_tts prints a banner when it is imported.
CACHED = "from job.demo.cached_base import cached_base; print(cached_base())"


@pytest.mark.slow
def test_cached_base_is_built_once_by_racing_processes_and_repaired_when_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    elsewhere = tmp_path / "temporary"  # where another run may have put one, which would be taken
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    racing = [subprocess.Popen([sys.executable, "-c", CACHED], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {Path(process.communicate(timeout=300)[0].splitlines()[-1]) for process in racing}
    assert [process.returncode for process in racing] == [0, 0]
    (directory,) = printed
    assert directory.is_relative_to(tmp_path)
    assert contents(directory) == contents(tiny_base)
    assert [path for path in directory.parent.iterdir() if path.is_dir()] == [directory], "a temporary one was left"

    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert cached_base() == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == before, "it was built again"

    (directory / "speech_tokenizer" / "model.safetensors").unlink()
    assert not is_complete(directory)
    assert cached_base() == directory
    assert contents(directory) == contents(tiny_base)


@pytest.mark.slow
def test_cached_base_falls_back_to_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache directory would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert is_complete(cached_base())
    assert cached_base().is_relative_to(tmp_path / "temporary")


def test_no_place_for_the_cache_is_one_line_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where both directories would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(blocked))
    with pytest.raises(BadInput, match=r"^INIT_MODEL_PATH=demo: [^\n]+$"):
        cached_base()


def test_clip_rows_need_no_torch() -> None:
    code = "import sys, job.demo, job.demo.base; job.demo.manifest(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
