"""Export of checkpoints that stock `qwen_tts` loads and speaks with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from job.config.settings import Settings
from job.core import files
from job.model.card_facts import base_model
from job.model.embedding_rows import speaker_rows
from job.model.loading import by_lookup_key
from job.model.voices import (
    ADAPTER_FOLDER,
    ENCODER_FILE,
    NOT_COPIED,
    copy_model,
    save_tensors,
    save_weights,
    write_json,
)
from job.modes import mode_of
from job.train import adapt
from job.train.spread import copied


@dataclass(frozen=True)
class Weights:
    """Weights to be written to a checkpoint, on the CPU.

    Attributes:
        merged: the whole model under stock names; empty when only the adapter is exported.
        adapter: the adapter's tensors; empty when there is none, or it is not exported.
        projection: text_projection's tensors, if the adapter was trained with it or started from one.
    """

    merged: dict[str, torch.Tensor]
    adapter: dict[str, torch.Tensor]
    projection: dict[str, torch.Tensor]


def keeps_candidates(settings: Settings) -> bool:
    """Whether the checkpoints of validations are kept to choose from by their speech; an adapter alone cannot speak."""
    return settings.best_by == "judges" and mode_of(settings).merged(settings)


def forget_candidates(directory: Path, keep: int) -> None:
    """Remove all but the `keep` newest candidates."""
    found = sorted(directory.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    for path in found[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Exporter:
    """Writes complete CustomVoice checkpoints of a model during training.

    Attributes:
        model: the `Qwen3TTSForConditionalGeneration`, with or without adapters; never changed.
        base: directory of the base model, whose tokenizer and speech tokenizer are copied.
        speakers: name -> (D,) fp32 vector, written into the speakers' rows.
        languages: name -> row of the new languages.
        dtype: dtype of the saved weights.
    """

    model: Any
    base: Path
    speakers: dict[str, torch.Tensor]
    languages: dict[str, int]
    settings: Settings
    dtype: torch.dtype

    def snapshot(self) -> Weights:
        """Copy the current weights that `write` needs. With a sharded model this is a collective."""
        mode = mode_of(self.settings)
        merged: dict[str, torch.Tensor] = {}
        adapter: dict[str, torch.Tensor] = {}
        projection: dict[str, torch.Tensor] = {}
        if mode.merged(self.settings):
            merged = {name: self._saved(tensor) for name, tensor in adapt.merged_weights(self.model)}
        if mode.adapter(self.settings):
            adapter = {name: copied(tensor) for name, tensor in mode.adapter_weights(self.model).items()}
            # An adapter that RESUME names may have brought one.
            if self.settings.train_text_projection or self.settings.resume not in ("auto", "never"):
                projection = {n: copied(t) for n, t in self.model.talker.text_projection.state_dict().items()}
        return Weights(merged, adapter, projection)

    def write(self, directory: Path, weights: Weights, progress: dict[str, Any]) -> None:
        """Replace `directory` with a checkpoint of `weights`. `progress` becomes `training_state.json`."""
        files.replace_directory(directory, lambda target: self._fill(target, weights, progress))

    def _fill(self, target: Path, weights: Weights, progress: dict[str, Any]) -> None:
        config = files.read_json(self.base / "config.json")
        rows = speaker_rows(config, sorted(self.speakers), self.languages)
        copy_model(self.base, target, ("config.json", *NOT_COPIED))
        if weights.merged:
            self._save_merged(target, weights.merged, rows)
            write_json(target / "config.json", self._custom_voice(config, rows))
        if weights.adapter:
            # Beside merged weights the adapter gets its own folder: if transformers finds an adapter_config.json, it
            # loads the base model named there and ignores the merged weights.
            self._save_adapter(target / ADAPTER_FOLDER if weights.merged else target, weights)
        write_json(target / "training_state.json", progress)

    def _saved(self, tensor: torch.Tensor) -> torch.Tensor:
        return copied(tensor, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def _save_merged(self, target: Path, merged: dict[str, torch.Tensor], rows: dict[str, int]) -> None:
        weights: dict[str, torch.Tensor] = {}
        encoder: dict[str, torch.Tensor] = {}
        for name, tensor in merged.items():
            (encoder if name.startswith("speaker_encoder.") else weights)[name] = tensor
        table = weights["talker.model.codec_embedding.weight"].clone()
        for name, row in rows.items():
            table[row] = self.speakers[name].to(table.dtype)
        weights["talker.model.codec_embedding.weight"] = table
        save_weights(weights, target)
        # Stock loading would warn of a speaker encoder among a CustomVoice model's weights. In a separate file it
        # still allows further training from this checkpoint, and cloning (see `job.model.voices.cloning_model`).
        if encoder:
            save_tensors(encoder, target / ENCODER_FILE)
        elif (self.base / ENCODER_FILE).is_file():
            shutil.copyfile(self.base / ENCODER_FILE, target / ENCODER_FILE)

    def _custom_voice(self, config: dict[str, Any], rows: dict[str, int]) -> dict[str, Any]:
        """Turn the base's config.json into that of a CustomVoice model with the speakers `rows`."""
        talker = dict(config["talker_config"])
        talker["spk_id"] = {**by_lookup_key(talker.get("spk_id")), **rows}
        talker["spk_is_dialect"] = {**dict.fromkeys(rows, False), **by_lookup_key(talker.get("spk_is_dialect"))}
        talker["codec_language_id"] = {**(talker.get("codec_language_id") or {}), **self.languages}
        talker["num_hidden_layers"] = self.model.config.talker_config.num_hidden_layers
        return {**config, "tts_model_type": "custom_voice", "talker_config": talker}

    def _save_adapter(self, target: Path, weights: Weights) -> None:
        config = mode_of(self.settings).adapter_config(self.model, self.settings)
        config.base_model_name_or_path = base_model(self.settings)  # never a local path of the training machine
        config.inference_mode = True
        config.target_modules = sorted(config.target_modules)  # a set, whose order differs between processes
        target.mkdir(exist_ok=True)
        config.save_pretrained(str(target))
        save_tensors(weights.adapter, target / "adapter_model.safetensors")
        if weights.projection:
            save_tensors(weights.projection, target / "text_projection.safetensors")
