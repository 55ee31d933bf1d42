"""Run the whole prepare stage: manifests -> codes -> splits -> x-vectors -> files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from job.config.settings import Settings
from job.core import console, files
from job.core.errors import DataRefused
from job.dataset.prepared import SPLITS, read_summary, schema, write_cache
from job.prepare import (
    announced,
    augment,
    clip_voices,
    edits,
    heard_words,
    main_speaker,
    one_voice,
    page,
    quality,
    quality_gate,
    speakers,
)
from job.prepare.admitted import Admitted
from job.prepare.manifest_rows import AUTO
from job.prepare.parquet_store import write_shards
from job.prepare.people_names import Named
from job.prepare.quality import Tally
from job.prepare.split import held_out
from job.prepare.work import COPIES, STAGE, Work
from job.prepare.worst import Worst
from job.processes.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray

#: Marker file beside the shards: a dataset was built from them.
_FINISHED = "finished"


def prepare(settings: Settings, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Run the stage, in every process of a run; see `job.prepare.run`."""
    if settings.data_mode == "none":
        return ranks.first_does(lambda: _already_prepared(settings))
    begun: list[Work] = []
    ranks.first_does(lambda: heard_words.check(settings))
    ranks.first_does(lambda: _begin_anew(settings))
    on_ray = settings.engine == "ray"
    with ExitStack() as stack:
        # errors are reported once, before all processes begin
        ranks.first_does(lambda: begun.append(_begun(settings, stack)))
        work = begun[0] if begun else Work(settings)
        if ranks.world > 1:
            if on_ray:
                ranks.first_does(lambda: work.encode(SPLITS))
            else:
                work.encode((*SPLITS, COPIES), ranks.rank, ranks.world)
            ranks.wait()
            heard_words.hear(work, ranks.rank, ranks.world)
            if settings.keep_speakers != "all":
                clip_voices.clips(work, ranks.rank, ranks.world)
            ranks.wait()
        return ranks.first_does(lambda: merge(work))


def _begun(settings: Settings, stack: ExitStack) -> Work:
    """Check everything, before any shard is replaced."""
    work = _work_on_ray(settings, stack) if settings.engine == "ray" else Work(settings)
    work.shards.keep_earlier()
    return work


def _work_on_ray(settings: Settings, stack: ExitStack) -> Work:
    """Connect to Ray until `stack` ends. DEVICE is its workers': this process takes what it finds."""
    from job.prepare.on_ray.cluster import started_with

    own = {"device": "auto"} if settings.device.startswith("cuda") else {}
    return Work(settings.model_copy(update=own), started_with(settings, stack))


def _begin_anew(settings: Settings) -> None:
    """With FORCE, delete shards and x-vectors of a finished run; a killed run resumes from them."""
    if settings.force and (settings.paths.encoding / _FINISHED).is_file():
        shutil.rmtree(settings.paths.clip_voices, ignore_errors=True)
        shutil.rmtree(settings.paths.encoding)


def merge(work: Work) -> dict[str, Any]:
    """Merge the shards into the prepared dataset; shards not yet encoded are encoded here.

    All other processes must have finished encoding.

    Returns:
        Counts for the stage's state file.
    """
    paths = work.settings.paths
    files.recover_directory(paths.prepared)
    (paths.encoding / _FINISHED).unlink(missing_ok=True)

    # 1. Codes of all rows: the validation rows are chosen after the bad ones are rejected.
    work.encode(SPLITS)
    told = main_speaker.tell(work)
    work.call_speakers(told.speakers)
    admitted = Admitted(work, heard_words.hear(work), told.left_out)
    tally = _gather(work, admitted)
    work.check_room(tally.speakers)  # KEEP_SPEAKERS=split has made more of them
    _hold_out(tally, work)

    # 2. The quality gate; its figures are written whether it passes or not.
    found = [*quality_gate.problems(tally), *one_voice.problems(work, tally)]
    _write_figures(work, tally, admitted, found, told.figures)
    announced.report_rows(tally)
    for way in admitted.ways:
        console.warn(STAGE, way)
    quality_gate.refuse_nothing_left(tally)
    quality_gate.enforce(found, work.settings.quality_gate)

    # 3. The new dataset is built beside the old one and replaces it in one step.
    work.encode((COPIES,))
    summary: dict[str, Any] = {}
    files.replace_directory(paths.prepared, lambda directory: summary.update(_fill(directory, work, tally, told.named)))
    _write_figures(work, tally, admitted, found, told.figures, summary.pop("copies"))
    write_cache(paths)
    work.shards.prune()
    files.write_text(paths.encoding / _FINISHED, "")
    return announced.announce(summary, tally, work.settings)


def _gather(work: Work, admitted: Admitted) -> Tally:
    """Tally the used and the rejected rows."""
    codec = work.codec
    tally = Tally(codec.codebooks, codec.codebook_size, codec.frame_rate, work.settings.seed)
    tally.mispaired = admitted.problems
    for row in _refused_by_fetch(work.settings):
        tally.refuse(row)
    for split in SPLITS:
        for table in admitted.tables(split):
            tally.add(split, table)
    tally.close()
    return tally


def _hold_out(tally: Tally, work: Work) -> None:
    """Hold out some training rows for validation, unless there is a validation manifest."""
    if work.manifest.rows["validation"]:
        if not tally.validation.any():
            console.warn(STAGE, "no usable row in the validation data; training continues without validation")
        if shared := quality.shared_digests(tally):
            console.warn(STAGE, f"{shared} validation rows are also trained on: their loss says nothing of new texts")
        return
    settings = work.settings
    tally.validation = held_out(
        tally["rank"],
        tally["digest"],
        tally["speaker"],
        fraction=settings.validation_fraction,
        most=settings.max_eval_samples,
    )
    if tally.validation.any():
        console.say(STAGE, f"{tally.validation.sum()} of {tally.kept} rows are held out for validation")


def _fill(directory: Path, work: Work, tally: Tally, named: dict[str, Named]) -> dict[str, Any]:
    """Write the prepared dataset into the empty `directory`. Returns its summary, and the number of copies."""
    if named:
        files.write_json(directory / work.settings.paths.people.name, named)
    vectors, about = speakers.x_vectors(work.plans, tally, work.shards, work.codec, work.base, work.encoder, work.came)
    _save_vectors(directory / "speakers.safetensors", vectors)
    copies = _write_splits(directory, work, tally)
    summary = _summary(work, tally, about, copies)
    files.write_json(directory / "summary.json", summary)
    return {**summary, "copies": copies["rows"]}


def _write_splits(directory: Path, work: Work, tally: Tally) -> dict[str, Any]:
    """Write the files of each split, training copies last. Returns rows, frames and seconds of the copies."""
    codebooks = work.codec.codebooks
    columns = schema(codebooks).names
    validation = "validation" if work.manifest.rows["validation"] else "train"
    trained = _lines(work, tally, "train", ~tally.validation)
    held = _lines(work, tally, validation, tally.validation)
    counts = {"rows": 0, "frames": 0}

    def copies() -> Iterator[pa.Table]:
        if augment.changes(work.settings):
            for table in work.shards.take(COPIES, trained, columns):
                counts["rows"] += len(table)
                counts["frames"] += int(pc.sum(pc.list_value_length(table["codes"])).as_py())
                yield table

    write_shards(directory / "train", chain(work.shards.take("train", trained, columns), copies()), codebooks)
    if held.any():
        write_shards(directory / "validation", work.shards.take(validation, held, columns), codebooks)
    if augment.changes(work.settings):
        console.say(STAGE, f"{counts['rows']} altered copies of training rows were added")
    return counts


def _lines(work: Work, tally: Tally, split: str, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Convert the mask `chosen` (kept,) to a mask over the lines of the split's manifest (lines,)."""
    lines = np.zeros(work.manifest.rows[split], dtype=bool)
    lines[tally["position"][chosen & (tally["source"] == SPLITS.index(split))]] = True
    return lines


def _summary(work: Work, tally: Tally, about: dict[str, Any], copies: dict[str, Any]) -> dict[str, Any]:
    """The contents of summary.json."""
    codec = work.codec
    splits = {}
    for split, rows in (("train", ~tally.validation), ("validation", tally.validation)):
        if rows.any():
            extra = copies if split == "train" else {"rows": 0, "frames": 0}
            frames = int(tally["frames"][rows].sum()) + extra["frames"]
            seconds = round(frames / codec.frame_rate, 3)
            splits[split] = {"rows": int(rows.sum()) + extra["rows"], "frames": frames, "seconds": seconds}
    languages = tally.by(list(tally.languages), tally["language"], 3)
    for name, entry in languages.items():
        entry["known"] = name == AUTO or name in work.manifest.known
        entry["code"] = work.manifest.codes.get(name)
    return {
        "splits": splits,
        "books": codec.codebooks,
        "codebook_size": codec.codebook_size,
        "frame_rate": codec.frame_rate,
        "samples_per_frame": codec.samples_per_frame,
        "sample_rate": codec.sample_rate,
        "speakers": about,
        "languages": languages,
        "frames_per_character": round(quality.frames_per_character(tally), 4),
    }


def _save_vectors(path: Path, vectors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    files.write_with(path, lambda temporary: save_file(vectors, temporary))


def _refused_by_fetch(settings: Settings) -> Iterator[dict[str, Any]]:
    if settings.paths.fetch_rejected.is_file():
        yield from files.read_jsonl(settings.paths.fetch_rejected)


def _write_figures(
    work: Work, tally: Tally, admitted: Admitted, found: list[str], people: dict[str, Any], copies: int = 0
) -> None:
    """Write quality.json, quality.html and rejected.jsonl, also when the gate refuses the data."""
    paths = work.settings.paths
    worst = Worst(tally, admitted.words)

    def refused() -> Iterator[dict[str, Any]]:
        yield from _refused_by_fetch(work.settings)
        for split in SPLITS:
            for table in admitted.tables(split):
                worst.add(split, table)
                yield from quality.refused_rows(split, table.filter(table["reason"].is_valid()))

    figures = quality.figures_of(tally, found, copies)
    figures["ways"] = admitted.ways
    if people:
        figures["people"] = people
    files.write_jsonl(paths.rejected, refused())
    files.write_json(paths.quality, figures)
    files.write_text(
        paths.quality_page,
        page.render(figures, tally.first_refused, tally.refused, worst.kinds(), edits.read_plain(paths.edits), paths),
    )


def _already_prepared(settings: Settings) -> dict[str, Any]:
    """Check, for DATA_MODE=none, that a prepared dataset exists, and leave it unchanged."""
    files.recover_directory(settings.paths.prepared)
    summary = read_summary(settings.paths)
    if "train" not in summary.get("splits", {}):
        raise DataRefused(f"DATA_MODE=none: {settings.paths.prepared} has no training rows")
    console.say(STAGE, f"DATA_MODE=none: using {settings.paths.prepared} as it is")
    return {f"{name}_rows": split["rows"] for name, split in summary["splits"].items()}
