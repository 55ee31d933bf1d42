"""The fetch stage: read a data source and write the raw manifests.

A source is a JSONL (or CSV, TSV, Parquet) file, a folder, a Hub dataset, or the built-in demo clips. Rows that cannot
be used are rejected with a reason; they do not stop a run as long as usable rows remain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from job.config.paths import Paths
from job.config.settings import Settings
from job.core import console, files, state
from job.core.errors import BadInput
from job.fetch import (
    mixing,
    preview,
    published_voices,
    recordings,
    references,
    sharded,
    sources,
    transcript_store,
    unnamed,
)
from job.fetch.aligning import Aligning
from job.fetch.audio_store import Store
from job.fetch.claims import undisputed
from job.fetch.collect import Collector, reason_of, summarise
from job.fetch.columns import choose
from job.fetch.one_source import Source
from job.fetch.sharded import folder_copy
from job.fetch.table import Table
from job.fetch.transcribe import Transcribing
from job.fetch.transcribed_rows import TranscribedRows

SPLITS = ("train", "validation")


def run(settings: Settings, source: Source | None = None) -> dict[str, Any]:
    """Write the raw manifests, the audio that came as bytes or samples, and the list of rejected rows.

    Args:
        source: the one that `revision` was asked for (`opened`), so that a folder of a bucket is listed once for both;
            None to open it here.

    Returns:
        Counts for the state file: rows per split, rejected rows and named speakers; and the source.

    Raises:
        BadInput: the source does not exist or is not accessible, a column is missing, the references of a speaker
            differ, or no row of a split can be used.
    """
    if settings.data_mode == "none":
        note = "DATA_MODE=none: nothing to fetch; the prepared data in WORK_DIR is used"
        console.say("fetch", note)
        return {"train": 0, "validation": 0, "rejected": 0, "note": note}
    references.check_variables(settings)
    source = source or sources.pick(settings)
    at = source.revision()
    if source.note:
        console.say("fetch", source.note)
    console.say("fetch", f"reading {source.about}")
    paths = settings.paths
    store = Store(paths.raw / "audio")
    transcribing, transcribed = Transcribing(settings, store), TranscribedRows()
    aligning = Aligning(settings, store, lambda: transcribing.kept)
    opened = source.tables()
    given = list(opened.values())
    tables = {split: aligning.table(transcribing.table(table)) for split, table in opened.items()}
    if source.parts is not None:
        mixed = source.parts(False)
        given += [one.table for one in mixed]
        parts = [replace(one, table=aligning.table(transcribing.table(one.table))) for one in mixed]
        tables = {"train": mixing.mix(parts, settings, store), **tables}
        settings = mixing.without_columns(settings)
    named = unnamed.Named()
    for split, table in tables.items():  # a misnamed column is found before any audio is downloaded
        tables[split] = named.gathered(table, choose(table, settings))
    collector = Collector(settings, store)
    counts: dict[str, Any] = dict.fromkeys(SPLITS, 0)
    replaces = partial(state.begin, paths.state, "fetch")
    for split in SPLITS:
        if split in tables:
            rows = transcribed.counted(collector.rows(split, tables[split]))
            counts[split] = files.write_jsonl(paths.manifest(split), _then(rows, replaces))
        else:
            replaces()
            paths.manifest(split).unlink(missing_ok=True)  # from an earlier run
    aligning.close()
    counts = _drop_disputed(collector, counts, paths)
    files.write_jsonl(paths.fetch_rejected, collector.rejected)
    store.prune()
    voices = published_voices.keep(given, paths.published_voices)
    sharded.prune(settings, {name for table in given for name in table.copies})
    folder_copy.prune(settings)
    rejected = len(collector.rejected)
    console.say(
        "fetch",
        f"{counts['train']} training and {counts['validation']} validation rows, {rejected} left out"
        + (f" (see {paths.fetch_rejected})" if rejected else ""),
    )
    if (root := _whole_folder(tables, settings)) and (line := _left_unnamed(named, root)):
        console.say("fetch", line)
    for line in transcribed.lines(paths.transcripts):
        console.say("fetch", line)
    preview.show(paths.manifest("train"), counts["train"], settings)
    counts = {**counts, "rejected": rejected, "speakers": len(collector.speakers)}
    if (written := transcript_store.digest(paths)) is not None:
        counts |= {"transcribed": transcribed.count, "transcripts": written}
    if voices is not None:
        counts |= {"voices": voices}
    return {**counts, "source": source.about, **({"revision": at} if at else {})}


def _whole_folder(tables: dict[str, Table], settings: Settings) -> Path | None:
    """Return the folder all of whose recordings the tables should name; None if there is none, or rows are limited."""
    limited = settings.max_hours is not None or settings.max_train_samples or settings.max_eval_samples
    trees = {table.tree for table in tables.values()}
    return None if limited or len(trees) > 1 else next(iter(trees))


def _left_unnamed(named: unnamed.Named, root: Path) -> str | None:
    """Describe the recordings that no row names; None where tables of other splits may name them, or none can tell."""
    try:
        if any(unnamed.in_another_split(path) for path in root.iterdir()):
            return None
        return named.without(recordings.list_files(root, strict=False)[0], root)
    except OSError:  # all rows are written: this is no reason to lose them
        return None


def _then(rows: Iterable[dict[str, Any]], do: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yield rows, and `do` something after the last: just before what is written of them is put in place."""
    yield from rows
    do()


def _drop_disputed(collector: Collector, counts: dict[str, int], paths: Paths) -> dict[str, int]:
    """Remove from the manifests the rows whose recording has a different text in another row; return the new counts.

    Raises:
        BadInput: no training row remains.
    """
    if not collector.claims.disputed():
        return counts
    left = dict(counts)
    for split in SPLITS:
        before = len(collector.rejected)
        if counts[split]:
            rows = files.read_jsonl(paths.manifest(split))
            kept = undisputed(rows, collector.claims, partial(collector.withdraw, split))
            left[split] = files.write_jsonl(paths.manifest(split), kept)
        rejected = collector.rejected[before:]
        if rejected:
            summarise(split, rejected[0]["source"], rejected)
        if rejected and split == "train" and not left["train"]:
            raise BadInput(
                f"{rejected[0]['source']} row {rejected[0]['row']}: {reason_of(rejected[0])}; so with all rows"
            )
    return left


def revision(settings: Settings, source: Source | None) -> str | None:
    """The revision of a source that is not local, such as a Hub dataset's commit; the one of the last run if it cannot
    be asked for, None where there is none."""
    try:
        now = source.revision() if source else None
    except BadInput:  # reported by `run`
        now = None
    return now or (state.read(settings.paths.state, "fetch") or {}).get("counts", {}).get("revision")


def is_named(settings: Settings) -> bool:
    """Whether the settings name data, so that the built-in clips are not used."""
    source = opened(settings)
    return source is None or not source.built_in


def needs_the_hub(settings: Settings) -> str | None:
    """A phrase for what is read from the Hub; None for local data."""
    source = opened(settings)
    return source.about if source and source.hub else None


def opened(settings: Settings) -> Source | None:
    """The source; None when nothing is fetched or the settings contradict each other, which `run` reports."""
    try:
        return None if settings.data_mode == "none" else sources.pick(settings)
    except BadInput:
        return None


def arrived(paths: Paths) -> Path | None:
    """Return a file that was missing or empty in the last run, for a rejected row, and now has contents; else None.

    The transcripts are such a file as well if a person has changed or deleted them.
    """
    written = (state.read(paths.state, "fetch") or {}).get("counts", {}).get("transcripts")
    if written is not None and written != transcript_store.digest(paths):
        return paths.transcripts
    if not paths.fetch_rejected.is_file():
        return None
    wanted = (Path(name) for row in files.read_jsonl(paths.fetch_rejected) for name in row.get("looked_for") or ())
    return next((path for path in wanted if _has_contents(path)), None)


def _has_contents(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except (OSError, ValueError):
        return False


def check(settings: Settings, source: Source | None = None) -> str:
    """Check the source without fetching it: that it exists, has the columns, and its first audio can be read.

    For a Hub dataset, only the description and the columns are read, no audio; of one with a loading script that has
    not run yet, not even these.

    Args:
        source: as in `run`.

    Returns:
        One line that describes the source.

    Raises:
        BadInput: as in `run`, as far as the first rows show it.
    """
    if settings.data_mode == "none":
        prepared = settings.paths.prepared / "summary.json"
        if not prepared.is_file():
            raise BadInput(f"DATA_MODE=none needs prepared data, and {prepared} is not there; set DATA_MODE=jsonl")
        return "DATA_MODE=none: prepared data is there"
    references.check_variables(settings)
    source = source or sources.pick(settings)
    parts = []
    transcribing = Transcribing(settings, Store(None))
    aligning = Aligning(settings, Store(None), lambda: transcribing.kept)
    mixed = [("train", one.table) for one in source.parts(True)] if source.parts is not None else []
    waiting = source.waits()
    alone = {} if waiting and source.parts is None else source.tables()
    for split, given in (*mixed, *alone.items()):
        table = transcribing.assumed(given)
        columns = choose(table, settings)
        aligning.check(table)
        if table.remote is None:
            Collector(settings, Store(None)).first_good(table)
        rows = f"{table.total} {split} rows" if table.total is not None else f"{split} rows"
        audio = (columns.by_field["audio"] or columns.by_field["audio_codes"])[0]
        parts.append(f"{rows} (text in {columns.by_field['text'][0]}, audio in {audio})")
    return f"{source.about}: {', '.join([*parts, *([waiting] if waiting else [])])}"
