"""Turn the rows of a shard into codes, wherever that runs: in the job's own process or on a worker of Ray."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from job.config.settings import Settings
from job.core import console
from job.core.errors import MachineFault
from job.prepare import augment, shards
from job.prepare.codec import Codec
from job.prepare.encode import Item, ProofChoice, encode_stream, read_items

if TYPE_CHECKING:
    import pyarrow as pa

    from job.prepare.codec import Sizes
    from job.prepare.manifest_rows import Row

STAGE = "prepare"
#: Name of the extra split that holds augmented copies (AUGMENT_*) of the training rows.
COPIES = "copies"
#: Packages whose versions affect the codes.
_LIBRARIES = ("torch", "transformers", "qwen-tts", "soundfile", "av", "soxr", "silero-vad", "onnxruntime")


def versions() -> dict[str, str]:
    """The installed versions of the packages that affect the codes."""
    return {name: version(name) for name in _LIBRARIES}


def read(
    split: str,
    rows: Iterable[Row],
    settings: Settings,
    codec: Codec | Sizes,
    processes: int = 1,
    encoded_earlier: Callable[[Row], pa.Table | None] = lambda row: None,
) -> Iterator[Item]:
    """Decode and judge the rows that were not encoded earlier, or make augmented copies of all for `COPIES`."""
    if split == COPIES:
        return augment.read_copies(rows, settings, codec, processes)
    return read_items(rows, settings, codec, processes, encoded_earlier)


class RowEncoder:
    """Encodes rows, and proves a sample of the codes by encoding it again."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec

    def encoded(
        self,
        split: str,
        rows: Iterable[Row],
        processes: int = 1,
        encoded_earlier: Callable[[Row], pa.Table | None] = lambda row: None,
    ) -> Generator[Item, None, None]:
        """Read the rows, and encode them in order; `processes` share the cores of this node."""
        return self.encoded_items(read(split, rows, self._settings, self._codec, processes, encoded_earlier))

    def encoded_items(self, items: Iterable[Item], choice: ProofChoice | None = None) -> Generator[Item, None, None]:
        """Encode rows that have been read; `choice` is that of the rows before them, which they continue."""
        return encode_stream(items, self._settings, self._codec, shard_of, choice)

    def proven(
        self,
        items: list[Item],
        anew: Callable[[], Iterable[Item]],
        warn: Callable[[str], None] | None = None,
    ) -> list[Item]:
        """Return the items of a shard, or a part of one, after checking that some of its clips encode the same again.

        Args:
            anew: encodes all of them once more.
            warn: takes a line about a clip that did not, in place of this process's log.

        Raises:
            MachineFault: the codes cannot be reproduced, not even after encoding all of them a second time.
        """
        if (item := self._disproven(items)) is None:
            return items
        name = f"{item.row.source} row {item.row.number} ({item.row.id})"
        again = f"{len(items)} rows are encoded once more"
        (warn or partial(console.warn, STAGE))(f"{name} got other codes when it was encoded again; {again}")
        items = list(anew())
        if (item := self._disproven(items)) is None:
            return items
        name = f"{item.row.source} row {item.row.number} ({item.row.id})"
        raise MachineFault(
            f"{name} gets other codes each time it is encoded, so the codes of no row can be relied on: "
            f"this machine ({self._codec.device.type}) computes wrongly; run the job on another one"
        )

    def _disproven(self, items: list[Item]) -> Item | None:
        """The first item whose codes differ when it is encoded again."""
        return next((item for item in items if item.proof is not None and not item.proof.holds(self._codec)), None)


def shard_of(item: Item) -> int:
    """Number of the shard that an item's row belongs to."""
    return item.row.position // shards.LINES
