"""A tiny Whisper of the real classes, trained in seconds to recognise the clips that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from job.demo import manifest

#: Seconds that it hears at once; Whisper's 30 would only be more silence.
WINDOW = 2
RATE = 16_000
LANGUAGES = ("en", "de", "no")
#: Sentences of embedded clips that the tests' recogniser knows, and one that it is unsure of.
TEXTS = ["Hello.", "The tea is hot.", "Good evening, everyone."]
UNSURE = "Not now."


def wave(text: str) -> np.ndarray:
    """The embedded clip with this text, at `RATE` Hz."""
    (row,) = (row for row in manifest() if row["text"] == text)
    samples, rate = soundfile.read(row["audio"], dtype="float32")
    return np.asarray(soxr.resample(samples, rate, RATE))


def build(
    directory: Path, clips: list[np.ndarray], texts: list[str], puzzle: np.ndarray | None = None, steps: int = 60
) -> Path:
    """Train on clips at `RATE` Hz, each with its text, and write what `from_pretrained` reads.

    Of `puzzle`, it learns to be unsure what is said in it.
    """
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    directory.mkdir(parents=True)
    words = ByteLevelBPETokenizer()
    words.train_from_iterator([*texts, *(f" {text}" for text in texts)], vocab_size=600, min_frequency=1)
    words.save_model(str(directory))
    tokenizer = WhisperTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"))
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
    special += ["<|translate|>", "<|transcribe|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    ids: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    listener = WhisperFeatureExtractor(chunk_length=WINDOW)
    torch.manual_seed(0)
    model: Any = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer), d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=50 * WINDOW,
            max_target_positions=48, pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
            dropout=0.0, attention_dropout=0.0, begin_suppress_tokens=None,
        )
    )  # fmt: skip
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, eos_token_id=end, pad_token_id=end, bos_token_id=end, is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES},
        task_to_id={name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")},
        no_timestamps_token_id=ids["<|notimestamps|>"], return_timestamps=False, max_length=48,
    )  # fmt: skip
    clips, texts = ([*clips, puzzle], [*texts, texts[-1]]) if puzzle is not None else (clips, texts)
    features = listener(clips, sampling_rate=RATE, return_tensors="pt").input_features
    prompt = [ids["<|en|>"], ids["<|transcribe|>"], ids["<|notimestamps|>"]]
    said = [[start, *prompt, *tokenizer(text, add_special_tokens=False).input_ids, end] for text in texts]
    width = max(map(len, said))
    tokens = torch.tensor([row + [end] * (width - len(row)) for row in said])
    labels = torch.tensor([row[1:] + [-100] * (width - len(row)) for row in said])
    update = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        update.zero_grad()
        logits = model(input_features=features, decoder_input_ids=tokens[:, :-1]).logits
        known = len(said) - (puzzle is not None)
        loss = torch.nn.functional.cross_entropy(logits[:known].flatten(0, 1), labels[:known].flatten())
        if puzzle is not None:  # every token is as likely as any other
            loss = loss - logits[-1, len(prompt) :].log_softmax(-1).mean()
        loss.backward()
        update.step()
    model.eval().save_pretrained(directory)
    WhisperProcessor(listener, tokenizer).save_pretrained(directory)
    return directory
