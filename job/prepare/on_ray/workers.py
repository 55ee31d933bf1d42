"""What runs on the workers of Ray: an actor that encodes shards, and a task that reads recordings for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from job.audio.unusable import Unusable
from job.config.settings import Settings
from job.core import files
from job.core.errors import BadInput
from job.prepare import row_encoder
from job.prepare.codec import Codec, Sizes, files_of, identity_of, load_codec
from job.prepare.encode import Item, ProofChoice, side_by_side
from job.prepare.on_ray.portions import Encoded
from job.prepare.on_ray.supply import Files, Stamp, files_here
from job.prepare.row_encoder import RowEncoder, shard_of

if TYPE_CHECKING:
    from job.prepare.manifest_rows import Row


@dataclass(frozen=True)
class Order:
    """What all shards of a run have in common.

    Attributes:
        settings: of the run, without its secrets.
        sizes: of the codec.
        codec: the files of the codec.
        codec_identity: their names and checksums.
        versions: of the packages that decide about the codes.
    """

    settings: Settings
    sizes: Sizes
    codec: tuple[Stamp, ...]
    codec_identity: list[Any]
    versions: dict[str, str]


def order_for(settings: Settings, codec: Codec, directory: Path, device: str) -> Order:
    """The order for workers that encode on a type of device with this codec, which lies in `directory`."""
    sizes = Sizes(
        codec.codebooks, codec.codebook_size, codec.sample_rate, codec.samples_per_frame, torch.device(device)
    )
    settings = without_secrets(settings).model_copy(update={"device": device})
    if device == "cpu" and settings.num_workers is None:
        settings = settings.model_copy(update={"num_workers": 0})  # a worker has one core
    stamps = tuple(files.stamp(path) for path in files_of(directory))
    return Order(settings, sizes, stamps, identity_of(directory), row_encoder.versions())


def without_secrets(settings: Settings) -> Settings:
    """The settings without what a worker must not know: Ray keeps what it sends."""
    nothing = dict.fromkeys(("hf_token", "hf_token_file", "wandb_api_key", "notify_url"))
    return settings.model_copy(update=nothing)


@dataclass(frozen=True)
class Rows:
    """Rows of a split, with the stamp of each one's recording."""

    split: str
    rows: list[Row]
    stamps: list[Stamp | None]

    def __getitem__(self, part: slice) -> Rows:
        """Some of them."""
        return Rows(self.split, self.rows[part], self.stamps[part])


class Encoder:
    """Actor of Ray that holds the codec and encodes a portion of a shard at a time."""

    def __init__(self, order: Order, supplier: Any) -> None:
        self._order = order
        self._files = files_here(supplier)

    def load(self) -> str:
        """Load the codec, from the job's files where this machine has them, else from copies. Returns its machine.

        Raises:
            BadInput: other versions are installed here than where the job runs, or DEVICE does not exist.
        """
        from job.model import loading

        order, here = self._order, os.uname().nodename
        if different := [f"{k} {v}" for k, v in row_encoder.versions().items() if order.versions[k] != v]:
            wanted = ", ".join(f"{name.split()[0]} {order.versions[name.split()[0]]}" for name in different)
            raise BadInput(
                f"ENGINE=ray: the worker on {here} has {', '.join(different)}, and the job has {wanted}; "
                "start Ray's workers from the job's own image"
            )
        device = loading.resolve_device(order.settings)
        directory = Path(order.codec[0][0]).parent
        copied = None
        if not directory.is_dir() or identity_of(directory) != order.codec_identity:
            copied = Path(tempfile.mkdtemp(prefix="codec-"))
            for stamp in order.codec:
                (copied / Path(stamp[0]).name).symlink_to(self._files.find(stamp))
        settings = order.settings.model_copy(update={"tokenizer_path": str(copied or directory)})
        self._codec = load_codec(settings, order.sizes.codebooks, device)
        self._encoder = RowEncoder(order.settings, self._codec)
        # One for all portions, so that few calls are repeated; several threads are new ones for each portion.
        self._choice = ProofChoice(shard_of, 1) if side_by_side(device.type) == 1 else None
        if copied is not None:
            shutil.rmtree(copied)
        return here

    def encode(self, rows: Rows, pieces: list[Any] | None) -> Encoded:
        """Encode rows of a shard.

        Args:
            rows: the rows.
            pieces: what `read_rows` returns for parts of them, as Ray's references; None to read them here.
        """

        def read(found: list[Any]) -> Iterator[Item]:
            import ray

            for reference in found:
                yield from ray.get(reference)

        self._files.trim()
        source = read(pieces) if pieces else self._read(rows)
        items = list(self._encoder.encoded_items(source, self._choice))
        warnings: list[str] = []
        proven = self._encoder.proven(items, lambda: self._encoder.encoded_items(self._read(rows)), warnings.append)
        for item in proven:
            item.proof = None  # sound, which is of no use to the job
        return Encoded(proven, warnings)

    def _read(self, rows: Rows) -> Iterator[Item]:
        return _read(rows, self._order.settings, self._codec, self._files)


def read_rows(rows: Rows, order: Order, supplier: Any) -> list[Item]:
    """Task of Ray: decode and judge rows for an `Encoder`."""
    found = files_here(supplier)
    found.trim()
    settings = order.settings.model_copy(update={"num_workers": 0})  # a task has one core
    return list(_read(rows, settings, order.sizes, found))


def _read(rows: Rows, settings: Settings, codec: Codec | Sizes, found: Files) -> Iterator[Item]:
    """Read rows whose recordings may be copies on this machine, and name the originals in what is returned."""
    originals: dict[Path, Path] = {}

    def here() -> Iterator[Row]:
        for row, stamp in zip(rows.rows, rows.stamps, strict=True):
            if row.audio is None or stamp is None or (place := found.find(stamp)) == row.audio:
                yield row
            else:
                originals[place] = row.audio
                yield replace(row, audio=place)

    for item in row_encoder.read(rows.split, here(), settings, codec):
        if item.row.audio in originals:
            place, original = str(item.row.audio), originals[item.row.audio]
            item.row = replace(item.row, audio=original)
            if item.unusable is not None:
                detail = item.unusable.detail.replace(place, str(original))
                item.unusable = Unusable(item.unusable.reason, detail)
        yield item
