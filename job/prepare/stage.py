"""The stage from top to bottom: manifests -> codes -> splits -> x-vectors -> files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job import console, files, models
from job.errors import BadInput, DataRefused
from job.prepare import augment, gate, page, quality, speakers
from job.prepare.codec import Codec, load_codec
from job.prepare.dataset import SPLITS, read_summary
from job.prepare.encode import encode_items, read_items
from job.prepare.quality import Kept, Tally
from job.prepare.rows import AUTO, Row, read_rows
from job.prepare.split import held_out
from job.prepare.store import SpoolReader, SpoolWriter, write_shards
from job.settings import Settings

if TYPE_CHECKING:
    import torch

STAGE = "prepare"


def prepare(settings: Settings) -> dict[str, Any]:
    """Run the stage; see `job.prepare.run`."""
    paths = settings.paths
    files.recover_directory(paths.prepared)
    if settings.data_mode == "none":
        return _already_prepared(settings)
    if not paths.manifest("train").is_file():
        raise BadInput(f"{paths.manifest('train')} is missing; run `python -m job fetch` first (WORK_DIR)")

    # 1. What must hold before any work is spent.
    base = models.base_directory(settings)
    config = models.read_config(base)
    known = {name.lower(): row for name, row in config.languages.items()}
    manifest = _Manifest(settings, known)
    plans = speakers.plan_references(manifest.speakers, settings, config.talker.get("spk_id") or {})
    device = models.resolve_device(settings)
    codec = load_codec(settings, config.books, device)
    speakers.check_files(plans, codec.sample_rate)

    # 2. Everything else is built beside the old dataset and takes its place in one step.
    counts: dict[str, Any] = {}
    files.replace_directory(
        paths.prepared,
        lambda directory: counts.update(_fill(directory, settings, manifest, plans, codec, base, device)),
    )
    return counts


class _Manifest:
    """The raw rows, read as a stream as often as they are needed; the first reading surveys the speakers."""

    def __init__(self, settings: Settings, known: dict[str, int]) -> None:
        self._settings = settings
        self.known = known
        self.rows = dict.fromkeys(SPLITS, 0)
        self.speakers = speakers.survey(self._counted())

    def read(self, split: str) -> Iterator[Row]:
        """The rows of a split, in order."""
        return read_rows(self._settings.paths.manifest(split), split, self._settings, self.known)

    def _counted(self) -> Iterator[Row]:
        for split in SPLITS:
            for row in self.read(split):
                self.rows[split] += 1
                yield row


def _fill(
    directory: Path,
    settings: Settings,
    manifest: _Manifest,
    plans: dict[str, speakers.Plan],
    codec: Codec,
    base: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Write the prepared dataset into the empty `directory`, and the figures about it beside it."""
    tally = Tally(codec.books, codec.codebook_size, codec.frame_rate)
    if settings.paths.fetch_rejected.is_file():
        tally.rejected.extend(files.read_jsonl(settings.paths.fetch_rejected))

    # 2a. Codes of all rows, to a spool: which rows are validated on is known when the bad ones are out.
    with SpoolWriter(directory / "spool.arrow", codec.books) as writer:
        for split in SPLITS:
            _encode_split(split, manifest, settings, codec, tally, writer)
    spool = SpoolReader(directory / "spool.arrow")
    _hold_out(tally, settings, manifest)

    # 2b. The gate, with its figures on disk either way.
    found = gate.problems(tally)
    _write_figures(settings, tally, found)
    _report_rows(tally)
    gate.refuse_nothing_left(tally)
    gate.enforce(found, settings.quality_gate)

    # 2c. Voices, altered copies, shards.
    vectors, about = speakers.x_vectors(plans, tally.kept, spool, codec, base, device)
    _save_vectors(directory / "speakers.safetensors", vectors)
    copies = _write_splits(directory, spool, tally, settings, manifest, codec)
    _write_figures(settings, tally, found, copies["rows"])
    (directory / "spool.arrow").unlink()

    summary = _summary(tally, codec, about, manifest.known, copies)
    files.write_json(directory / "summary.json", summary)
    return _announce(summary, tally)


def _encode_split(
    split: str, manifest: _Manifest, settings: Settings, codec: Codec, tally: Tally, writer: SpoolWriter
) -> None:
    """Encode a split's rows in order, as far as MAX_HOURS and MAX_EVAL_SAMPLES let it go."""
    most_seconds = settings.max_hours * 3600 if settings.max_hours and split == "train" else None
    most_rows = settings.max_eval_samples if split == "validation" else None
    items = encode_items(read_items(manifest.read(split), settings, codec), codec, settings.prepare_batch_size)
    seconds, rows = 0.0, 0
    for item in console.progress(items, stage=STAGE, total=manifest.rows[split], unit=f"{split} rows"):
        if most_rows is not None and rows >= most_rows:
            break
        if item.codes is None:
            assert item.unusable is not None
            tally.reject(item.row, item.unusable.reason, item.unusable.detail)
            continue
        length = len(item.codes) / codec.frame_rate
        if most_seconds is not None and seconds + length > most_seconds:
            console.say(STAGE, f"MAX_HOURS={settings.max_hours:g} reached after {rows} rows; the rest is not used")
            break
        tally.add(item, item.codes)
        writer.append(item.row, length, item.codes)
        seconds, rows = seconds + length, rows + 1


def _hold_out(tally: Tally, settings: Settings, manifest: _Manifest) -> None:
    """Move some training rows to the validation split, unless there is a validation manifest."""
    if manifest.rows["validation"]:
        if not any(row.split == "validation" for row in tally.kept):
            console.warn(STAGE, "no usable row in the validation data; training goes on without validation")
        return
    chosen = held_out(
        [row.id for row in tally.kept],
        [row.speaker for row in tally.kept],
        seed=settings.seed,
        fraction=settings.validation_fraction,
        most=settings.max_eval_samples,
    )
    for row in tally.kept:
        if row.id in chosen:
            row.split = "validation"
    if chosen:
        console.say(STAGE, f"{len(chosen)} of {len(tally.kept)} rows are held out for validation")


def _write_splits(
    directory: Path, spool: SpoolReader, tally: Tally, settings: Settings, manifest: _Manifest, codec: Codec
) -> dict[str, Any]:
    """Write the shards of each split, training copies last. Returns rows, frames and seconds of the copies."""
    copies = {"rows": 0, "frames": 0, "seconds": 0.0}
    positions = {split: [row.position for row in tally.kept if row.split == split] for split in SPLITS}
    tables = spool.take(positions["train"])
    extra = directory / "copies.arrow"
    if augment.changes(settings):
        copies = _encode_copies(extra, tally, settings, manifest, codec)
        console.say(STAGE, f"{copies['rows']} altered copies of training rows were added")
    if copies["rows"]:
        altered = SpoolReader(extra).take(range(int(copies["rows"])))
        write_shards(directory / "train", (t for part in (tables, altered) for t in part), codec.books)
    else:
        write_shards(directory / "train", tables, codec.books)
    extra.unlink(missing_ok=True)
    if positions["validation"]:
        write_shards(directory / "validation", spool.take(positions["validation"]), codec.books)
    return copies


def _encode_copies(path: Path, tally: Tally, settings: Settings, manifest: _Manifest, codec: Codec) -> dict[str, Any]:
    """Encode the AUGMENT_* copies of the training rows into a spool of their own."""
    trained = {row.id for row in tally.kept if row.split == "train"}
    rows = (row for row in manifest.read("train") if row.id in trained)
    items = encode_items(augment.read_copies(rows, settings, codec), codec, settings.prepare_batch_size)
    counts = {"rows": 0, "frames": 0, "seconds": 0.0}
    total = len(trained) * len(augment.changes(settings))
    with SpoolWriter(path, codec.books) as writer:
        for item in console.progress(items, stage=STAGE, total=total, unit="copies"):
            assert item.codes is not None
            seconds = len(item.codes) / codec.frame_rate
            writer.append(item.row, seconds, item.codes)
            counts["rows"] += 1
            counts["frames"] += len(item.codes)
            counts["seconds"] += seconds
    return counts


def _summary(
    tally: Tally, codec: Codec, about: dict[str, Any], known: dict[str, int], copies: dict[str, Any]
) -> dict[str, Any]:
    """The contents of summary.json."""
    splits = {}
    for split in SPLITS:
        rows = [row for row in tally.kept if row.split == split]
        if rows:
            extra = copies if split == "train" else {"rows": 0, "frames": 0, "seconds": 0.0}
            splits[split] = {
                "rows": len(rows) + extra["rows"],
                "frames": sum(row.frames for row in rows) + extra["frames"],
                "seconds": round(sum(row.seconds for row in rows) + extra["seconds"], 3),
            }
    return {
        "splits": splits,
        "books": codec.books,
        "codebook_size": codec.codebook_size,
        "frame_rate": codec.frame_rate,
        "samples_per_frame": codec.samples_per_frame,
        "sample_rate": codec.sample_rate,
        "speakers": about,
        "languages": _languages(tally.kept, known),
        "frames_per_character": round(
            quality.frames_per_character(row for row in tally.kept if row.split == "train"), 4
        ),
    }


def _languages(kept: list[Kept], known: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in kept:
        entry = found.setdefault(
            row.language, {"rows": 0, "seconds": 0.0, "known": row.language == AUTO or row.language in known}
        )
        entry["rows"] += 1
        entry["seconds"] = round(entry["seconds"] + row.seconds, 3)
    return dict(sorted(found.items()))


def _save_vectors(path: Path, vectors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    files.write_with(path, lambda temporary: save_file(vectors, temporary))


def _write_figures(settings: Settings, tally: Tally, found: list[str], copies: int = 0) -> None:
    """quality.json, quality.html and rejected.jsonl; they are there when the gate refuses, too."""
    figures = quality.figures_of(tally, found, copies)
    files.write_jsonl(settings.paths.rejected, tally.rejected)
    files.write_json(settings.paths.quality, figures)
    files.write_text(settings.paths.quality_page, page.render(figures, tally.rejected))


def _report_rows(tally: Tally) -> None:
    """One line a reason, so that nothing is left out silently."""
    for reason, count in tally.rejected_by_reason().items():
        console.warn(STAGE, f"{count} rows left out: {reason} (data/rejected.jsonl)")
    for warning, ids in sorted(tally.warnings.items()):
        console.warn(STAGE, f"{len(ids)} rows kept with a warning: {warning}, for example {ids[0]}")


def _announce(summary: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """Say what was prepared; returns the counts for the state file."""
    unknown = [name for name, entry in summary["languages"].items() if not entry["known"]]
    if unknown:
        console.say(STAGE, f"the base model does not know {', '.join(unknown)}: each gets a row of its own in training")
    for name, entry in summary["speakers"].items():
        console.say(STAGE, f"speaker {name}: x-vector from {entry['reference']} ({entry['strategy']})")
    hours = sum(split["seconds"] for split in summary["splits"].values()) / 3600
    rows = ", ".join(f"{split['rows']} {name} rows" for name, split in summary["splits"].items())
    console.say(STAGE, f"{rows}, {hours:.2f} h, {len(summary['speakers'])} speakers")
    return {
        **{f"{name}_rows": split["rows"] for name, split in summary["splits"].items()},
        "hours": round(hours, 4),
        "speakers": len(summary["speakers"]),
        "rejected": len(tally.rejected),
        "warnings": {name: len(ids) for name, ids in sorted(tally.warnings.items())},
    }


def _already_prepared(settings: Settings) -> dict[str, Any]:
    """DATA_MODE=none: check that a prepared dataset is there, and leave it as it is."""
    summary = read_summary(settings.paths)
    if "train" not in summary.get("splits", {}):
        raise DataRefused(f"DATA_MODE=none: {settings.paths.prepared} has no training rows")
    console.say(STAGE, f"DATA_MODE=none: using {settings.paths.prepared} as it is")
    return {f"{name}_rows": split["rows"] for name, split in summary["splits"].items()}
