"""A folder of recordings (DATA_DIR), in the layouts that people have.

Looked for in this order: `metadata.jsonl` (Alexandria, audiofolder), `metadata.csv` (audiofolder, LJSpeech, Coqui),
Parquet files, audio files with a `.txt` of the same name beside each. `ref.wav` and `ref_text.txt` beside them are the
speaker's reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from job import files
from job.errors import BadInput
from job.fetch import jsonl, sheets, store
from job.fetch.table import Row, RowError, Table, Unreadable
from job.settings import Settings

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
_REFERENCES = ("ref.wav", "ref.flac", "ref.mp3", "ref.ogg")
REFERENCES = (*_REFERENCES, *(name.upper() for name in _REFERENCES))
REFERENCE_TEXT = "ref_text.txt"


def open_table(settings: Settings, split: str) -> Table | None:
    """The `train` or `validation` part of DATA_DIR; None when there is no validation part.

    Raises:
        BadInput: DATA_DIR is no folder, has no recordings, or lacks the folder of a split.
    """
    assert settings.data_dir is not None
    root = settings.data_dir.expanduser().absolute()
    where = f"DATA_DIR={settings.data_dir}"
    if not root.exists():
        raise BadInput(f"{where}: no such folder")
    if not root.is_dir():
        raise BadInput(f"{where} is not a folder; a JSONL file goes into TRAIN_JSONL")
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
        root = _split_folder(root, name, where, split)
    elif not any((root / m).is_file() for m in METADATA) and any((root / name / m).is_file() for m in METADATA):
        root = root / name
    return _open(root, where, settings)


def _split_folder(root: Path, name: str, where: str, split: str) -> Path:
    if not (root / name).is_dir():
        variable = "TRAIN_SPLIT" if split == "train" else "VALIDATION_SPLIT"
        raise BadInput(f"{where}: VALIDATION_SPLIT is set and there is no folder {name} in it; {variable} names it")
    return root / name


def _shards(root: Path) -> list[Path]:
    """Parquet files of the folder or its `data` folder, in the order of their names."""
    return sorted(root.glob("*.parquet")) or sorted((root / "data").glob("*.parquet"))


def _open(root: Path, where: str, settings: Settings) -> Table:
    metadata = next((root / name for name in METADATA if (root / name).is_file()), None)
    if metadata is None:
        return _recordings(root, where, settings)
    shown = f"{where} ({metadata.name})"
    opened = (jsonl if metadata.suffix == ".jsonl" else sheets).open_table(metadata, shown)
    folders = list(dict.fromkeys([*opened.folders, *(root / name for name in sheets.AUDIO_FOLDERS)]))
    return replace(_with_reference(opened, root), name=root.name, folders=folders)


def _with_reference(table: Table, root: Path) -> Table:
    """The table with the folder's `ref.wav` and `ref_text.txt` in the rows that name no reference of their own."""
    audio, text = reference_of(root)
    if audio is None:
        return table

    def read() -> Iterator[Row | Unreadable]:
        for row in table.read():
            if isinstance(row, Row) and not row.values.get("ref_audio"):
                row = Row(
                    row.number, {**row.values, "ref_audio": str(audio), "ref_text": row.values.get("ref_text") or text}
                )
            yield row

    columns = [*table.columns, *(name for name in ("ref_audio", "ref_text") if name not in table.columns)]
    return replace(table, read=read, columns=columns)


def reference_of(folder: Path) -> tuple[Path | None, str | None]:
    """A folder's reference recording and its transcript, as far as they are there."""
    audio = next((folder / name for name in REFERENCES if (folder / name).is_file()), None)
    text = folder / REFERENCE_TEXT
    if audio is None or not text.is_file():
        return audio, None
    try:
        return audio, text.read_text(encoding="utf-8-sig").strip() or None
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"{text} cannot be read as UTF-8 text") from None


def _recordings(root: Path, where: str, settings: Settings) -> Table:
    """Audio files with transcripts beside them, in the order of their paths.

    When the recordings lie in several folders below `root` and SPEAKER_NAME is not set, each folder is a speaker;
    with SPEAKER_NAME the folders are chapters of one.
    """
    found = sorted(_audio_files(root))
    if not found:
        jsonls = sorted(p.name for p in root.glob("*.jsonl"))
        more = f"; {jsonls[0]} goes into TRAIN_JSONL" if jsonls else ""
        raise BadInput(f"{where}: no metadata.jsonl, metadata.csv or audio files in it{more}")
    if not any(_text_of(path) for path in found):
        inner = next((p for p in sorted(root.glob("*/metadata.*")) if p.name in METADATA), None)
        more = f"; set DATA_DIR to {inner.parent}, where there is a {inner.name}" if inner else ""
        raise BadInput(f"{where}: none of its {len(found)} recordings has a .txt of its name beside it{more}")
    folders = {_first_folder(root, path) for path in found} - {None}
    speakers = len(folders) > 1 and "speaker_name" not in settings.model_fields_set
    columns = ["audio", "text", "ref_audio", "ref_text", *(["speaker"] if speakers else [])]

    def read() -> Iterator[Row | Unreadable]:
        for number, path in enumerate(found, start=1):
            try:
                audio, text = _nearest_reference(root, path.parent)
                values: dict[str, Any] = {
                    "audio": str(path),
                    "text": transcript(path),
                    "ref_audio": audio,
                    "ref_text": text,
                }
                if speakers:
                    values["speaker"] = _first_folder(root, path)
                values["id"] = str(path.relative_to(root).with_suffix(""))
                yield Row(number, values)
            except RowError as error:
                yield Unreadable(number, error)

    return Table(root.name, where, [*columns, "id"], read, folders=[root], total=len(found))


def transcript(audio: Path) -> str:
    """The contents of the `.txt` beside a recording.

    Raises:
        RowError: there is none, it is not UTF-8, or the recording is of a kind that cannot be read.
    """
    if audio.suffix.lower() in store.UNREADABLE:
        raise RowError(f"{audio.suffix.lower()} files cannot be read", f"{audio.name}; convert them to FLAC or WAV")
    text = _text_of(audio)
    if text is None:
        raise RowError("audio without text", f"{audio.name} has no {audio.stem}.txt beside it")
    try:
        return text.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RowError("text is not UTF-8", f"{text.name}; save it as UTF-8") from None
    except OSError as error:
        raise RowError("text cannot be read", f"{text.name}: {error.strerror}") from None


def _text_of(audio: Path) -> Path | None:
    return next((text for ending in (".txt", ".TXT") if (text := audio.with_suffix(ending)).is_file()), None)


def _audio_files(root: Path) -> Iterator[Path]:
    hidden = (".", "__MACOSX")
    for path in files.tree(root, hidden):
        if path.name.startswith(hidden) or path.name in REFERENCES:
            continue
        if path.suffix.lower() in (*store.READABLE, *store.UNREADABLE) and path.is_file():
            yield path


def _first_folder(root: Path, path: Path) -> str | None:
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _nearest_reference(root: Path, folder: Path) -> tuple[str | None, str | None]:
    """The reference in `folder`, else in the folders above it up to `root`."""
    while True:
        audio, text = reference_of(folder)
        if audio is not None or folder == root:
            return (str(audio) if audio else None), text
        folder = folder.parent
