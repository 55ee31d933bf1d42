"""Codes from the real speech tokenizer: the same whatever the batch, order, or number of workers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from job.audio.clip import Unusable, load, pad_to_frames
from job.core.errors import BadInput
from job.model import loading
from job.prepare import encode
from job.prepare.codec import Codec
from job.prepare.encode import Item, check_codes, encode_items, encode_singly, in_order
from tests.prepare.conftest import voice

#: Seconds; none but the first is a whole number of frames, and one is less than a frame.
LENGTHS = [0.8, 0.05, 2.31, 0.333, 1.07, 0.61, 3.9, 0.45, 1.93]


@pytest.fixture(scope="session")
def codec(tiny_base: Path) -> Codec:
    return Codec(loading.load_speech_tokenizer(tiny_base / "speech_tokenizer", torch.device("cpu")), codebooks=16)


@pytest.fixture(scope="session")
def waves() -> list[np.ndarray]:
    return [voice(seconds, seed=n) for n, seconds in enumerate(LENGTHS)]


@pytest.fixture(scope="session")
def alone(codec: Codec, waves: list[np.ndarray]) -> list[np.ndarray]:
    """Each wave's codes, encoded in a batch of one."""
    return [codec.encode([wave])[0] for wave in waves]


def test_a_clip_has_the_same_codes_alone_and_in_any_batch(
    codec: Codec, waves: list[np.ndarray], alone: list[np.ndarray]
) -> None:
    for codes, together in zip(alone, codec.encode(waves), strict=True):
        np.testing.assert_array_equal(codes, together)
    assert len({codes.tobytes() for codes in alone}) == len(waves)


def test_codes_have_one_row_of_int16_a_whole_frame(codec: Codec, waves: list[np.ndarray]) -> None:
    for wave, codes in zip(waves, codec.encode(waves), strict=True):
        assert codes.shape == (-(-len(wave) // codec.samples_per_frame), 16)
        assert codes.dtype == np.int16
        assert codes.min() >= 0
        assert codes.max() < codec.codebook_size


def test_codes_are_those_of_the_stock_tokenizer(codec: Codec, waves: list[np.ndarray], tiny_base: Path) -> None:
    """Alone and in a batch, short and longer than the transformer's window of ten seconds."""
    stock = loading.load_speech_tokenizer(tiny_base / "speech_tokenizer", torch.device("cpu"))
    padded = [pad_to_frames(wave, codec.samples_per_frame) for wave in [*waves[:3], voice(21.0, seed=20)]]
    for wave in padded:
        wanted = stock.encode(wave, sr=codec.sample_rate).audio_codes[0]
        np.testing.assert_array_equal(codec.encode([wave])[0], wanted.numpy())
    together = stock.encode(padded[:3], sr=codec.sample_rate).audio_codes
    for codes, wanted in zip(codec.encode(padded[:3]), together, strict=True):
        np.testing.assert_array_equal(codes, wanted.numpy())


@pytest.mark.parametrize("threads", [1, 3])
def test_clips_are_encoded_side_by_side_in_their_order(
    codec: Codec, waves: list[np.ndarray], alone: list[np.ndarray], threads: int
) -> None:
    """As many as torch has threads, each with one of its own; afterwards torch has its threads again."""
    before = torch.get_num_threads()
    rows: list[Any] = [Item(SimpleNamespace(id=str(n)), samples=wave) for n, wave in enumerate(waves)]  # type: ignore[arg-type]
    rows.insert(2, Item(SimpleNamespace(id="refused"), unusable=Unusable("silent", "x")))  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    try:
        encoded = list(encode_singly(iter(rows), codec))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert [item.row.id for item in encoded] == ["0", "1", "refused", *(str(n) for n in range(2, len(waves)))]
    assert encoded.pop(2).codes is None
    for item, codes in zip(encoded, alone, strict=True):
        assert item.samples is None
        np.testing.assert_array_equal(item.codes, codes)


def test_only_the_codebooks_that_the_base_model_speaks_are_kept(codec: Codec, waves: list[np.ndarray]) -> None:
    fewer = Codec(codec.tokenizer, codebooks=4)
    np.testing.assert_array_equal(fewer.encode(waves[:1])[0], codec.encode(waves[:1])[0][:, :4])


def test_a_tokenizer_with_too_few_codebooks_is_refused(codec: Codec) -> None:
    with pytest.raises(BadInput, match="TOKENIZER_PATH: the tokenizer has 16 codebooks, the base model needs 17"):
        Codec(codec.tokenizer, codebooks=17)


def test_sizes_come_from_the_tokenizer(codec: Codec) -> None:
    assert (codec.sample_rate, codec.samples_per_frame, codec.frame_rate) == (24_000, 1920, 12.5)
    assert codec.codebook_size == codec.tokenizer.config.encoder_config.codebook_size


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 2), (4, 0), (100, 3)])
def test_streamed_rows_keep_their_order_and_their_codes(
    codec: Codec,
    waves: list[np.ndarray],
    alone: list[np.ndarray],
    batch_size: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode, "WINDOW_BATCHES", 2)
    rows: list[Any] = [SimpleNamespace(id=str(n), wave=wave) for n, wave in enumerate(waves)]
    items = in_order(rows, lambda row: Item(row, samples=row.wave), workers)
    encoded = list(encode_items(items, codec, batch_size))
    assert [item.row.id for item in encoded] == [str(n) for n in range(len(waves))]
    for item, codes in zip(encoded, alone, strict=True):
        assert item.samples is None
        np.testing.assert_array_equal(item.codes, codes)


def test_batches_pad_little_because_clips_are_sorted_by_length(codec: Codec) -> None:
    seen: list[list[int]] = []

    class Watched(Codec):
        def _encode(self, padded: list[np.ndarray]) -> list[np.ndarray]:
            seen.append([len(clip) for clip in padded])
            return super()._encode(padded)

    mixed: list[Any] = [Item(None, samples=voice(seconds)) for seconds in [0.5, 3.0] * 4]  # type: ignore[arg-type]
    list(encode_items(mixed, Watched(codec.tokenizer, 16), 4))
    assert [len(set(batch)) for batch in seen] == [1, 1]


def test_a_batch_that_does_not_fit_the_memory_is_halved(
    codec: Codec, waves: list[np.ndarray], alone: list[np.ndarray]
) -> None:
    class Small(Codec):
        def _encode(self, padded: list[np.ndarray]) -> list[np.ndarray]:
            if len(padded) > 2:
                raise torch.OutOfMemoryError
            return super()._encode(padded)

    for codes, whole in zip(Small(codec.tokenizer, 16).encode(waves[:5]), alone, strict=False):
        np.testing.assert_array_equal(codes, whole)


def test_reading_ahead_is_bounded(codec: Codec) -> None:
    started: list[int] = []

    def source() -> Any:
        for n in range(1000):
            started.append(n)
            yield n

    stream = in_order(source(), lambda n: n, 2)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    assert len(started) < 20
    stream.close()


def test_an_error_in_a_worker_reaches_the_caller(codec: Codec) -> None:
    def fail(n: int) -> int:
        raise ValueError(str(n))

    with pytest.raises(ValueError, match="0"):
        list(in_order(range(10), fail, 2))


def test_codes_that_arrive_with_a_row_are_taken_as_they_are(codec: Codec, alone: list[np.ndarray]) -> None:
    codes = alone[0]
    np.testing.assert_array_equal(check_codes(codes.tolist(), codec), codes)
    assert check_codes(codes.tolist(), codec).dtype == np.int16


@pytest.mark.parametrize(
    ("codes", "reason", "says"),
    [
        ([], "empty", "no frames"),
        ([[]], "empty", "no frames"),
        ([[1] * 15], "bad_codes", "shape 1x15, expected frames x 16"),
        ([[1] * 16, [1] * 15], "bad_codes", "different numbers of codes"),
        ([1] * 16, "bad_codes", "shape 16"),
        ([[2048] + [1] * 15], "bad_codes", "code 2048 is outside 0 to 2047"),
        ([[-1] + [1] * 15], "bad_codes", "code -1 is outside"),
        ([[0.5] * 16], "bad_codes", "expected integers"),
        ([["a"] * 16], "bad_codes", "expected integers"),
        ("text", "bad_codes", "shape"),
    ],
)
def test_codes_that_do_not_fit_the_base_model_are_named(codec: Codec, codes: Any, reason: str, says: str) -> None:
    with pytest.raises(Unusable, match=says) as caught:
        check_codes(codes, codec)
    assert caught.value.reason == reason


def test_speech_survives_encoding_and_decoding_in_shape(codec: Codec, clips: list[dict[str, Any]]) -> None:
    clip = load(Path(clips[0]["audio"]), codec.sample_rate)
    codes = codec.encode([clip.samples])[0]
    decoded = codec.decode(codes)
    assert decoded.shape == (len(codes) * codec.samples_per_frame,)
    assert np.abs(decoded).max() <= 1.0
