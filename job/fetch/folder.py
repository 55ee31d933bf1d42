"""Read a folder of recordings (DATA_DIR) in any of the common layouts.

Looked for in this order: `metadata.jsonl` (Alexandria, audiofolder), `metadata.csv` (audiofolder, LJSpeech, Coqui),
Parquet files, a Kaldi data directory, audio files with a transcript next to each (see `job.fetch.sidecars`), and a
single table of any name that lists the audio files. `ref.wav` and `ref_text.txt` next to them are the speaker's
reference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from job.config.object_storage import not_read
from job.config.settings import Settings
from job.core import console
from job.core.errors import BadInput
from job.fetch import elsewhere, jsonl, kaldi, packed, recordings, sharded, sheets, tables, tarred_manifests
from job.fetch.columns import OR_TRANSCRIBE
from job.fetch.listing import METADATA, Names
from job.fetch.references import reference_of
from job.fetch.sharded.folder_copy import FolderCopy
from job.fetch.table import Row, Table, Unreadable


def open_tables(settings: Settings, copy: FolderCopy | None = None) -> dict[str, Table]:
    """Open the splits of DATA_DIR, `train` and, if there is one, `validation`.

    Args:
        copy: of DATA_DIR, where that is in object storage; it is fetched before.

    Raises:
        BadInput: DATA_DIR is not a folder, has no recordings, or lacks the folder of a split.
        Unreachable: the object storage cannot be reached.
    """
    assert settings.data_dir is not None
    names = {"train": settings.train_split, "validation": settings.validation_split}
    if copy is not None:
        if copy.has_shards:
            given = {split: name for split, name in names.items() if name is not None}
            return {
                split: sharded.open_address(copy.store, copy.where, settings, name) for split, name in given.items()
            }
        root, where = copy.fetch(), copy.where
    else:
        root, where = settings.data_dir.expanduser().absolute(), f"DATA_DIR={settings.data_dir}"
    of_tars: set[Path] = set()
    found = {split: _open_split(settings, split, root, where, of_tars) for split in names}
    packed.warn(root, of_tars)
    below = root if copy else None  # whoever wrote a table there does not decide what is read here
    return {split: replace(table, below=below) for split, table in found.items() if table is not None}


def _open_split(settings: Settings, split: str, root: Path, where: str, of_tars: set[Path]) -> Table | None:
    """Open the `train` or `validation` split of the folder; None if there is no validation split.

    Args:
        of_tars: the folders whose tars are read; the split's is added.
    """
    if not root.exists():
        raise BadInput(f"{where}: no such folder{not_read(settings.data_dir or root)}")
    if not root.is_dir():
        raise BadInput(f"{where} is not a folder; a JSONL file goes into TRAIN_JSONL")
    os.scandir(root).close()  # a folder that can only be entered would never show what has changed in it
    shards = _shards(root)
    name = settings.train_split if split == "train" else settings.validation_split
    if name is None:
        return None
    mine = [p for p in shards if p.name.startswith((f"{name}-", f"{name}."))]
    if shards and not any((root / m).is_file() for m in METADATA):
        if not mine and (split == "validation" or settings.validation_split):
            raise BadInput(f"{where}: no Parquet file of the split {name} (its name would begin with {name}-)")
        return replace(sheets.open_parquet(mine or shards, where), name=root.name)
    if settings.validation_split is not None:
        if not (root / name).is_dir():
            found, _ = recordings.list_files(root)
            table = tables.only_one(root, where, Names(iter(found)), settings, name, strict=True)
            if table is not None:
                return _completed(table, root)
        root = _split_folder(root, name, where, split)
    elif not _is_described(root) and _is_described(root / name):
        others = sorted(inner.name for inner in root.iterdir() if inner.name != name and _may_be_described(inner))
        if others:
            console.say("fetch", f"{name} is read; {_left(others)}")
        root = root / name
    if (archives := sorted(root.glob("*.tar"))) and not _is_described(root):
        of_tars.add(root)
        if manifests := tarred_manifests.manifests_in(root, settings.train_split):
            return replace(tarred_manifests.open_table(manifests, where), name=root.name)
        packed.warn_beside_tars(root)
        return replace(sharded.open_tars(archives, where), name=root.name)
    return _open(root, where, settings)


def _is_described(folder: Path) -> bool:
    return any((folder / name).is_file() for name in METADATA) or kaldi.is_data_directory(folder)


def _may_be_described(folder: Path) -> bool:
    try:
        return _is_described(folder)
    except OSError:  # this process may not enter it, as `lost+found`
        return False


def _split_folder(root: Path, name: str, where: str, split: str) -> Path:
    if not (root / name).is_dir():
        variable = "TRAIN_SPLIT" if split == "train" else "VALIDATION_SPLIT"
        raise BadInput(f"{where}: VALIDATION_SPLIT is set and there is no folder {name} in it; {variable} names it")
    return root / name


def _shards(root: Path) -> list[Path]:
    """Return the Parquet files in the folder, or else in its `data` folder, sorted by name."""
    return sorted(root.glob("*.parquet")) or sorted((root / "data").glob("*.parquet"))


def _open(root: Path, where: str, settings: Settings) -> Table:
    metadata = next((root / name for name in METADATA if (root / name).is_file()), None)
    if metadata is not None:
        shown = f"{where} ({metadata.name})"
        return _completed((jsonl if metadata.suffix == ".jsonl" else sheets).open_table(metadata, shown), root)
    if kaldi.is_data_directory(root):
        return _with_reference(kaldi.open_table(root, where, settings), root)
    found, others = recordings.list_files(root)
    if not found:
        jsonls = sorted(p.name for p in root.glob("*.json*") if p.suffix == ".jsonl" or tables.is_manifest(p))
        more = f"; {jsonls[0]} goes into TRAIN_JSONL" if jsonls else ""
        tars = [path.name for path in sorted(root.iterdir()) if path.name.lower().endswith(sharded.PACKED_TARS)]
        if tars:
            more = f"; {tars[0]}: {sharded.UNPACK}"
        elif left := [one for one in (packed.works_own(root), packed.unread(root)) if one is not None]:
            more = f"; not read: {'; '.join(left)}"
        raise BadInput(f"{where}: no metadata.jsonl, metadata.csv or audio files in it{more}")
    beside = recordings.Recordings(root, found, others, settings)
    if 2 * beside.with_text < len(found):
        table = tables.only_one(root, where, Names(iter(found)), settings, settings.train_split)
        if table is not None:
            return _completed(table, root)
    inner = next((p for p in sorted(root.glob("*/metadata.*")) if p.name in METADATA), None)
    if 10 * beside.with_text < len(found) and settings.transcribe != "always":
        told = inner is not None and not beside.with_text  # below
        # A spreadsheet beside a few texts may be of anything.
        unread = None if beside.with_text else tables.unread(root, found, settings)
        unread = unread or elsewhere.nearly_beside(root, found)
        unread = unread or (None if told else elsewhere.with_words(root, found))
        if unread is not None:
            raise BadInput(f"{where}: {unread}{OR_TRANSCRIBE}")
    if not beside.can_be_read or (not beside.with_text and inner and settings.transcribe != "always"):
        more = f"; set DATA_DIR to {inner.parent}, where there is a {inner.name}" if inner else ""
        raise BadInput(
            f"{where}: no table in it (metadata.csv, a .list, .tsv or .txt) names its audio files, and "
            f"none of its {len(found)} recordings has a .txt of its name beside it{beside.not_read()}{more}"
            + ("; TRANSCRIBE=auto transcribes them" if settings.transcribe == "never" else "")
        )
    splits = _other_splits(root, settings.train_split, found)
    if splits and settings.validation_split is None:
        console.say("fetch", f"{settings.train_split} is read; {_left(splits)}")
        return _open(root / settings.train_split, where, settings)
    return beside.table(where)


def _left(splits: list[str]) -> str:
    return f"not read: {', '.join(splits)} (VALIDATION_SPLIT names one to validate on)"


def _other_splits(root: Path, name: str, found: list[Path]) -> list[str]:
    """Return the folders of a corpus's other splits if all its recordings are in folders of splits; else nothing."""
    folders = {path.relative_to(root).parts[0] if path.parent != root else "" for path in found}
    others = sorted(folders - {name})
    splits = name in folders and all(tables.OTHER_PARTS & set(tables.words_of(folder)) for folder in others)
    return others if splits else []


def _completed(table: Table, root: Path) -> Table:
    """Add to a table of the folder `root` the folders where its audio may be, and the folder's reference."""
    folders = list(dict.fromkeys([root, *table.folders, *(root / name for name in sheets.AUDIO_FOLDERS)]))
    return replace(_with_reference(table, root), name=root.name, folders=folders, tree=root)


def _with_reference(table: Table, root: Path) -> Table:
    """Add the folder's `ref.wav` and `ref_text.txt` to the rows that have no reference."""
    audio, text = reference_of(root)
    if audio is None:
        return table

    def read() -> Iterator[Row | Unreadable]:
        for row in table.read():
            if isinstance(row, Row) and not row.values.get("ref_audio"):
                row = Row(
                    row.number,
                    {**row.values, "ref_audio": str(audio), "ref_text": row.values.get("ref_text") or text},
                    row.source,
                )
            yield row

    columns = [*table.columns, *(name for name in ("ref_audio", "ref_text") if name not in table.columns)]
    return replace(table, read=read, columns=columns)
