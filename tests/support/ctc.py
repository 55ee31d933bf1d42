"""A tiny CTC model of the real classes that hears the embedded clips letter by letter, trained in a few seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")
#: Samples per frame. What it hears depends on where in a frame a clip begins: only at multiples of this, it is sure.
HOP = 320


def spell(text: str) -> list[int]:
    """The tokens of a text: letters, accents taken off, and `|` between words."""
    from job.fetch.alignment.spelling import romanised

    words = ["".join(romanised(letter) or "" for letter in word) for word in text.split()]
    return [SPECIAL.index("|") if c == "|" else len(SPECIAL) + LETTERS.index(c) for c in "|".join(words)]


def build(directory: Path, clips: list[np.ndarray], texts: list[str]) -> Path:
    """Train on clips at `RATE` Hz, each with its text, and write what `from_pretrained` reads.

    The letters of a text are taken to be spread evenly over its clip, and of the weights only the last layer's are
    learnt, by least squares: by gradients of the CTC loss it would take minutes.
    """
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    directory.mkdir(parents=True)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(SPECIAL) + len(LETTERS), hidden_size=768, num_hidden_layers=0, num_attention_heads=2,
        intermediate_size=8, conv_dim=(32, 64), conv_stride=(40, 8), conv_kernel=(160, 16), num_feat_extract_layers=2,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=15,
        num_conv_pos_embedding_groups=16, pad_token_id=0,
    )  # fmt: skip
    model: Any = Wav2Vec2ForCTC(config).eval()
    listener = Wav2Vec2FeatureExtractor()
    pause = np.zeros(RATE // 2, np.float32)
    waves, labels = [pause], [np.zeros(len(pause) // HOP, int)]
    for clip, text in zip(clips, texts, strict=True):
        tokens = np.array(spell(text))
        owner = np.arange(len(clip) // HOP) * len(tokens) // (len(clip) // HOP)
        label = tokens[owner]
        twice = np.append(np.diff(tokens) == 0, False)  # a blank parts two letters that are the same
        label[twice[owner] & np.append(np.diff(owner) > 0, False)] = 0
        waves += [clip[: len(label) * HOP], pause]
        labels += [label, np.zeros(len(pause) // HOP, int)]
    wave, wanted = np.concatenate(waves), torch.from_numpy(np.concatenate(labels))
    with torch.no_grad():
        heard = listener(np.pad(wave, (0, 2 * HOP)), sampling_rate=RATE, return_tensors="pt").input_values
        known = model.wav2vec2(heard).last_hidden_state[0, : len(wanted)].double()
        mean, scale = known.mean(0), known.std(0)
        plain = torch.cat([(known - mean) / scale, torch.ones(len(known), 1)], dim=1)
        answers = torch.nn.functional.one_hot(wanted, config.vocab_size).double()
        learnt = torch.linalg.solve(plain.T @ plain + torch.eye(plain.shape[1]), plain.T @ answers)
        weight = learnt[:-1] / scale[:, None]
        model.lm_head.weight.copy_((20 * weight).T)
        model.lm_head.bias.copy_(20 * (learnt[-1] - mean @ weight))
    model.save_pretrained(directory)
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *LETTERS])}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(directory / "vocab.json")).save_pretrained(directory)
    listener.save_pretrained(directory)
    return directory
