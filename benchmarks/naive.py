"""The loop that ours is measured against: structured as public fine-tuning scripts of this model are.

Random samples are padded together to the longest. Every sample of every step reads the reference recording from disk
and computes its mel spectrogram and x-vector. Text is embedded and projected for every position, all 16 codebooks for
every position too, and both are masked afterwards. The talker keeps all layers' hidden states and gives logits for
every position; the sub-talker runs on all frames and keeps the logits of all heads. Everything is trained, the text
embedding too, by AdamW.

Only the loss is not as in those scripts: it is the corrected one, so that both loops compute the same quantity
(`train.py` checks that they do before it measures).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SAMPLE_RATE = 24000


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of a table, each with the mel spectrogram of the reference recording, read anew every time."""

    def __init__(self, rows: Any, reference: Path) -> None:
        """`rows` is a `job.loss.rows.Rows`: the layout of a sample is not what is measured here."""
        self._rows, self._reference = rows, reference

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        import librosa
        from qwen_tts.core.models.modeling_qwen3_tts import mel_spectrogram

        samples, _ = librosa.load(self._reference, sr=SAMPLE_RATE, mono=True)
        mel = mel_spectrogram(
            torch.from_numpy(samples)[None],
            n_fft=1024,
            num_mels=128,
            sampling_rate=SAMPLE_RATE,
            hop_size=256,
            win_size=1024,
            fmin=0,
            fmax=12000,
        )
        return {"sequence": self._rows.sequence(row, self._rows.variant(row, 0)), "mel": mel.transpose(1, 2)}


def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad to the longest sample: ids, codes, masks and labels of shape (B, L), codes (B, L, codebooks)."""
    sequences = [s["sequence"] for s in samples]
    size = (len(sequences), max(len(s) for s in sequences))
    codebooks = sequences[0].frames.shape[1]
    batch = {name: np.zeros(size, dtype=np.int64) for name in ("text", "codec", "mask")}
    batch["codec_mask"], batch["frame_mask"], batch["speaker_mask"] = (np.zeros(size, dtype=bool) for _ in range(3))
    batch["codes"] = np.zeros((*size, codebooks), dtype=np.int64)
    batch["labels"] = np.full(size, -100)
    for b, s in enumerate(sequences):
        n = len(s)
        batch["text"][b, :n], batch["mask"][b, :n], batch["labels"][b, :n] = s.text_ids, 1, s.labels
        batch["codec"][b, :n] = np.maximum(s.codec_ids, 0)
        batch["codec_mask"][b, :n] = s.codec_ids >= 0
        batch["frame_mask"][b, :n] = s.frame_index >= 0
        batch["codes"][b, :n][s.frame_index >= 0] = s.frames
        batch["speaker_mask"][b, s.speaker_position] = True
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    return {**tensors, "mels": torch.cat([s["mel"] for s in samples])}


class NaiveObjective(nn.Module):
    """A `Qwen3TTSForConditionalGeneration` and its loss over a padded batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean losses (nats a term) of the talker and of the sub-talker."""
        talker = self.model.talker
        speaker = self.model.speaker_encoder(batch["mels"]).detach()
        inputs = talker.text_projection(talker.model.text_embedding(batch["text"]))
        inputs = inputs + talker.model.codec_embedding(batch["codec"]) * batch["codec_mask"][..., None]
        inputs = inputs + speaker[:, None].to(inputs.dtype) * batch["speaker_mask"][..., None]
        tables = [talker.model.codec_embedding, *talker.code_predictor.get_input_embeddings()]
        for codebook, table in enumerate(tables):
            inputs = inputs + table(batch["codes"][..., codebook]) * batch["frame_mask"][..., None]
        outputs = talker.model(inputs_embeds=inputs, attention_mask=batch["mask"], output_hidden_states=True)
        hidden = outputs.hidden_states[-1]
        logits = talker.codec_head(hidden).float()
        talker_loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)

        predicted = batch["frame_mask"]
        before = predicted.roll(-1, dims=1)  # a sample never begins with a frame
        codes, own = batch["codes"][predicted], hidden[before]
        heads, _ = talker.forward_sub_talker_finetune(codes, own)
        return talker_loss, F.cross_entropy(heads.float().flatten(0, 1), codes[:, 1:].flatten())


def loader(rows: Any, reference: Path, batch_size: int, seed: int) -> Any:
    """Batches of random samples, made in the main process."""
    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(
        Samples(rows, reference), batch_size, shuffle=True, generator=generator, collate_fn=collate
    )
