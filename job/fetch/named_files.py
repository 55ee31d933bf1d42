"""Open what TRAIN_JSONL or VALIDATION_JSONL names: a table, shards, both (NeMo's), or any of it in object storage."""

from __future__ import annotations

from pathlib import Path

from job.config.object_storage import address_of, not_read, shards_here
from job.config.settings import Settings
from job.core import storage
from job.core.errors import BadInput
from job.fetch import jsonl, lists, sharded, sheets, tarred_manifests
from job.fetch.table import Table


def open_table(path: Path, variable: str, settings: Settings, stores: sharded.Stores) -> Table:
    """Open the file or the shards of a variable; without a table format's extension it is read as JSONL."""
    if address := address_of(path):
        split = settings.train_split if variable == "TRAIN_JSONL" else None
        where = f"{variable}={address}"
        return sharded.open_address(stores.at(address, where), where, settings, split)
    where = f"{variable}={path}"
    if manifests := _tarred(path):
        return tarred_manifests.open_table(manifests, where)
    if shards := shards_here(path):
        return sharded.open_here(shards, where)
    if path.name.lower().endswith(sharded.PACKED_TARS):
        raise BadInput(f"{where}: {sharded.UNPACK}")
    if (other := not_read(path)) and not path.exists():
        raise BadInput(f"{where}: no such file{other}")
    path = path.expanduser().absolute()
    if path.suffix.lower() in lists.ENDINGS:
        return lists.open_table(path, where)
    if path.suffix.lower() in sheets.ENDINGS or (path.suffix.lower() in (".txt", ".psv") and not _is_jsonl(path)):
        return sheets.open_table(path, where)
    return jsonl.open_table(path, where)


def is_there(path: Path) -> bool:
    """Whether a path names an address, shards or a file, so that it can be opened."""
    return bool(address_of(path) or shards_here(path) or path.expanduser().exists())


def reads(path: Path) -> list[Path]:
    """What is read here: the shards that `path` names, or manifests and their tars, or `path` itself.

    Of a folder all that is in it, since a `metadata.csv` that comes to its shards is read instead of them.
    """
    manifests = tarred_manifests.manifests_in(path) if path.is_dir() else _tarred(path)
    if manifests:
        return [*([path] if path.is_dir() else []), *manifests, *tarred_manifests.tars_of(manifests)]
    return [path] if path.is_dir() else shards_here(path) or [path]


def _tarred(path: Path) -> list[Path]:
    """The manifests of NeMo's tarred data that `path` names; empty if it names something else."""
    named = shards_here(path) or [path.expanduser().absolute()]
    there = [one for one in named if one.is_file()]
    if not there or not tarred_manifests.is_tarred(there[0]):
        return []
    if len(there) < len(named):
        gone = next(one for one in named if one not in there)
        raise BadInput(f"{path}: {gone.name} is missing")
    return named


def _is_jsonl(path: Path) -> bool:
    """Whether a `.txt` file contains JSON objects instead of cells, or cannot be read, which is reported later."""
    try:
        with open(path, "rb") as handle:
            return handle.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[", b"")
    except OSError as error:
        storage.check(error, path)
        return True
