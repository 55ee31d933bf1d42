"""The generation contract: what each position of a sequence contains, and what it must predict.

This mirrors, position by position, the inputs that `Qwen3TTSForConditionalGeneration.generate` and
`generate_icl_prompt` of qwen-tts 0.1.1 build and then extend frame by frame. It is plain numpy on token ids; turning
ids into embeddings is done by `objective.py`. `tests/train/test_contract.py` compares this module with the library.

Every position has a text id. On the codec channel a position has nothing (role and instruct tokens), one id of the
talker's codec embedding, the speaker's vector, or a frame (the sum of its codebooks' embeddings).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

#: Label that the loss ignores.
IGNORED = -100
#: Tokens of `<|im_start|>assistant\n`, which open every sequence.
ROLE_TOKENS = 3
#: Tokens of `<|im_end|>\n<|im_start|>assistant\n`, which close the tokenized text and are never fed to the model.
CLOSING_TOKENS = 5
#: Tokens of `<|im_end|>\n`, which close a tokenized reference text.
REFERENCE_CLOSING_TOKENS = 2


def text_template(text: str) -> str:
    """Build the string to tokenize for a text, as `Qwen3TTSModel._build_assistant_text` does."""
    return f"<|im_start|>assistant\n{text}<|im_end|>\n<|im_start|>assistant\n"


def instruct_template(instruct: str) -> str:
    """Build the string to tokenize for an instruction, as `Qwen3TTSModel._build_instruct_text` does."""
    return f"<|im_start|>user\n{instruct}<|im_end|>\n"


def reference_template(text: str) -> str:
    """Build the string to tokenize for a reference text, as `Qwen3TTSModel._build_ref_text` does."""
    return f"<|im_start|>assistant\n{text}<|im_end|>\n"


@dataclass(frozen=True)
class SpecialIds:
    """Special ids from a model's config, from which sequences are built."""

    tts_bos: int
    tts_eos: int
    tts_pad: int
    codec_bos: int
    codec_eos: int
    codec_pad: int
    think: int
    nothink: int
    think_bos: int
    think_eos: int
    languages: dict[str, int]
    codebooks: int

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SpecialIds:
        """Read them from a parsed config.json (or `Qwen3TTSConfig.to_dict()`)."""
        talker = config["talker_config"]
        return cls(
            tts_bos=config["tts_bos_token_id"],
            tts_eos=config["tts_eos_token_id"],
            tts_pad=config["tts_pad_token_id"],
            codec_bos=talker["codec_bos_id"],
            codec_eos=talker["codec_eos_token_id"],
            codec_pad=talker["codec_pad_id"],
            think=talker["codec_think_id"],
            nothink=talker["codec_nothink_id"],
            think_bos=talker["codec_think_bos_id"],
            think_eos=talker["codec_think_eos_id"],
            languages=dict(talker.get("codec_language_id") or {}),
            codebooks=talker["num_code_groups"],
        )

    def language_row(self, language: str | None) -> int | None:
        """Row of a language's codec embedding; None (Auto) for None, `auto` and languages the model lacks."""
        return self.languages.get(language.lower()) if language else None


@dataclass(frozen=True)
class Reference:
    """A reference clip for in-context cloning: `text_ids` (R,) of `reference_template`, `frames` (S, codebooks)."""

    text_ids: Ids
    frames: NDArray[np.int16]


@dataclass(frozen=True)
class Sequence:
    """One sample of L positions.

    Attributes:
        text_ids: (L,) id on the text channel.
        codec_ids: (L,) row of the talker's codec embedding, -1 where there is none.
        frame_index: (L,) index into `frames` where a frame is fed, -1 elsewhere.
        speaker_position: position of the speaker's vector, -1 without one.
        labels: (L,) token of the first codebook that the position must predict, `IGNORED` elsewhere. Not to be shifted
            again: the label of position p is what `generate` samples from the logits of position p.
        frames: (T, codebooks) codes, the reference's first.
        first_target: index in `frames` of the first frame that is predicted; those before it are the prompt.
    """

    text_ids: Ids
    codec_ids: Ids
    frame_index: Ids
    speaker_position: int
    labels: Ids
    frames: NDArray[np.int16]
    first_target: int

    def __len__(self) -> int:
        return len(self.text_ids)


def build(
    ids: SpecialIds,
    text_ids: Ids,
    frames: NDArray[np.int16],
    *,
    streaming: bool,
    language: int | None = None,
    speaker: bool = True,
    instruct_ids: Ids | None = None,
    reference: Reference | None = None,
) -> Sequence:
    """Lay out one sample as a `Sequence`.

    Args:
        ids: the model's special ids.
        text_ids: (N,) token ids of `text_template(text)`.
        frames: (T, codebooks) codes of the recording, T >= 1.
        streaming: put the text beside the frames (`non_streaming_mode=False`) instead of before them.
        language: row of the language (`SpecialIds.language_row`), None for Auto.
        speaker: whether there is a speaker slot.
        instruct_ids: (M,) token ids of `instruct_template(instruct)`.
        reference: clip to continue from, as `generate_voice_clone` does outside x-vector-only mode.

    Raises:
        ValueError: the text or the recording is empty, or a frame has a different number of codebooks than the model.
    """
    text = text_ids[ROLE_TOKENS:-CLOSING_TOKENS]
    if len(text) == 0 or len(frames) == 0:
        raise ValueError("text and frames must not be empty")
    if frames.shape[1] != ids.codebooks:
        raise ValueError(f"frames have {frames.shape[1]} codebooks, the model {ids.codebooks}")

    spoken = text
    given = np.zeros((0, ids.codebooks), dtype=frames.dtype)
    if reference is not None:
        spoken = np.concatenate([reference.text_ids[ROLE_TOKENS:-REFERENCE_CLOSING_TOKENS], text])
        given = reference.frames
    spoken = np.append(spoken, ids.tts_eos)

    channels: list[tuple[Any, Any, Any]] = []  # text, codec ids, frames

    def add(text: Any, *, codec: Any = None, frames: int = 0) -> None:
        """Append positions: text ids, and beside them codec ids or the next `frames` frames."""
        nothing = np.full(len(text), -1)
        channels.append((text, nothing if codec is None else codec, np.arange(frames) if frames else nothing))

    if instruct_ids is not None:
        add(instruct_ids)
    add(text_ids[:ROLE_TOKENS])
    tags = [ids.nothink, ids.think_bos, ids.think_eos]
    if language is not None:
        tags = [ids.think, ids.think_bos, language, ids.think_eos]
    add([ids.tts_pad] * len(tags), codec=tags)
    speaker_position = sum(len(text) for text, _, _ in channels) if speaker else -1
    if speaker:
        add([ids.tts_pad])
    add([ids.tts_bos], codec=[ids.codec_pad])

    all_frames = np.concatenate([given, frames])
    stream = 1 + len(all_frames)  # codec_bos, then the frames
    if streaming:
        beside = np.full(stream, ids.tts_pad)
        beside[: len(spoken)] = spoken[:stream]  # text beyond the speech is never fed, as in generate
    else:
        add(spoken, codec=[ids.codec_pad] * len(spoken))
        beside = np.full(stream, ids.tts_pad)
    add(beside[:1], codec=[ids.codec_bos])
    add(beside[1:], frames=len(all_frames))

    text_channel, codec_channel, frame_channel = (
        np.concatenate(c).astype(np.int64) for c in zip(*channels, strict=True)
    )
    labels = np.full(len(text_channel), IGNORED, dtype=np.int64)
    labels[-len(frames) - 1 :] = np.append(frames[:, 0], ids.codec_eos)
    return Sequence(
        text_ids=text_channel,
        codec_ids=codec_channel,
        frame_index=frame_channel,
        speaker_position=speaker_position,
        labels=labels,
        frames=all_frames,
        first_target=len(given),
    )


def positions_around(text: int, *, streaming: bool, named_language: bool) -> int:
    """Count the positions of a sample with a speaker slot, without its frames and its instruction.

    Args:
        text: number of token ids of `text_template(text)`.
        streaming, named_language: as `build` takes them (`language` named or Auto).
    """
    tags = 4 if named_language else 3
    prefix = ROLE_TOKENS + tags + 2  # the speaker's slot, and codec_pad above tts_bos
    spoken = 0 if streaming else text - ROLE_TOKENS - CLOSING_TOKENS + 1  # and tts_eos
    return prefix + spoken + 1  # codec_bos
