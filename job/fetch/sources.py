"""The registry of data sources, and which one a run reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from job.config import datasets
from job.config.object_storage import address_of, shards_here
from job.config.settings import Settings
from job.config.variables import SOURCE_VARIABLES
from job.core.errors import BadInput
from job.fetch import folder, jsonl, mixing, named_files, sharded
from job.fetch.sharded import folder_copy
from job.fetch.sharded.folder_copy import FolderCopy
from job.fetch.table import Table

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A data source that the settings name.

    Attributes:
        about: what it is, in a phrase.
        tables: opens its splits (`train`, and `validation` if there is one); may need the network.
        parts: opens the sources that are mixed into the training split instead, for a source that is a mix; with
            `True` only those that do not wait.
        files: local files and directories that it reads; when one changes, fetch runs again.
        note: a log line about why it was chosen, when that is not obvious.
        revision: the current revision of a source that is not local; None when it is unknown.
        hub: whether it needs the Hub.
        built_in: whether it is the demo data, which is used when the settings name no data.
        waits: what fetch must do before the tables can be opened, so that they are not checked in minute one; None
            if there is nothing.
    """

    about: str
    tables: Callable[[], dict[str, Table]]
    files: tuple[Path | None, ...] = ()
    note: str | None = None
    revision: Callable[[], str | None] = lambda: None
    hub: bool = False
    built_in: bool = False
    parts: Callable[[bool], list[mixing.Part]] | None = None
    waits: Callable[[], str | None] = lambda: None


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

    def revision() -> str | None:
        found = [(source.hub, _asked(entry, source.revision)) for entry, source in sources]
        return " ".join(one or "?" for hub, one in found if hub or one) if any(one for _, one in found) else None

    return Source(
        f"DATASETS ({', '.join(entry.text for entry in entries)})",
        lambda: _validation(settings),
        (*(path for _, source in sources for path in source.files), settings.validation_jsonl),
        revision=revision,
        hub=any(source.hub for _, source in sources),
        parts=parts,
        waits=waits,
    )


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
        return _read_from(settings, about, partial(_manifests, settings), {"TRAIN_JSONL": train}, unread)
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
    found = _read_from(settings, about, partial(_folder, settings), {"DATA_DIR": settings.data_dir}, unread, stores)
    waits = cache(lambda: folder_copy.waits(FolderCopy(settings, address, stores)) if address else None)
    return replace(found, waits=waits)


def _dataset_name(settings: Settings) -> Source | None:
    """DATASET_NAME."""
    return None if settings.dataset_name is None else _hub(settings, None)


def _built_in(settings: Settings) -> Source:
    """The demo clips, when no data is named."""
    return Source(
        "the built-in demo clips",
        lambda: _demo(settings),
        (settings.validation_jsonl,),
        f"no data is named ({', '.join(SOURCE_VARIABLES)}); using the built-in demo clips",
        built_in=True,
    )


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
    train = named_files.open_table(settings.train_jsonl, "TRAIN_JSONL", settings, stores)
    return {"train": train, **_validation(settings, stores)}


def _validation(settings: Settings, stores: sharded.Stores | None = None) -> dict[str, Table]:
    path, stores = settings.validation_jsonl, stores or sharded.Stores(settings)
    return {} if path is None else {"validation": named_files.open_table(path, "VALIDATION_JSONL", settings, stores)}


def _folder(settings: Settings, stores: sharded.Stores) -> dict[str, Table]:
    address = address_of(settings.data_dir)
    copy = FolderCopy(settings, address, stores) if address else None
    return {**folder.open_tables(settings, copy), **_validation(settings, stores)}


def _read_from(
    settings: Settings,
    about: str,
    tables: Callable[[sharded.Stores], dict[str, Table]],
    values: dict[str, Path | str],
    note: str | None = None,
    stores: sharded.Stores | None = None,
) -> Source:
    """A source of files here or in object storage, and of what VALIDATION_JSONL names; `values` are by variable."""
    validation, asked = settings.validation_jsonl, stores or sharded.Stores(settings)
    named = values if validation is None else {**values, "VALIDATION_JSONL": validation}
    addresses = {name: address for name, value in named.items() if (address := address_of(value))}
    here = [Path(value) for value in named.values() if not address_of(value)]

    @cache
    def revision() -> str | None:
        found = [sharded.revision(asked.at(place, f"{name}={place}")) for name, place in addresses.items()]
        return " ".join(found) or None

    reads = (path for value in here for path in named_files.reads(value))
    on_the_hub = any(address.startswith("hf://") for address in addresses.values())
    return Source(about, lambda: tables(asked), tuple(reads), note, revision, hub=on_the_hub)


def _at_address(settings: Settings, address: str, stores: sharded.Stores) -> dict[str, Table]:
    where = f"DATASET_NAME={address}"
    store = stores.at(address, where)
    found = {"train": sharded.open_address(store, where, settings, settings.train_split)}
    if settings.validation_split is not None and settings.validation_jsonl is None:
        found["validation"] = sharded.open_address(store, where, settings, settings.validation_split)
    return found | _validation(settings, stores)


def _hub(settings: Settings, note: str | None) -> Source:
    if address := address_of(settings.dataset_name):
        opener = partial(_at_address, settings, address)
        return _read_from(settings, f"DATASET_NAME={address}", opener, {"DATASET_NAME": address}, note)

    def tables() -> dict[str, Table]:
        from job.fetch import hub_dataset

        validation = settings.validation_jsonl
        own = _validation(settings) if validation is not None and validation.expanduser().exists() else {}
        if validation is not None and not own and settings.train_jsonl is None:
            _validation(settings)  # raises: it is set but does not exist
        return {**hub_dataset.open_tables(settings, validation=not own), **own}

    def revision() -> str | None:
        from job.fetch import hub_dataset

        return hub_dataset.commit(settings)

    @cache
    def waits() -> str | None:
        from job.fetch import hub_dataset

        return hub_dataset.waits(settings)

    about = f"DATASET_NAME={settings.dataset_name}"
    return Source(about, tables, (settings.validation_jsonl,), note, revision, hub=True, waits=waits)


def _demo(settings: Settings) -> dict[str, Table]:
    from job.demo import clips_directory

    table = jsonl.open_table(Path(clips_directory()) / "metadata.jsonl", "the built-in demo clips")
    return {"train": replace(table, name="demo"), **_validation(settings)}
