"""Which source a run takes its rows from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from job.config.settings import Settings
from job.core.errors import BadInput
from job.fetch import folder, jsonl, lists, sheets
from job.fetch.table import Table


@dataclass(frozen=True)
class Source:
    """A chosen source. `about` says in a phrase what it is, `note` why it was taken when that is not plain.

    `tables` opens its splits (`train`, and `validation` if there is one); this may need the network. `revision` is what
    it is at now, of sources that are not files here.
    """

    about: str
    tables: Callable[[], dict[str, Table]]
    note: str | None = None
    revision: Callable[[], str | None] = lambda: None


def pick(settings: Settings) -> Source:
    """The source: TRAIN_JSONL, else DATA_DIR, else DATASET_NAME, else the built-in clips.

    DATA_MODE=direct takes DATASET_NAME before all others. A TRAIN_JSONL that is not there gives way to DATASET_NAME.

    Raises:
        BadInput: what the variables name is not there, or DATA_MODE=direct has no DATASET_NAME.
    """
    train = settings.train_jsonl
    if settings.data_mode == "direct":
        if settings.dataset_name is None:
            raise BadInput("DATA_MODE=direct streams a Hub dataset: set DATASET_NAME, or use DATA_MODE=jsonl")
        note = f"DATA_MODE=direct: TRAIN_JSONL={train} is not read" if train else None
        return _hub(settings, note)
    if train is not None:
        if train.expanduser().exists() or settings.dataset_name is None:
            return Source(f"TRAIN_JSONL={train}", lambda: _manifests(settings))
        return _hub(settings, f"TRAIN_JSONL={train} is not there; reading DATASET_NAME={settings.dataset_name} instead")
    if settings.data_dir is not None:
        return Source(f"DATA_DIR={settings.data_dir}", lambda: _folder(settings))
    if settings.dataset_name is not None:
        return _hub(settings, None)
    note = "TRAIN_JSONL, DATA_DIR and DATASET_NAME are not set; using the built-in demo clips"
    return Source("the built-in demo clips", lambda: _demo(settings), note)


def _manifests(settings: Settings) -> dict[str, Table]:
    assert settings.train_jsonl is not None
    return {"train": _manifest(settings.train_jsonl, "TRAIN_JSONL"), **_validation(settings)}


def _validation(settings: Settings) -> dict[str, Table]:
    path = settings.validation_jsonl
    return {} if path is None else {"validation": _manifest(path, "VALIDATION_JSONL")}


def _manifest(path: Path, variable: str) -> Table:
    """The file that a variable names; what is not a table by its name is taken as JSONL."""
    where = f"{variable}={path}"
    path = path.expanduser().absolute()
    if path.suffix.lower() in lists.ENDINGS:
        return lists.open_table(path, where)
    if path.suffix.lower() in sheets.ENDINGS or (path.suffix.lower() in (".txt", ".psv") and not _is_jsonl(path)):
        return sheets.open_table(path, where)
    return jsonl.open_table(path, where)


def _is_jsonl(path: Path) -> bool:
    """Whether a file called `.txt` has objects in it instead of cells; or is none, which is said later."""
    try:
        with open(path, "rb") as handle:
            return handle.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[", b"")
    except OSError:
        return True


def _folder(settings: Settings) -> dict[str, Table]:
    tables = {split: folder.open_table(settings, split) for split in ("train", "validation")}
    return {**{split: table for split, table in tables.items() if table is not None}, **_validation(settings)}


def _hub(settings: Settings, note: str | None) -> Source:
    def tables() -> dict[str, Table]:
        from job.fetch import hub_dataset

        validation = settings.validation_jsonl
        own = _validation(settings) if validation is not None and validation.expanduser().exists() else {}
        if validation is not None and not own and settings.train_jsonl is None:
            _validation(settings)  # raises: it was asked for and is not there
        return {**hub_dataset.open_tables(settings, validation=not own), **own}

    def revision() -> str | None:
        from job.fetch import hub_dataset

        return hub_dataset.commit(settings)

    return Source(f"DATASET_NAME={settings.dataset_name}", tables, note, revision)


def _demo(settings: Settings) -> dict[str, Table]:
    from job.demo import clips_directory

    table = jsonl.open_table(Path(clips_directory()) / "metadata.jsonl", "the built-in demo clips")
    return {"train": replace(table, name="demo"), **_validation(settings)}
