"""List the files of a checkpoint that are published, and check that they are complete, without torch or a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.core import files
from job.model import card_facts
from job.model.loading import REQUIRED_FILES, read_config
from job.modes import mode_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Folder -> patterns of published files; all others (optimizer states, logs, caches, partial files) are not published.
ALLOWED: dict[str, tuple[str, ...]] = {
    "": (
        "README.md",
        "LICENSE",
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "model-*-of-*.safetensors",
        "model.safetensors.index.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.json",
        "chat_template.jinja",
        "adapter_config.json",
        "adapter_model.safetensors",
        "text_projection.safetensors",
        "speaker_encoder.safetensors",
    ),
    "adapter": ("adapter_config.json", "adapter_model.safetensors", "text_projection.safetensors"),
    "speech_tokenizer": (
        "config.json",
        "configuration.json",
        "preprocessor_config.json",
        "model.safetensors",
        "model-*-of-*.safetensors",
        "model.safetensors.index.json",
    ),
}

#: Weights in a repo that are not among the files being published are those of an earlier training, and are removed:
#: a loader that finds both would mix them.
STALE = ("model*.safetensors", "model.safetensors.index.json", "adapter_*", "adapter/*", "text_projection.safetensors")
#: The same with the codec's.
ALL_STALE = (*STALE, *(f"speech_tokenizer/{name}" for name in STALE[:2]))

#: Bytes of a tensor that are checked at a time.
CHUNK = 1 << 24
#: safetensors type -> (NumPy type of the same width, mask of the exponent: all ones means infinite or not a number).
_EXPONENTS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F64": ("<u8", 0x7FF << 52)}


def published(directory: Path) -> list[str]:
    """Relative paths of the files in `directory` that are published, sorted."""
    found = []
    for folder, names in ALLOWED.items():
        place = directory / folder
        for path in place.iterdir() if place.is_dir() else ():
            if path.is_file() and any(fnmatchcase(path.name, name) for name in names):
                found.append(path.relative_to(directory).as_posix())
    return sorted(found)


def merged(settings: Settings) -> bool:
    """Whether a checkpoint contains merged weights (all do except those of TRAIN_MODE=lora EXPORT=adapter)."""
    return mode_of(settings).merged(settings)


def check(directory: Path, settings: Settings) -> list[str]:
    """Problems in a checkpoint that stock `qwen_tts` would fail on, one line each; empty if there are none.

    Checks that all files exist, it is a CustomVoice model, its speakers have lower-case names and rows in the codec
    embedding, the prepared data's speakers are among them, and every tensor of every file is complete and finite.
    """
    problems = [
        f"{name} is missing" for name in REQUIRED_FILES if merged(settings) and not (directory / name).is_file()
    ]
    problems += [
        f"{place / '*.safetensors'} is missing"
        for place in (Path(), Path("speech_tokenizer"))
        if merged(settings) and not any((directory / place).glob("model*.safetensors"))
    ]
    if mode_of(settings).adapter(settings):
        folder = "adapter/" if merged(settings) else ""
        wanted = (f"{folder}adapter_config.json", f"{folder}adapter_model.safetensors")
        problems += [f"{name} is missing" for name in wanted if not (directory / name).is_file()]
    if merged(settings) and not (directory / "tokenizer.json").is_file():
        wanted = ("vocab.json", "merges.txt")
        problems += [f"{name} is missing" for name in wanted if not (directory / name).is_file()]
    if problems:
        return problems
    if merged(settings):
        problems += _check_voices(directory, settings)
    for path in [p for folder in ALLOWED for p in sorted((directory / folder).glob("*.safetensors"))]:
        problems += [f"{path.relative_to(directory)}: {problem}" for problem in check_tensors(path)]
    for path in directory.rglob("model.safetensors.index.json"):
        shards = set((files.read_json(path).get("weight_map") or {}).values())
        problems += [f"{name} is missing" for name in sorted(shards) if not (path.parent / name).is_file()]
    return problems


def _check_voices(directory: Path, settings: Settings) -> Iterator[str]:
    config = read_config(directory)
    if config.kind != "custom_voice":
        yield f"config.json: tts_model_type is {config.kind!r} instead of 'custom_voice'"
    rows = config.talker.get("spk_id") or {}
    if not rows:
        yield "config.json: talker_config.spk_id names no speaker"
    size = int(config.talker.get("vocab_size") or 0)
    for name, row in rows.items():
        if name != name.lower():
            yield f"config.json: speaker {name!r} has capitals, so generate() cannot find it"
        if not isinstance(row, int) or not 0 <= row < size:
            yield f"config.json: speaker {name!r} has row {row!r}, and the codec embedding has {size}"
    for name in card_facts.summary(settings).get("speakers") or {}:
        if str(name).lower() not in rows:
            yield f"config.json: speaker {name!r} of the data is not among spk_id"


def check_tensors(path: Path) -> list[str]:
    """The problem with a safetensors file that is truncated or damaged, or has tensors that are not finite."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        return [f"cannot be read ({str(error).splitlines()[0]})"]
    if not names:
        return ["holds no tensor"]
    bad = [name for name, values, mask in _tensors(path) if not _finite(values, mask)]
    return [f"{len(bad)} tensors are not finite, first {bad[0]}"] if bad else []


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[np.unsignedinteger[Any]], int]]:
    """(name, bits, exponent mask) of the floating-point tensors. NumPy has no bf16, so bits are compared.

    The file's layout is that of safetensors: 8 bytes of header length, the header as JSON, then the data.
    """
    import numpy as np

    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
    data = np.memmap(path, mode="r", dtype=np.uint8)
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] in _EXPONENTS:
            kind, mask = _EXPONENTS[tensor["dtype"]]
            start, end = (8 + length + offset for offset in tensor["data_offsets"])
            yield name, data[start:end].view(kind), mask


def _finite(bits: NDArray[np.unsignedinteger[Any]], mask: int) -> bool:
    step = CHUNK // bits.itemsize
    exponent = bits.dtype.type(mask)
    return not any(((bits[i : i + step] & exponent) == exponent).any() for i in range(0, len(bits), step))
