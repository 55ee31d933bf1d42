"""What a data source is, and how a file or address that a variable names becomes a part of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from job.config.object_storage import address_of
from job.config.settings import Settings
from job.fetch import mixing, named_files, sharded
from job.fetch.table import Table


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


def place(
    about: str,
    tables: Callable[[], dict[str, Table]],
    named: tuple[str, Path | str],
    note: str | None,
    stores: sharded.Stores,
) -> Source:
    """A source of what one variable names; its revision is asked for once."""
    variable, value = named
    address = address_of(value)
    if address is None:
        return Source(about, tables, tuple(named_files.reads(Path(value))), note)
    revision = cache(lambda: sharded.revision(stores.at(address, f"{variable}={address}")))
    return Source(about, tables, (), note, revision, hub=address.startswith("hf://"))


def with_validation(settings: Settings, source: Source, stores: sharded.Stores | None = None) -> Source:
    """A source, and beside it what VALIDATION_JSONL names: its rows, and what tells that they have changed."""
    path, asked = settings.validation_jsonl, stores or sharded.Stores(settings)
    if path is None:
        return source
    opened = partial(named_files.open_table, path, "VALIDATION_JSONL", settings, asked)
    beside = place("", lambda: {"validation": opened()}, ("VALIDATION_JSONL", path), None, asked)
    return replace(
        source,
        tables=lambda: {**source.tables(), **beside.tables()},
        files=(*source.files, *beside.files),
        revision=lambda: of_all((one.hub, one.revision()) for one in (source, beside)),
        hub=source.hub or beside.hub,
    )


def of_all(found: Iterable[tuple[bool, str | None]]) -> str | None:
    """One revision for several sources, each with whether it is on the Hub; None if there is none, or one is not known:
    as of a single source, the last one then counts."""
    each = list(found)
    known = [one for _, one in each if one]
    return " ".join(known) if known and all(one for hub, one in each if hub) else None
