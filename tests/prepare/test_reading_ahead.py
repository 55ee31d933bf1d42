"""Recordings are read while others are encoded, by default: never in another order, never without bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from job.config.settings import Settings
from job.core import cpus
from job.core.errors import BadInput
from job.model import loading
from job.prepare import encode
from job.prepare.codec import Codec
from job.prepare.encode import Item, encode_items, encode_singly, encode_stream, read_items
from job.prepare.manifest_rows import Row
from job.prepare.readers import MOST_READERS, readers
from tests.prepare.conftest import voice

#: Seconds that a thread may take before it is taken to be stuck.
PATIENCE = 60.0
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "cores", "processes", "wanted"),
    [
        (CPU, 1, 1, 0),
        (CPU, 2, 1, 0),
        (CPU, 6, 1, 3),
        (CPU, 6, 3, 0),
        (CPU, 64, 1, MOST_READERS),
        (GPU, 1, 1, 1),
        (GPU, 2, 1, 1),
        (GPU, 6, 1, 5),
        (GPU, 12, 2, 5),
        (GPU, 4, 8, 1),
        (GPU, 64, 1, MOST_READERS),
    ],
)
def test_by_default_there_is_a_reader_for_each_core_that_is_left_over(
    device: torch.device, cores: int, processes: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that the machine has, and of those that a container's limit grants; the node's processes share them."""
    monkeypatch.setattr(cpus, "limit", lambda: None)
    monkeypatch.setattr(cpus, "available", lambda: cores)
    assert readers(Settings(), device, processes) == wanted
    monkeypatch.setattr(cpus, "limit", lambda: cores)
    monkeypatch.setattr(cpus, "available", lambda: 200)
    assert readers(Settings(), device, processes) == wanted


@pytest.mark.parametrize("device", [CPU, GPU])
def test_num_workers_is_obeyed_also_when_it_is_0(device: torch.device) -> None:
    assert [readers(Settings(num_workers=workers), device, 2) for workers in (0, 1, 30)] == [0, 1, 30]


@pytest.fixture(scope="module")
def codec(tiny_base: Path) -> Codec:
    return Codec(loading.load_speech_tokenizer(tiny_base / "speech_tokenizer", CPU), codebooks=16)


def rows_of(clips: list[dict[str, Any]], directory: Path) -> list[Row]:
    """The built-in recordings, and one in their middle that is not there."""
    paths = [Path(row["audio"]) for row in clips[:5]]
    paths.insert(2, directory / "none.wav")
    return [
        Row(
            id=str(n), split="train", number=n + 1, source="rows.jsonl", audio=path, codes=None, text="Some words.",
            speaker="a", language="auto", instruct=None, ref_audio=None,
        )
        for n, path in enumerate(paths)
    ]  # fmt: skip


def test_items_are_the_same_for_every_number_of_workers_in_batches_and_one_by_one(
    codec: Codec, clips: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes, figures, and reasons to leave a row out; by default with the readers of a machine of eight cores."""
    monkeypatch.setattr(encode, "WINDOW_BATCHES", 2)
    monkeypatch.setattr(cpus, "limit", lambda: None)
    monkeypatch.setattr(cpus, "available", lambda: 8)
    rows = rows_of(clips, tmp_path)

    def seen(workers: int | None, *, batches: bool) -> list[Any]:
        settings = Settings(num_workers=workers, prepare_batch_size=2)
        items = read_items(rows, settings, codec)
        if batches:
            encoded = encode_items(items, codec, 2, read_ahead=workers != 0)
        else:
            encoded = encode_stream(items, settings, codec)
        return [(item.row.id, item.digest(), item.figures, item.heard, str(item.unusable)) for item in encoded]

    calm = seen(0, batches=False)
    assert [bool(digest) for _, digest, *_ in calm] == [n != 2 for n in range(6)]
    for workers in (0, None, 3):
        assert seen(workers, batches=True) == calm
    for workers in (None, 3):
        assert seen(workers, batches=False) == calm


class Silent:
    """Stands in for a codec, so that what happens while it encodes can be watched; its codes are zeros."""

    sample_rate = 24_000

    def __init__(self, meanwhile: Callable[[], Any]) -> None:
        self.meanwhile = meanwhile

    def encode(self, clips: list[Any]) -> list[Any]:
        self.meanwhile()
        return [np.zeros((1, 16), np.int16) for _ in clips]


def numbered(taken: list[int], at: dict[int, threading.Event] | None = None, wrong: int = -1) -> Iterator[Item]:
    """Forty items; `taken` grows as they are asked for, `at` says when one is, and one of them may be `wrong`."""
    for n in range(40):
        taken.append(n)
        if n == wrong:
            raise BadInput("rows.jsonl line 7: not JSON")
        if at and n in at:
            at[n].set()
        row: Any = SimpleNamespace(id=n)
        yield Item(row, samples=voice(0.1))


def test_the_next_window_is_read_while_one_is_encoded_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of four: memory holds two of them, however slow the encoder is."""
    monkeypatch.setattr(encode, "WINDOW_BATCHES", 2)
    taken: list[int] = []
    seventh = threading.Event()
    windows: list[int] = []

    def encoding() -> None:
        assert seventh.wait(PATIENCE)  # of the second window, while the first one is encoded
        windows.append(len(taken))

    codec: Any = Silent(encoding)
    done = [item.row.id for item in encode_items(numbered(taken, {6: seventh}), codec, 2)]
    assert done == list(range(40))
    assert all(most <= 4 * (call // 2 + 2) for call, most in enumerate(windows))


def test_nothing_is_read_ahead_with_0_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "WINDOW_BATCHES", 2)
    taken: list[int] = []
    windows: list[int] = []
    codec: Any = Silent(lambda: windows.append(len(taken)))
    assert len(list(encode_items(numbered(taken), codec, 2, read_ahead=False))) == 40
    assert windows == [4 * (call // 2 + 1) for call in range(20)]


@pytest.mark.parametrize("read_ahead", [False, True])
def test_a_failure_of_the_reading_arrives_as_it_is(read_ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its place, after the windows before it; no thread is left."""
    monkeypatch.setattr(encode, "WINDOW_BATCHES", 2)
    codec: Any = Silent(lambda: None)
    before, done = threading.active_count(), []
    with pytest.raises(BadInput) as caught:
        for item in encode_items(numbered([], wrong=9), codec, 2, read_ahead=read_ahead):
            done.append(item.row.id)
    assert str(caught.value) == "rows.jsonl line 7: not JSON"
    assert done == list(range(8))
    assert threading.active_count() == before


def test_a_failure_in_a_reading_thread_arrives_as_it_is(
    codec: Codec, clips: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is no fault of a recording ends the run with its own words, in batches and one by one."""

    def broken(*arguments: Any, **named: Any) -> Any:
        raise BadInput("the volume is gone")

    monkeypatch.setattr(encode, "load", broken)
    for workers in (0, 3):
        for encoded in (lambda items: encode_items(items, codec, 2), lambda items: encode_singly(items, codec)):
            with pytest.raises(BadInput, match=r"^the volume is gone$"):
                list(encoded(read_items(rows_of(clips, tmp_path), Settings(num_workers=workers), codec)))


def test_reading_ahead_ends_when_the_encoded_rows_are_no_longer_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the window that is being read (this one has no end): a run that is stopped does not wait for it."""
    monkeypatch.setattr(encode, "WINDOW_BATCHES", 10**9)
    begun = threading.Event()

    def endless() -> Iterator[Item]:
        for n in count():
            row: Any = SimpleNamespace(id=n)
            if n == 10:
                begun.set()
            time.sleep(0.001)
            yield Item(row)

    before = threading.active_count()
    codec: Any = Silent(lambda: None)
    stream = encode_items(endless(), codec, 2, lambda item: item.row.id >= 3)
    assert next(stream).row.id == 0
    assert begun.wait(PATIENCE)
    stream.close()
    assert threading.active_count() == before
