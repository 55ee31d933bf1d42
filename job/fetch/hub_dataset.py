"""Read a Hub dataset by name.

Tables are read in Arrow format: this returns the bytes of the audio files as uploaded, without decoding or re-encoding,
which `datasets` can do only with torchcodec.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from job.config.settings import Settings
from job.core import console
from job.core.errors import BadInput
from job.dataset.prepared import VECTORS
from job.fetch.columns import choose
from job.fetch.hub_errors import Explained, about_script
from job.fetch.scripted.conversion import Scripted, script_of
from job.fetch.table import Row, RowError, Table, Unreadable

#: Timeout in seconds for asking the Hub for a commit.
INFO_SECONDS = 30.0
#: Rows per Arrow batch: the audio of that many rows is held in memory.
BATCH_ROWS = 16


def open_tables(settings: Settings, validation: bool = True) -> dict[str, Table]:
    """Open the splits that TRAIN_SPLIT and VALIDATION_SPLIT name; columns are read, but no audio is downloaded yet.

    `validation=False` ignores VALIDATION_SPLIT.

    Raises:
        BadInput: the dataset, its configuration or a split does not exist, access is denied, the Hub cannot be reached,
            or the dataset is a script that may not be run, or fails.
    """
    return HubDataset(settings).tables(validation)


def waits(settings: Settings) -> str | None:
    """What fetch must do before the columns can be known: run a loading script, once. None if there is nothing.

    Raises:
        BadInput: as `open_tables`; or the script may not be run, or cannot be here.
    """
    if not settings.dataset_trust_remote_code:
        return None
    _check_name(str(settings.dataset_name), f"DATASET_NAME={settings.dataset_name}")
    with Explained(settings):
        commit, listing = _at(settings)
        scripted = _scripted(settings, commit, listing)
        return scripted.check() if scripted and scripted.splits() is None else None


def commit(settings: Settings) -> str | None:
    """Return the commit of DATASET_NAME that DATASET_REVISION points to; None if the Hub does not answer."""
    try:
        return _at(settings)[0]
    except Exception:  # reported when the dataset is read, if it is read at all
        return None


def _at(settings: Settings) -> tuple[str | None, list[str]]:
    """The commit, and the names of its files; only what DATASET_REVISION says when the clients are offline."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return settings.dataset_revision, []
    info = HfApi().dataset_info(
        str(settings.dataset_name), revision=settings.dataset_revision, token=settings.token, timeout=INFO_SECONDS
    )
    return info.sha or settings.dataset_revision, [one.rfilename for one in info.siblings or ()]


def _scripted(settings: Settings, commit: str | None, listing: list[str]) -> Scripted | None:
    """The dataset as one with a loading script; None if it has none.

    Raises:
        BadInput: it has one, and DATASET_TRUST_REMOTE_CODE is off.
    """
    if commit is None or script_of(str(settings.dataset_name), listing) is None:
        return None
    if not settings.dataset_trust_remote_code:
        raise BadInput(about_script(settings, f"DATASET_NAME={settings.dataset_name}"))
    return Scripted(settings, commit, tuple(listing))


class HubDataset:
    """One dataset on the Hub, through the `datasets` client."""

    def __init__(self, settings: Settings) -> None:
        assert settings.dataset_name is not None
        self.settings = settings
        self.name = settings.dataset_name
        self.where = f"DATASET_NAME={self.name}"
        _check_name(self.name, self.where)
        quiet()
        import datasets

        with Explained(settings):
            # Pin one commit for the whole fetch, even if another one is pushed meanwhile.
            self.commit, listing = _at(settings)
            self.has_vectors = VECTORS in listing
            scripted = _scripted(settings, self.commit, listing)
            self.converted = scripted is not None
            if scripted is not None:
                self.builder = datasets.load_dataset_builder("parquet", data_files=_literal(scripted.convert()))
            else:
                self.builder = datasets.load_dataset_builder(
                    self.name, settings.dataset_config, revision=self.commit, token=settings.token
                )
            self.streams = self.builder.as_streaming_dataset()

    def tables(self, validation: bool) -> dict[str, Table]:
        """See `open_tables`."""
        tables = {"train": self.table(self.settings.train_split, "TRAIN_SPLIT")}
        if validation and self.settings.validation_split is not None:
            tables["validation"] = self.table(self.settings.validation_split, "VALIDATION_SPLIT")
        return tables

    def table(self, split: str, variable: str) -> Table:
        """Open one split as a table. `variable` is the setting that named it."""
        base = re.split(r"[\[+]", split)[0].strip()  # the split's name in train[:10%] or train+other
        if base not in self.streams:
            raise BadInput(f"{variable}={split}: {self.name} has no such split; it has {', '.join(self.streams)}")
        stream = self.streams[base]
        with Explained(self.settings):
            features = stream.features
            columns = list(features) if features else _columns_of_first_row(stream)
        import datasets

        bounded = variable == "TRAIN_SPLIT" and (self.settings.max_train_samples or self.settings.max_hours)
        bounded = bounded or (variable == "VALIDATION_SPLIT" and self.settings.max_eval_samples)
        sliced = split != base
        # Builders that yield single examples (audiofolder, webdataset) encode audio with torchcodec when they write
        # their cache; when streamed, they return the contents of the files unchanged.
        single = isinstance(self.builder, datasets.GeneratorBasedBuilder)
        if sliced and single:
            raise BadInput(f"{variable}={split}: this dataset can only be streamed; name a whole split")
        whole = sliced or not (self.settings.data_mode == "direct" or bounded or single or self.converted)
        names = {c: f.names for c, f in (features or {}).items() if isinstance(f, datasets.ClassLabel)}
        audio = [c for c, f in (features or {}).items() if isinstance(f, datasets.Audio)]
        declared = self.builder.info.splits or {}
        total = declared[base].num_examples if base in declared and not sliced else None

        def read() -> Iterator[Row | Unreadable]:
            wanted = [c for c in choose(opened, self.settings).used if c in columns]
            with Explained(self.settings):
                rows = self._whole(split) if whole else stream
                for number, values in enumerate(_rows(rows.select_columns(wanted)), start=1):
                    for column, labels in names.items():
                        if isinstance(values.get(column), int):
                            values[column] = labels[values[column]] if values[column] >= 0 else None
                    yield Row(number, values)

        opened = Table(
            name=self.name,
            where=f"{self.where} split {split}",
            columns=columns,
            read=read,
            remote=self._opener(),
            audio_types=audio,
            total=total or None,
            voices=self._voices,
        )
        return opened

    def _whole(self, split: str) -> Any:
        console.say("fetch", f"downloading {self.name} ({split})")
        self.builder.download_and_prepare()
        return self.builder.as_dataset(split=split)

    def _voices(self) -> Path | None:
        from huggingface_hub import hf_hub_download

        if not self.has_vectors:
            return None
        with Explained(self.settings):
            token = self.settings.token
            return Path(hf_hub_download(self.name, VECTORS, repo_type="dataset", revision=self.commit, token=token))

    def _opener(self) -> Callable[[str], bytes | Path]:
        """Return a function that gets a file of the dataset by the path given in a row."""
        listing: list[str] = []

        def get(path: str) -> bytes | Path:
            from huggingface_hub.errors import EntryNotFoundError

            with Explained(self.settings):
                try:
                    return fetch(path)
                except (EntryNotFoundError, FileNotFoundError):
                    raise RowError("audio is missing", f"{path[:200]!r} is not in the dataset's repo") from None

        def fetch(path: str) -> bytes | Path:
            from huggingface_hub import HfApi, hf_hub_download

            revision = self.commit or self.settings.dataset_revision
            if "::" in path:
                return self._read_in_archive(path)
            inside = re.match(r"hf://datasets/[^/]+(?:/[^/@]+)?(?:@(?P<revision>[^/]+))?/(?P<path>.+)", path)
            if inside:
                path, revision = inside["path"], inside["revision"] or revision
            else:
                if not listing:
                    listing.extend(
                        HfApi().list_repo_files(
                            self.name, repo_type="dataset", revision=revision, token=self.settings.token
                        )
                    )
                path = _match(path, listing)
            return Path(
                hf_hub_download(self.name, path, repo_type="dataset", revision=revision, token=self.settings.token)
            )

        return get

    def _read_in_archive(self, path: str) -> bytes:
        """Read a file in an archive of this repo, by its `datasets` path.

        Such a path is `zip://a.wav::hf://datasets/owner/name@…/a.zip`.
        """
        import fsspec

        # Rows are untrusted: no other repo, address or local file may be opened with the user's token.
        if not re.fullmatch(rf"\w+://[^:]*::hf://datasets/{re.escape(self.name)}[@/][^:]*", path):
            raise RowError("audio is missing", f"{path[:200]!r} is not in the dataset's repo")
        with fsspec.open(path, "rb", hf={"token": self.settings.token}) as handle:
            return bytes(handle.read())


def quiet() -> None:
    """Disable the progress bars of `datasets` if stderr is not a terminal, to keep them out of log files."""
    import sys

    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    for batch in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from batch.to_pylist()


def _literal(splits: dict[str, list[str]]) -> dict[str, list[str]]:
    """Paths as `datasets` wants them, which takes them for patterns."""
    return {split: [glob.escape(path) for path in paths] for split, paths in splits.items()}


def _columns_of_first_row(stream: Any) -> list[str]:
    """Return the columns of a dataset that declares none (CSV and JSON files)."""
    for batch in stream.with_format("arrow").iter(batch_size=1):
        return list(batch.column_names)
    return []


def _match(path: str, listing: list[str]) -> str:
    """Find the file in the repo that a row's path refers to: an exact match, else the only file whose path ends in it.

    Raises:
        RowError: there is none, or there are several.
    """
    wanted = path.replace("\\", "/").removeprefix("./")
    if wanted in listing:
        return wanted
    found = [name for name in listing if name.endswith("/" + wanted.lstrip("/"))]
    if len(found) != 1:
        what = "is not in the dataset's repo" if not found else f"is {len(found)} times in the dataset's repo"
        raise RowError("audio is missing", f"{wanted[:200]!r} {what}")
    return found[0]


def _check_name(name: str, where: str) -> None:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        here = Path(name).expanduser()
        fix = "set DATA_DIR for a folder" if here.is_dir() else "set TRAIN_JSONL for a file" if here.exists() else None
        fix = fix or "write owner/name"
        raise BadInput(f"{where} is not the name of a Hub dataset; {fix}")
    if Path(name).exists():
        variable = "DATA_DIR" if Path(name).is_dir() else "TRAIN_JSONL"
        raise BadInput(f"{where}: there is a file or folder of that name here; set {variable}=./{name} to use it")
