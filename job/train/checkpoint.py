"""Writing checkpoints that stock `qwen_tts` loads and speaks from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from job import files
from job.errors import BadInput
from job.publish.facts import base_model
from job.settings import Settings
from job.train import adapt

#: First row of the codec embedding that released checkpoints and the model's own instructions give to new speakers.
FIRST_SPEAKER_ROW = 3000
#: The last rows of the codec embedding are never sampled (`suppress_tokens` of `generate`); speakers belong there.
SUPPRESSED_ROWS = 1024
#: Files of the base directory that are replaced or left out; everything else is copied.
_NOT_COPIED = (
    "config.json",
    "README.md",
    ".gitattributes",
    ".cache",
    ".git",
    "*.safetensors*",
    "*.bin",
    "*.pt",
    "*.lock",
)


def speaker_rows(config: dict[str, Any], speakers: list[str]) -> dict[str, int]:
    """Give every new speaker a row of the codec embedding that nothing else uses.

    Args:
        config: the base model's parsed config.json.
        speakers: lower-case names.

    Raises:
        BadInput: there are more speakers than free rows.
    """
    talker = config["talker_config"]
    size = talker["vocab_size"]
    taken = {int(v) for k, v in talker.items() if k.startswith("codec_") and k.endswith("_id") and isinstance(v, int)}
    taken |= set((talker.get("codec_language_id") or {}).values())
    existing = {name: int(row) for name, row in (talker.get("spk_id") or {}).items() if isinstance(row, int)}
    taken |= {row for name, row in existing.items() if name not in speakers}
    preferred = range(FIRST_SPEAKER_ROW, size)
    others = range(max(0, size - SUPPRESSED_ROWS), min(FIRST_SPEAKER_ROW, size))
    free = [row for row in (*preferred, *others) if row not in taken]
    if len(free) < len(speakers):
        raise BadInput(
            f"{len(speakers)} speakers, but the model has room for {len(free)}; set SPEAKER_COLUMN otherwise"
        )
    return dict(zip(speakers, free, strict=False))


def export(
    directory: Path,
    *,
    model: Any,
    base: Path,
    speakers: dict[str, torch.Tensor],
    settings: Settings,
    dtype: torch.dtype,
    progress: dict[str, Any],
) -> None:
    """Replace `directory` by a complete CustomVoice checkpoint of the model as it is now.

    Args:
        model: the trained `Qwen3TTSForConditionalGeneration`, with or without adapters; not changed.
        base: directory of the base model, whose tokenizer and speech tokenizer are copied.
        speakers: name -> (D,) fp32 x-vector, written into the speakers' rows.
        dtype: type of the saved weights.
        progress: what `training_state.json` says (step, losses).
    """
    config = files.read_json(base / "config.json")
    rows = speaker_rows(config, sorted(speakers))
    files.replace_directory(
        directory, lambda target: _fill(target, model, base, rows, speakers, settings, dtype, progress, config)
    )


def _fill(
    target: Path,
    model: Any,
    base: Path,
    rows: dict[str, int],
    speakers: dict[str, torch.Tensor],
    settings: Settings,
    dtype: torch.dtype,
    progress: dict[str, Any],
    config: dict[str, Any],
) -> None:
    shutil.copytree(base, target, dirs_exist_ok=True, ignore=_ignore_at(base))
    adapted = settings.train_mode == "lora"
    if not adapted or settings.export in ("merged", "both"):
        _save_merged(target, model, rows, speakers, dtype)
        _write(target / "config.json", _custom_voice(config, model, rows))
    if adapted and settings.export in ("adapter", "both"):
        _save_adapter(target, model, settings)
    _write(target / "training_state.json", progress)


def _ignore_at(base: Path) -> Any:
    """Leave weights out at the top of the base directory, but keep the speech tokenizer's."""
    patterns = shutil.ignore_patterns(*_NOT_COPIED)
    inner = shutil.ignore_patterns(".cache", ".git", "*.lock")

    def ignore(directory: str, names: list[str]) -> set[str]:
        return (patterns if Path(directory) == base else inner)(directory, names)

    return ignore


def _save_merged(
    target: Path, model: Any, rows: dict[str, int], speakers: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    from huggingface_hub import save_torch_state_dict

    weights = {}
    for name, tensor in adapt.merged_weights(model).items():
        if name.startswith("speaker_encoder."):
            continue  # a CustomVoice model has none; stock loading would report it as unexpected
        weights[name] = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
    table = weights["talker.model.codec_embedding.weight"].clone()
    for name, row in rows.items():
        table[row] = speakers[name].to(table.dtype)
    weights["talker.model.codec_embedding.weight"] = table
    save_torch_state_dict(weights, target, max_shard_size="5GB", metadata={"format": "pt"})


def _custom_voice(config: dict[str, Any], model: Any, rows: dict[str, int]) -> dict[str, Any]:
    """The base's config.json as that of a CustomVoice model that speaks as `rows`."""
    talker = dict(config["talker_config"])
    talker["spk_id"] = {**(talker.get("spk_id") or {}), **rows}
    talker["spk_is_dialect"] = {**(talker.get("spk_is_dialect") or {}), **dict.fromkeys(rows, False)}
    talker["num_hidden_layers"] = model.config.talker_config.num_hidden_layers
    return {**config, "tts_model_type": "custom_voice", "talker_config": talker}


def _save_adapter(target: Path, model: Any, settings: Settings) -> None:
    from safetensors.torch import save_file

    config = adapt.lora_config(model, settings)
    config.base_model_name_or_path = base_model(settings)  # never a path of the machine that trained
    config.inference_mode = True
    config.save_pretrained(str(target))
    _save(save_file, adapt.adapter_weights(model), target / "adapter_model.safetensors")
    if settings.train_text_projection:
        projection = model.talker.text_projection.state_dict()
        _save(save_file, projection, target / "text_projection.safetensors")


def _save(save_file: Any, tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(path), metadata={"format": "pt"})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
