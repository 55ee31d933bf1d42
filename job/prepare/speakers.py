"""Choose the reference recordings of each speaker, and compute the x-vector from them."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from job.audio.clip import Samples, Unusable, load, resample
from job.audio.speech import detector
from job.config.settings import Settings
from job.core import console, files, inside
from job.core.errors import BadInput
from job.dataset.prepared import SPLITS
from job.model.loading import by_lookup_key
from job.model.speaker_encoder import SpeakerEncoder
from job.prepare.clips import ranked
from job.prepare.codec import Codec
from job.prepare.manifest_rows import Row, speaker_key
from job.prepare.quality import Tally
from job.prepare.shards import Shards

if TYPE_CHECKING:
    import torch

#: Longest allowed reference recording, in seconds.
LONGEST_REFERENCE = 600.0


#: Strategy of a speaker that the base model already has.
KEPT = "kept"
#: The vector is one that came with the dataset (PUSH_DATASET has published it).
CAME = "published"


@dataclass(slots=True)
class SpeakerRows:
    """A speaker in the manifests: number of rows, and each `ref_audio` with the first row that names it."""

    rows: int = 0
    references: dict[Path, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a speaker's reference comes from: a file (`file`, `same`), or clips of the data (`first`, `best`)."""

    strategy: str
    path: Path | None = None


def survey(rows: Iterable[Row]) -> dict[str, SpeakerRows]:
    """Collect the speakers of the manifests, in order of appearance."""
    speakers: dict[str, SpeakerRows] = {}
    for row in rows:
        entry = speakers.setdefault(row.speaker, SpeakerRows())
        entry.rows += 1
        if row.ref_audio is not None:
            entry.references.setdefault(row.ref_audio, row.number)
    return speakers


def plan_references(
    speakers: Mapping[str, SpeakerRows],
    settings: Settings,
    existing: Mapping[str, int] | None = None,
    came: Collection[str] = (),
) -> dict[str, Plan]:
    """Decide each speaker's reference before anything is encoded, so that a bad one costs no time.

    `existing` are the speakers that a CustomVoice base already has (name -> row): they keep their voice's vector.
    `came` are those whose vector came with the dataset, which is used where no reference is named.

    Raises:
        BadInput: REF_AUDIO_PATH is missing or could mean several speakers, rows of a speaker name different
            `ref_audio`, or the strategy needs something that is missing.
    """
    wanted, path = settings.ref_audio_strategy, settings.ref_audio_path
    owner: str | None = None
    if wanted == "file" and path is None:
        raise BadInput("REF_AUDIO_STRATEGY=file: set REF_AUDIO_PATH to the recording, or choose same, first or best")
    if path is not None and wanted in (None, "file"):
        owner = _owner(speakers, settings)
    plans = {}
    for name, entry in speakers.items():
        if name in (existing or {}):
            plans[name] = Plan(KEPT)
        elif name == owner and path is not None:
            plans[name] = Plan("file", path.expanduser().absolute())
        elif wanted in ("first", "best"):
            plans[name] = Plan(wanted)
        elif entry.references:
            plans[name] = Plan("same", _only_reference(name, entry))
        elif wanted == "same":
            raise BadInput(
                f"REF_AUDIO_STRATEGY=same: no row of speaker {name!r} has ref_audio; add it, or choose first or best"
            )
        else:
            plans[name] = Plan(CAME if name in came else "best")
    return plans


def published(path: Path, width: int) -> dict[str, torch.Tensor]:
    """The x-vectors that came with the dataset, by speaker; none where they are those of a base of another size."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        return {}
    found = {speaker_key(name): vector.to(torch.float32) for name, vector in load_file(path).items()}
    fit = {name: v for name, v in found.items() if v.shape == (width,) and bool(torch.isfinite(v).all())}
    if len(fit) < len(found):
        console.warn("prepare", f"{len(found) - len(fit)} x-vectors of the dataset do not fit this base; made anew")
    return fit


def check_files(plans: Mapping[str, Plan], rate: int, judged: bool = True) -> None:
    """Decode every reference file once and, if `judged`, check that it contains speech.

    Raises:
        BadInput: one is unreadable or silent, or contains no speech.
    """
    for path in sorted({plan.path for plan in plans.values() if plan.path is not None}):
        strategy = next(p.strategy for p in plans.values() if p.path == path)
        heard = detector().listen(_load_reference(path, rate, strategy), rate)
        if judged and heard.fault == "no_speech":
            raise BadInput(
                f"{_variable(strategy)}: {path}: no speech in it; give a recording of 3 to 10 s of the speaker, "
                "or set QUALITY_GATE=off if it is speech"
            )


def x_vectors(
    plans: Mapping[str, Plan],
    tally: Tally,
    shards: Shards,
    codec: Codec,
    base: Path,
    encoder: SpeakerEncoder | None,
    came: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Compute each kept speaker's x-vector once, in fp32.

    Args:
        encoder: the base model's speaker encoder; None if the base already has all the voices.
        came: x-vectors that came with the dataset.

    Returns:
        Speaker -> x-vector (enc_dim,), and speaker -> its entry in the summary.

    Raises:
        BadInput: a reference cannot be used, or its x-vector is not finite.
    """
    import torch

    vectors: dict[str, torch.Tensor] = {}
    about: dict[str, dict[str, Any]] = {}
    numbers = {name: number for number, name in enumerate(tally.speakers)}
    for name in sorted(numbers):
        plan, rows = plans[name], np.flatnonzero(tally["speaker"] == numbers[name])
        trained = rows[~tally.validation[rows]]
        if len(trained):
            rows = trained
        if plan.strategy == CAME:
            vectors[name] = came[name]
            about[name] = {"reference": "the dataset", "references": [], "strategy": CAME, "rows": len(trained)}
            continue
        if plan.strategy == KEPT or encoder is None:
            vectors[name] = _existing_vector(base, name)
            about[name] = {"reference": str(base), "references": [], "strategy": KEPT, "rows": len(trained)}
            continue
        if plan.path is not None:
            clips = [(str(plan.path), _load_reference(plan.path, encoder.sample_rate, plan.strategy))]
        else:
            chosen = rows[:1]
            if plan.strategy == "best":
                chosen = rows[ranked(rows, tally)]
            clips = [clip_of(int(row), tally, shards, codec, encoder.sample_rate) for row in chosen]
        stacked = torch.stack([encoder.embed(samples, encoder.sample_rate) for _, samples in clips])
        vector = stacked.to(torch.float32).mean(dim=0)
        if not bool(torch.isfinite(vector).all()):
            raise BadInput(f"speaker {name!r}: the x-vector of {clips[0][0]} is not finite; choose another reference")
        vectors[name] = vector.contiguous()
        about[name] = {
            "reference": clips[0][0],
            "references": [label for label, _ in clips],
            "strategy": plan.strategy,
            "rows": len(trained),
        }
    return vectors, about


def _existing_vector(base: Path, name: str) -> torch.Tensor:
    """Read the voice of a speaker from a CustomVoice model: a row of its codec embedding, fp32."""
    import torch
    from safetensors import safe_open

    row = by_lookup_key(files.read_json(base / "config.json")["talker_config"]["spk_id"])[name]
    key = "talker.model.codec_embedding.weight"
    for path in sorted(base.glob("model*.safetensors")):
        with safe_open(str(path), framework="pt") as handle:
            if key in handle.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                vector: torch.Tensor = handle.get_slice(key)[row].to(torch.float32).contiguous().clone()
                return vector
    raise BadInput(f"INIT_MODEL_PATH={base}: {key} is in none of its weight files; download the whole repo")


def _owner(speakers: Mapping[str, SpeakerRows], settings: Settings) -> str:
    """Determine the speaker that REF_AUDIO_PATH belongs to."""
    if len(speakers) == 1:
        return next(iter(speakers))
    name = speaker_key(settings.speaker_name)
    if name in speakers:
        return name
    shown = ", ".join(sorted(speakers)[:5])
    raise BadInput(
        f"REF_AUDIO_PATH={settings.ref_audio_path}: the data has {len(speakers)} speakers ({shown}); set SPEAKER_NAME "
        "to the one it belongs to, or give the rows a ref_audio instead"
    )


def _only_reference(name: str, entry: SpeakerRows) -> Path:
    """Return the only `ref_audio` of a speaker's rows; different paths are allowed if the files are identical."""
    (first, first_row), *others = entry.references.items()
    for path, row in others:
        if not (
            inside.is_there(path) and inside.is_there(first) and files.digest_file(path) == files.digest_file(first)
        ):
            raise BadInput(
                f"speaker {name!r}: row {first_row} has ref_audio {first} and row {row} has {path}; a voice needs one: "
                "name the same file in all rows, or set REF_AUDIO_PATH or REF_AUDIO_STRATEGY=best"
            )
    return first


def _variable(strategy: str) -> str:
    return "REF_AUDIO_PATH" if strategy == "file" else "ref_audio"


def _load_reference(path: Path, rate: int, strategy: str) -> Samples:
    try:
        return load(path, rate, max_seconds=LONGEST_REFERENCE).samples
    except Unusable as error:
        detail = f"{path}: longer than {LONGEST_REFERENCE:.0f} s" if error.reason == "too_long" else error.detail
        raise BadInput(f"{_variable(strategy)}: {detail}; give a recording of 3 to 10 s of the speaker") from error


def clip_of(number: int, tally: Tally, shards: Shards, codec: Codec, rate: int) -> tuple[str, Samples]:
    """Load label and samples at `rate` of a kept row: its recording, else its `ref_audio`, else its decoded codes."""
    split, position = SPLITS[tally["source"][number]], int(tally["position"][number])
    row = shards.row(split, position)
    longest = math.inf if tally["rate"][number] else LONGEST_REFERENCE  # measured rows are within MAX_SECONDS
    parts = {"audio": (row["start"], row["end"]), "ref_audio": (None, None)}
    for column, (start, end) in parts.items():
        if row[column] is not None:
            path = Path(os.fsdecode(row[column]))
            try:
                return str(path), load(path, rate, start=start, end=end, max_seconds=longest).samples
            except Unusable as error:
                if tally["rate"][number]:  # it could be read when it was measured
                    raise BadInput(f"row {row['number']} ({row['source']}): {error.detail}") from error
    samples = resample(codec.decode(shards.codes(split, position)), codec.sample_rate, rate)
    if float(np.abs(samples).max()) == 0.0:
        raise BadInput(f"row {row['number']} ({row['source']}): its codes decode to silence; set REF_AUDIO_PATH")
    return f"codes of row {row['id']}", samples
