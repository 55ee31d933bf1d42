"""The registry of data sources, and which one a run reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from job.config import datasets
from job.config.object_storage import address_of, shards_here
from job.config.settings import Settings
from job.config.variables import SOURCE_VARIABLES
from job.core.errors import BadInput
from job.fetch import folder, jsonl, mixing, named_files, one_source, sharded
from job.fetch.one_source import Source
from job.fetch.sharded import folder_copy
from job.fetch.sharded.folder_copy import FolderCopy
from job.fetch.table import Table

T = TypeVar("T")


def pick(settings: Settings) -> Source:
    """The data source that the settings name: the first match in `SOURCES`.

    Raises:
        BadInput: DATA_MODE=direct without DATASET_NAME.
    """
    return next(source for offer in SOURCES if (source := offer(settings)) is not None)


def _datasets(settings: Settings) -> Source | None:
    """DATASETS: several of the sources below, mixed."""
    if settings.datasets is None:
        return None
    others = [name for name in SOURCE_VARIABLES if name != "DATASETS" and getattr(settings, name.lower()) is not None]
    if others:
        raise BadInput(f"DATASETS and {others[0]} are both set; unset one, or make the latter's value one of DATASETS")
    if settings.validation_split is not None:
        raise BadInput("VALIDATION_SPLIT: not with DATASETS; set VALIDATION_JSONL or VALIDATION_FRACTION")
    entries = datasets.parse(settings.datasets)
    each = [(entry, _alone(settings, entry)) for entry in entries]
    sources = [(entry, pick(alone)) for entry, alone in each]

    def parts(ready: bool) -> list[mixing.Part]:
        opened = [(entry, source) for entry, source in sources if not (ready and _asked(entry, source.waits))]
        return mixing.named_apart(
            [mixing.Part(_asked(entry, source.tables)["train"], entry) for entry, source in opened]
        )

    def waits() -> str | None:
        waiting = [f"{entry.text}: {phrase}" for entry, source in sources if (phrase := _asked(entry, source.waits))]
        return "; ".join(waiting) or None

    found = Source(
        f"DATASETS ({', '.join(entry.text for entry in entries)})",
        dict,
        tuple(path for _, source in sources for path in source.files),
        revision=lambda: one_source.of_all((source.hub, _asked(entry, source.revision)) for entry, source in sources),
        hub=any(source.hub for _, source in sources),
        parts=parts,
        waits=waits,
    )
    return one_source.with_validation(settings, found)


def _alone(settings: Settings, entry: datasets.Entry) -> Settings:
    """Return the settings with which an entry of DATASETS would be the only source."""
    path = entry.path
    there = folder_copy.folder_in_storage(entry.name)
    named = {
        "dataset_name": None if there else entry.name,
        "dataset_config": entry.config,
        "dataset_revision": entry.revision,
        "data_dir": there or (path if path is not None and path.is_dir() else None),
        "train_jsonl": path if path is not None and not path.is_dir() else None,
        "train_split": entry.split or settings.train_split,
        "max_hours": entry.hours or settings.max_hours,
        "max_train_samples": entry.rows or settings.max_train_samples,
    }
    alone = {"datasets": None, "validation_split": None, "validation_jsonl": None}
    mode = settings.data_mode if entry.name and not there else "jsonl"
    return settings.model_copy(update={**named, **alone, "data_mode": mode})


def _asked(entry: datasets.Entry, question: Callable[[], T]) -> T:
    """Ask the source of an entry of DATASETS.

    Raises:
        BadInput: it cannot be opened; the message names the entry.
    """
    try:
        return question()
    except BadInput as error:
        raise type(error)(f"DATASETS: {entry.text}: {error}") from None


def _direct(settings: Settings) -> Source | None:
    """DATA_MODE=direct: DATASET_NAME, whatever else is set."""
    if settings.data_mode != "direct":
        return None
    if settings.dataset_name is None:
        raise BadInput("DATA_MODE=direct streams a Hub dataset: set DATASET_NAME, or use DATA_MODE=jsonl")
    train = settings.train_jsonl
    return _hub(settings, f"DATA_MODE=direct: TRAIN_JSONL={train} is not read" if train else None)


def _train_jsonl(settings: Settings) -> Source | None:
    """TRAIN_JSONL; if that file does not exist, DATASET_NAME."""
    train = settings.train_jsonl
    if train is None:
        return None
    address = address_of(train)
    shards = address or shards_here(train)
    if shards or train.expanduser().exists() or settings.dataset_name is None:
        unread = _unread(settings, "TRAIN_JSONL", "DATA_DIR", "DATASET_NAME")
        if not shards:  # their names say which split they are of
            unread = _joined(unread, _unread_splits(settings))
        about = f"TRAIN_JSONL={address or train}"
        return _read_from(settings, about, partial(_manifests, settings), ("TRAIN_JSONL", train), unread)
    note = f"TRAIN_JSONL={train} does not exist; reading DATASET_NAME={settings.dataset_name} instead"
    return _hub(settings, note)


def _unread(settings: Settings, used: str, *others: str) -> str | None:
    """A note that variables which name data too are not read."""
    values = {name: getattr(settings, name.lower()) for name in others}
    named = [f"{name}={value}" for name, value in values.items() if value is not None]
    return f"{' and '.join(named)}: not read, since {used} is set; DATASETS reads several" if named else None


def _unread_splits(settings: Settings) -> str | None:
    """A note that splits are named and TRAIN_JSONL, which is one, is read."""
    given = [name for name in ("train_split", "validation_split") if name in settings.model_fields_set]
    named = [f"{name.upper()}={value}" for name in given if (value := getattr(settings, name)) is not None]
    todo = "VALIDATION_JSONL names rows to validate on"
    return f"{' and '.join(named)}: not read, since TRAIN_JSONL has no splits; {todo}" if named else None


def _joined(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note) or None


def _data_dir(settings: Settings) -> Source | None:
    """DATA_DIR."""
    if settings.data_dir is None:
        return None
    unread = _unread(settings, "DATA_DIR", "DATASET_NAME")
    address, stores = address_of(settings.data_dir), sharded.Stores(settings)
    about = f"DATA_DIR={address or settings.data_dir}"
    found = _read_from(settings, about, partial(_folder, settings), ("DATA_DIR", settings.data_dir), unread, stores)
    waits = cache(lambda: folder_copy.waits(FolderCopy(settings, address, stores)) if address else None)
    return replace(found, waits=waits)


def _dataset_name(settings: Settings) -> Source | None:
    """DATASET_NAME."""
    return None if settings.dataset_name is None else _hub(settings, None)


def _built_in(settings: Settings) -> Source:
    """The demo clips, when no data is named."""
    note = f"no data is named ({', '.join(SOURCE_VARIABLES)}); using the built-in demo clips"
    return one_source.with_validation(settings, Source("the built-in demo clips", _demo, note=note, built_in=True))


#: All data sources, in order of precedence: each returns a `Source` if the settings name it, else None. To add one,
#: write its `Table` in a file of its own, and add a line here (and its variable to `job.config.variables`).
SOURCES: tuple[Callable[[Settings], Source | None], ...] = (
    _datasets,
    _direct,
    _train_jsonl,
    _data_dir,
    _dataset_name,
    _built_in,
)


def _manifests(settings: Settings, stores: sharded.Stores) -> dict[str, Table]:
    assert settings.train_jsonl is not None
    return {"train": named_files.open_table(settings.train_jsonl, "TRAIN_JSONL", settings, stores)}


def _folder(settings: Settings, stores: sharded.Stores) -> dict[str, Table]:
    address = address_of(settings.data_dir)
    return folder.open_tables(settings, FolderCopy(settings, address, stores) if address else None)


def _read_from(
    settings: Settings,
    about: str,
    tables: Callable[[sharded.Stores], dict[str, Table]],
    named: tuple[str, Path | str],
    note: str | None = None,
    stores: sharded.Stores | None = None,
) -> Source:
    """A source of files here or in object storage, and of what VALIDATION_JSONL names.

    Args:
        named: a variable and its value.
    """
    asked = stores or sharded.Stores(settings)
    return one_source.with_validation(
        settings, one_source.place(about, lambda: tables(asked), named, note, asked), asked
    )


def _at_address(settings: Settings, address: str, stores: sharded.Stores) -> dict[str, Table]:
    where = f"DATASET_NAME={address}"
    store = stores.at(address, where)
    found = {"train": sharded.open_address(store, where, settings, settings.train_split)}
    if settings.validation_split is not None and settings.validation_jsonl is None:
        found["validation"] = sharded.open_address(store, where, settings, settings.validation_split)
    return found


def _hub(settings: Settings, note: str | None) -> Source:
    if address := address_of(settings.dataset_name):
        opener = partial(_at_address, settings, address)
        return _read_from(settings, f"DATASET_NAME={address}", opener, ("DATASET_NAME", address), note)
    if (
        settings.train_jsonl is not None
        and settings.validation_jsonl
        and not named_files.is_there(settings.validation_jsonl)
    ):
        settings = settings.model_copy(update={"validation_jsonl": None})  # neither is there: the dataset has both

    def tables() -> dict[str, Table]:
        from job.fetch import hub_dataset

        return hub_dataset.open_tables(settings, validation=settings.validation_jsonl is None)

    def revision() -> str | None:
        from job.fetch import hub_dataset

        return hub_dataset.commit(settings)

    @cache
    def waits() -> str | None:
        from job.fetch import hub_dataset

        return hub_dataset.waits(settings)

    about = f"DATASET_NAME={settings.dataset_name}"
    return one_source.with_validation(settings, Source(about, tables, (), note, revision, hub=True, waits=waits))


def _demo() -> dict[str, Table]:
    from job.demo import clips_directory

    table = jsonl.open_table(Path(clips_directory()) / "metadata.jsonl", "the built-in demo clips")
    return {"train": replace(table, name="demo")}
