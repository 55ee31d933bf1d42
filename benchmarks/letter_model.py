"""A small CTC model of transformers' own classes, trained in minutes to write made speech down letter by letter.

It is what ALIGN_MODEL and ASR_MODEL are set to: a Wav2Vec2-BERT with its feature extractor and tokenizer. First it
learns each frame's letter, since for made speech that is known, then by the CTC loss, as a released one does.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from made_speech import SOUNDS, Sentence

RATE = 16_000
#: Seconds of a frame, and of the parts that it learns from.
STEP, PARTS = 0.02, (3.0, 6.0, 12.0)
#: Seconds of speech in each step of the training.
TOGETHER = 36.0
#: Most frames before a word that stand for the space before it; the others of a pause stand for nothing.
LONGEST_GAP = 5
#: Standard deviation of noise on the features, which have a deviation of 1.
NOISE = 0.1
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")
VOCABULARY = (*SPECIAL, *sorted(SOUNDS))


def train(
    directory: Path,
    recording: Path,
    said: list[Sentence],
    steps: int,
    ctc_steps: int,
    seed: int = 0,
    vocabulary: tuple[str, ...] = VOCABULARY,
) -> Path:
    """Train on a recording of which it is known what is said when; writes what `from_pretrained` reads.

    `vocabulary`: the tokens, of which the first is none and `|` the space; the others are the letters of what is said.
    """
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertForCTC, Wav2Vec2CTCTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model: Any = Wav2Vec2BertForCTC(
        Wav2Vec2BertConfig(
            vocab_size=len(vocabulary), pad_token_id=0, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=256, position_embeddings_type=None, hidden_dropout=0.05, activation_dropout=0.0,
            attention_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, conformer_conv_dropout=0.0, layerdrop=0.0,
            apply_spec_augment=False,
        )
    )  # fmt: skip
    listener = SeamlessM4TFeatureExtractor()
    wave, rate = soundfile.read(recording, dtype="float32")
    wave = np.asarray(soxr.resample(wave, rate, RATE))
    known = _spectrum(wave, listener)
    truth = _truth(said, len(known) // 2, vocabulary)
    update = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(update, 2e-3, total_steps=steps + ctc_steps, pct_start=0.1)
    model.train()
    begun = time.perf_counter()
    for step in range(steps + ctc_steps):
        length = PARTS[step % len(PARTS)]
        starts = rng.integers(len(truth) - round(length / STEP), size=round(TOGETHER / length))
        some = [_part(known, truth, int(start), round(length / STEP), rng) for start in starts]
        features = torch.from_numpy(np.stack([one[0] for one in some]))
        logits = model(features).logits
        if step < steps:
            wanted = torch.from_numpy(np.stack([one[1] for one in some]))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        else:
            lengths = torch.tensor([len(one[2]) for one in some])
            targets = torch.tensor([token for one in some for token in one[2]])
            loss = torch.nn.functional.ctc_loss(
                logits.log_softmax(-1).transpose(0, 1), targets, torch.full((len(some),), logits.shape[1]), lengths,
                blank=0, zero_infinity=True,
            )  # fmt: skip
        update.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()
        plan.step()
        if step % 50 == 0 or step + 1 == steps + ctc_steps:
            print(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - begun:.0f} s", flush=True)
    model.eval().save_pretrained(directory)
    (directory / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    Wav2Vec2CTCTokenizer(str(directory / "vocab.json")).save_pretrained(directory)
    listener.save_pretrained(directory)
    return directory


def _spectrum(wave: np.ndarray, listener: Any) -> np.ndarray:
    """Return the features of a whole recording, two rows a frame, before they are normalized."""
    block = 60 * RATE
    found = []
    for at in range(0, len(wave), block):
        heard = np.pad(wave[at : at + block + 240], (0, max(0, 240 - len(wave[at + block : at + block + 240]))))
        rows = listener([heard], sampling_rate=RATE, return_tensors="np", do_normalize_per_mel_bins=False)
        found.append(rows.input_features[0].reshape(-1, rows.input_features.shape[-1] // 2))
    return np.concatenate(found)


def _truth(said: list[Sentence], length: int, vocabulary: tuple[str, ...]) -> np.ndarray:
    """Return the token of each frame: letters, `|` at the start of words, and none."""
    frames = np.zeros(length + 1, np.int64)
    before = 0
    for word in (word for one in said for word in one.words):
        at = round(word.start / STEP)
        frames[max(0, before, at - LONGEST_GAP) : at + 1] = vocabulary.index("|")
        before = round(word.end / STEP) - 1
        for number, (letter, begin, end) in enumerate(word.letters):
            first, last = round(begin / STEP) + (number == 0), round(end / STEP)
            frames[first : max(first + 1, last - 1)] = vocabulary.index(letter)
    return frames[:length]


def _part(
    known: np.ndarray, truth: np.ndarray, start: int, length: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return the features of a part of a recording as the extractor gives them, its frames' tokens, and its text's."""
    rows = known[2 * start : 2 * (start + length)]
    rows = (rows - rows.mean(0)) / np.sqrt(rows.var(0, ddof=1) + 1e-7) + rng.normal(0, NOISE, rows.shape)
    frames = truth[start : start + length]
    tokens = frames[np.flatnonzero(np.diff(frames, prepend=0))]
    tokens = tokens[tokens > 0].tolist()
    return rows.reshape(length, -1).astype(np.float32), frames, tokens
