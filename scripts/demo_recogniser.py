"""Train the demo's own speech recogniser (ASR_MODEL=demo), and write it to job/demo/recogniser.

    python scripts/demo_recogniser.py [--to DIRECTORY] [--steps 500]

It is a tiny model of a real architecture (`Wav2Vec2BertForCTC`) that hears letters. What it was trained on, all of it
made from the fourteen clips of job/demo/clips, which espeak-ng spoke for this project:

- The clips through the demo's codec, as all speech of the demo is; and as they are.
- Their words in other orders: cut out of the clips where espeak-ng says that a word begins, to whole frames of the
  codec, shuffled, joined, and decoded; and the recordings' own samples in the same way. Some with noise.
- Sounds without words, to be heard as none, alone and between words: the codec's decoding of random codes, of one
  frame held, and of a few in a circle, as untrained models say them; noise, and a tone.

So the clips' sentences are among what it was trained on, and known by heart: it tells whether the demo says them, or a
part of them, or something else. Of their words in other orders it gets two in three wrong, in sounds without words
it hears letters that are no words of theirs, and for other speech it is of no use: the demo's codec is random, and
little of what it makes of a sound is like what it makes of the same sound elsewhere.

Prints the word error rate on sentences of other orders, and on the clips' own. The same seed on the same machine gives
the same weights. Licence of the result: Apache-2.0, as the clips'.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from job.audio.clip import resample
from job.demo import manifest, recogniser_directory
from job.demo.cached_base import cached_base
from job.text.error_rates import error_rates

#: Where each word of each clip begins, s, as espeak-ng's events say it.
BEGINNINGS = {
    "en-01": (0.01,),
    "en-02": (0.01, 0.43),
    "en-03": (0.03, 0.26),
    "en-04": (0.02, 0.14, 0.33, 0.5),
    "en-05": (0.02, 0.23, 0.91),
    "en-06": (0.03, 0.18, 0.56, 0.86, 1.0, 1.26, 1.63, 1.77, 1.97),
    "en-07": (
        *(0.02, 0.14, 0.44, 0.94, 1.27, 1.77, 1.89, 2.29, 2.44),
        *(2.59, 2.93, 3.51, 3.74, 4.08, 4.46, 5.11, 5.33),
    ),
    "de-01": (0.01, 0.32),
    "de-02": (0.02, 0.35),
    "de-03": (0.01, 0.18, 0.57, 0.77),
    "de-04": (0.03, 0.34, 0.64, 0.78),
    "de-05": (0.01, 0.22, 0.5, 0.64, 0.85, 1.18, 1.52),
    "de-06": (0.01, 0.12, 0.5, 0.91, 1.11, 1.33, 1.69),
    "de-07": (0.03, 0.17, 0.58, 0.88, 1.26, 1.69, 2.0, 2.3, 2.86, 3.1, 3.27, 3.63, 3.96, 4.13, 4.55),
}
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")
LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß"
TOKENS = {token: number for number, token in enumerate([*SPECIAL, *LETTERS])}
#: Sentences of each language in other orders, through the codec and as recorded; wordless sounds, and their frames.
STREAMS, RECORDED, WORDLESS, FRAMES = 110, 25, 40, 80
HELD_OUT, BATCH, RATE = 40, 16, 16_000
RATE_OF_LEARNING, ONLY_STEPS = 5e-3, 0.6  # and the share of training that learns steps alone, and then texts
#: Samples per frame, and of a second, of the codec; codes per codebook; frames of the recogniser to one of the codec.
FRAME, CODEC_RATE, CODES, STEPS = 1920, 24_000, 2048, 4

Wave = NDArray[np.float32]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Word:
    """A word as it is said in a clip: its letters, its frames' codes (frames, codebooks), and its samples."""

    letters: str
    codes: Codes
    wave: Wave


@dataclass(frozen=True)
class Piece:
    """What the recogniser gets of a word, or of a sound without one: (steps, 160), and the token of each step."""

    letters: str
    features: NDArray[np.float32]
    tokens: NDArray[np.int64]


@dataclass(frozen=True)
class Sound:
    """A sound at `RATE` Hz and what is said in it."""

    wave: Wave
    text: str
    language: str


class Maker:
    """Cuts the clips into words and makes other sounds of them with the demo's codec; `random` decides what."""

    def __init__(self, random: np.random.Generator) -> None:
        """Load the codec and cut the clips. `own` are the clips as they are, through the codec."""
        from qwen_tts import Qwen3TTSTokenizer

        self._codec: Any = Qwen3TTSTokenizer.from_pretrained(str(cached_base() / "speech_tokenizer"))
        self._random = random
        self._held = {spelled(row["text"]) for row in manifest()}
        self.words: dict[str, list[Word]] = {}
        self.own: list[Sound] = []
        self.clips: list[list[Piece]] = []
        for row in manifest():
            wave, _ = soundfile.read(row["audio"], dtype="float32")
            wave = np.pad(wave, (0, -len(wave) % FRAME))
            codes = self._codec.encode([wave], sr=CODEC_RATE).audio_codes[0].numpy()
            begins = BEGINNINGS[Path(row["audio"]).stem]
            cuts = [0, *(round(begin * CODEC_RATE / FRAME) for begin in begins[1:]), len(codes)]
            said = self.words.setdefault(row["language"], [])
            for letters, (first, last) in zip(spelled(row["text"]).split(), pairwise(cuts), strict=True):
                said.append(Word(letters, codes[first:last], wave[first * FRAME : last * FRAME]))
            self.own.append(Sound(self.decoded(codes), row["text"], row["language"]))
            lengths = [(word.letters, len(word.codes)) for word in said[-len(begins) :]]
            self.clips += [pieces(self.own[-1].wave, lengths), pieces(resampled(wave), lengths)]

    def decoded(self, codes: Codes) -> Wave:
        """Decode codes (frames, codebooks) to a sound at `RATE` Hz."""
        import torch

        (wave,), _ = self._codec.decode([{"audio_codes": torch.from_numpy(np.ascontiguousarray(codes))}])
        return resampled(np.asarray(wave, dtype=np.float32))

    def some(self, language: str) -> list[Word]:
        """Choose a few words in an order that no clip has."""
        words = self.words[language]
        while True:
            chosen = [words[int(n)] for n in self._random.integers(0, len(words), int(self._random.integers(1, 9)))]
            if " ".join(word.letters for word in chosen) not in self._held:
                return chosen

    def shuffled(self, language: str, through_codec: bool) -> list[Piece]:
        """Say a few words in a random order; returns what the recogniser gets of each."""
        order = self.some(language)
        if through_codec:
            wave = self.decoded(np.concatenate([word.codes for word in order]))
        else:
            wave = resampled(np.concatenate([word.wave for word in order]))
        if self._random.random() < 0.3:
            wave = wave + self._noise(wave.size, 10 ** self._random.uniform(-3.5, -2))
        return pieces(wave, [(word.letters, len(word.codes)) for word in order])

    def wordless(self, kind: int, frames: int = FRAMES) -> Wave:
        """Make a sound without words; `kind` counts through the kinds of it."""
        codes = self._random.integers(0, CODES, (frames, 16))
        samples = frames * FRAME * RATE // CODEC_RATE
        if kind % 8 == 0:
            codes = np.repeat(codes[:1], frames, axis=0)
        elif kind % 8 == 1:
            codes = np.resize(codes[: int(self._random.integers(2, 6))], codes.shape)
        elif kind % 8 == 2:
            return self._noise(samples, 10 ** self._random.uniform(-5, -0.7))
        elif kind % 8 == 3:
            phase = 2 * np.pi * self._random.uniform(80, 2000) * np.arange(samples) / RATE
            return (0.3 * np.sin(phase)).astype(np.float32) + self._noise(samples, 1e-3)
        return self.decoded(codes)

    def _noise(self, samples: int, level: float) -> Wave:
        return (level * self._random.standard_normal(samples)).astype(np.float32)


class Pool:
    """All streams, from which `batch` takes sentences that nobody has heard before."""

    def __init__(self, maker: Maker, random: np.random.Generator) -> None:
        """Make the streams."""
        self._random = random
        self._clips = maker.clips
        self._streams = {
            language: [maker.shuffled(language, n < STREAMS) for n in range(STREAMS + RECORDED)]
            for language in sorted(maker.words)
        }
        self._nothing = [pieces(maker.wordless(n), [("", FRAMES)])[0] for n in range(WORDLESS)]

    def sentence(self, size: int) -> list[Piece]:
        """Take a sentence as it is, or join about `size` words of one language out of several, maybe with noises."""
        streams = self._streams[str(self._random.choice(sorted(self._streams)))]
        recorded = self._random.random() < 0.2
        if self._random.random() < 0.5:
            return streams[int(self._random.integers(len(streams)))]
        chosen: list[Piece] = []
        while len(chosen) < size:
            if self._random.random() < 0.12:
                chosen.append(self.nothing(int(self._random.integers(1, 16))))
            number = self._random.integers(STREAMS, len(streams)) if recorded else self._random.integers(STREAMS)
            stream = streams[int(number)]
            first = int(self._random.integers(len(stream)))
            chosen += stream[first : first + int(self._random.integers(1, 4))]
        return chosen

    def nothing(self, frames: int) -> Piece:
        """Take some frames of a sound without words."""
        one = self._nothing[int(self._random.integers(len(self._nothing)))]
        first = STEPS * int(self._random.integers(FRAMES - frames + 1)) * int(self._random.integers(2))
        span = slice(first, first + STEPS * frames)
        return Piece("", one.features[span], one.tokens[span])

    def batch(self) -> tuple[NDArray[np.float32], NDArray[np.int64], list[list[int]]]:
        """Return features (sentences, steps, 160), tokens (sentences, steps; -100: padding), and the texts' tokens."""
        size = int(self._random.choice([1, 2, 3, 4, 6, 9]))
        said = []
        for number in range(BATCH):
            if number % 6 == 0:
                said.append([self.nothing(int(self._random.integers(4 * size, 6 * size + 4)))])
            elif number % 3 == 1:
                said.append(self._clips[int(self._random.integers(len(self._clips)))])
            else:
                said.append(self.sentence(size))
        features = [normalized(np.concatenate([one.features for one in row])) for row in said]
        tokens = [ended(np.concatenate([one.tokens for one in row])) for row in said]
        longest = max(map(len, tokens))
        texts = ["|".join(one.letters for one in row if one.letters) for row in said]
        return (
            np.stack([np.pad(one, ((0, longest - len(one)), (0, 0))) for one in features]),
            np.stack([np.pad(one, (0, longest - len(one)), constant_values=-100) for one in tokens]),
            [[TOKENS[letter] for letter in text] for text in texts],
        )


def pieces(wave: Wave, said: list[tuple[str, int]]) -> list[Piece]:
    """Cut what the recogniser gets of a sound into words, given the letters and the frames of each."""
    silence = np.zeros(FRAME * RATE // CODEC_RATE, np.float32)  # the last steps need what comes after them
    extractor = new_extractor()
    inputs = extractor(np.concatenate([wave, silence]), sampling_rate=RATE, do_normalize_per_mel_bins=False)
    features, first, found = np.asarray(inputs.input_features[0], np.float32), 0, []
    for letters, frames in said:
        steps = STEPS * frames
        found.append(Piece(letters, features[first : first + steps], spread(letters, steps)))
        first += steps
    return found


def spread(letters: str, steps: int) -> NDArray[np.int64]:
    """Spread a word's letters evenly over its steps, and end it with the sign between words; 0 without a word."""
    if not letters:
        return np.zeros(steps, np.int64)
    owner = np.arange(steps - 1) * len(letters) // (steps - 1)
    tokens = np.array([TOKENS[letter] for letter in letters])[owner]
    twice = np.array([one == other for one, other in zip(letters, letters[1:] + "|", strict=True)])
    tokens[twice[owner] & np.append(np.diff(owner) > 0, False)] = 0  # parts two letters that are the same
    return np.append(tokens, TOKENS["|"])


def ended(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take off the sign between words behind the last word."""
    tokens = tokens.copy()
    behind = np.flatnonzero(tokens)[-1:]
    tokens[behind[tokens[behind] == TOKENS["|"]]] = 0
    return tokens


def normalized(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalise each mel bin over a sentence, as the feature extractor does; two of its frames are one step."""
    bins = features.reshape(2 * len(features), -1)
    bins = (bins - bins.mean(0)) / np.sqrt(bins.var(0, ddof=1) + 1e-7)
    return np.asarray(bins.reshape(features.shape), dtype=np.float32)


def new_extractor() -> Any:
    """Build what makes features of sound."""
    from transformers import SeamlessM4TFeatureExtractor

    extractor: Any = SeamlessM4TFeatureExtractor
    return extractor(feature_size=80, num_mel_bins=80, sampling_rate=RATE, stride=2)


def spelled(text: str) -> str:
    """Write a text with the letters that the recogniser knows: small ones, and spaces."""
    return " ".join("".join(c if c in LETTERS else " " for c in text.lower()).split())


def resampled(wave: Wave) -> Wave:
    """Bring the codec's sound to `RATE` Hz as it is done for the judge that hears it later."""
    return resample(wave, CODEC_RATE, RATE)


def new_model(vocabulary: int) -> Any:
    """Build the untrained model."""
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertForCTC

    config: Any = Wav2Vec2BertConfig
    return Wav2Vec2BertForCTC(
        config(
            vocab_size=vocabulary, hidden_size=160, num_hidden_layers=1, num_attention_heads=4, intermediate_size=768,
            feature_projection_input_dim=160, position_embeddings_type=None, add_adapter=False, layerdrop=0.0,
            apply_spec_augment=False, hidden_dropout=0.0, activation_dropout=0.0, attention_dropout=0.0,
            feat_proj_dropout=0.0, final_dropout=0.0, conformer_conv_dropout=0.0, conv_depthwise_kernel_size=5,
            ctc_loss_reduction="mean", ctc_zero_infinity=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def train(model: Any, pool: Pool, steps: int) -> None:
    """Train on each step's token, as if a word's letters were spread evenly over it, and on the texts."""
    import torch
    from torch.nn import functional

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE_OF_LEARNING, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE_OF_LEARNING, total_steps=steps, pct_start=0.1)
    model.train()
    begun, recent = time.monotonic(), []
    for step in range(1, steps + 1):
        features, numbers, texts = pool.batch()
        tokens = torch.from_numpy(numbers)
        heard = torch.from_numpy(features)
        mask = (tokens >= 0).long()
        logits = model(input_features=heard + 0.2 * torch.randn(heard.shape), attention_mask=mask).logits
        by_step = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        worded = [number for number, text in enumerate(texts) if text]
        by_text = functional.ctc_loss(
            logits[worded].log_softmax(-1).transpose(0, 1),
            torch.tensor([token for text in texts for token in text]),
            mask[worded].sum(1),
            torch.tensor([len(texts[number]) for number in worded]),
            zero_infinity=True,
        )
        optimizer.zero_grad()
        loss: Any = by_step if step < ONLY_STEPS * steps else 0.3 * by_step + by_text
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append((float(by_step.detach()), float(by_text.detach())))
        if step % 100 == 0:
            first, second = np.mean(recent[-100:], axis=0)
            print(
                f"step {step}: {first:.3f} a step, {second:.3f} a letter, {time.monotonic() - begun:.0f} s", flush=True
            )
    model.eval()


def word_errors(directory: Path, sounds: list[Sound]) -> float:
    """Return the mean word error rate of what transformers' pipeline hears; of wordless sounds, how many have words."""
    from transformers import pipeline

    kind: Any = "automatic-speech-recognition"
    recogniser: Any = pipeline(kind, model=str(directory), device="cpu")
    found = []
    for one in sounds:
        text = str(recogniser({"raw": one.wave, "sampling_rate": RATE})["text"])
        rate = error_rates(one.text, text, one.language)[0] if one.text else float(bool(text.strip()))
        found.append(float(rate or 0.0))
    return float(np.mean(found))


def main() -> None:
    """Make the sounds, train, write, and say how well it hears."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=recogniser_directory())
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    import torch
    from transformers import Wav2Vec2CTCTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(chosen.seed)
    random = np.random.default_rng(chosen.seed)
    maker = Maker(random)
    pool = Pool(maker, random)
    model = new_model(len(TOKENS))
    train(model, pool, chosen.steps)

    target: Path = chosen.to
    target.mkdir(parents=True, exist_ok=True)
    (target / "vocab.json").write_text(json.dumps(TOKENS, ensure_ascii=False) + "\n", encoding="utf-8")
    tokenizer: Any = Wav2Vec2CTCTokenizer
    tokenizer(str(target / "vocab.json")).save_pretrained(target)
    new_extractor().save_pretrained(target)
    model.half().save_pretrained(target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"  # as it is computed with; the file alone is in half of it
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    others = []
    for number in range(HELD_OUT):
        language = sorted(maker.words)[number % 2]
        words = maker.some(language)
        wave = maker.decoded(np.concatenate([word.codes for word in words]))
        others.append(Sound(wave, " ".join(word.letters for word in words), language))
    nothing = [Sound(maker.wordless(n, int(random.integers(6, 90))), "", "") for n in range(HELD_OUT)]
    print(f"word errors in {HELD_OUT} sentences of other orders: {word_errors(target, others):.1%}")
    print(f"word errors in the clips' own sentences, through the codec: {word_errors(target, maker.own):.1%}")
    print(f"of {HELD_OUT} sounds without words, words are heard in {word_errors(target, nothing):.1%}")
    print(f"{target}: {sum(path.stat().st_size for path in target.iterdir())} bytes")


if __name__ == "__main__":
    main()
