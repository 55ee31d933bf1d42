"""Stream rows through decoding and encoding with bounded memory and little padding, keeping their order."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from job.audio import flaws, speech
from job.audio.clip import Clip, Figures, Samples, Unusable, load
from job.config.settings import Settings
from job.core.threads import ahead, in_order
from job.prepare.codec import Codec, Codes, Sizes
from job.prepare.edits import text_warnings
from job.prepare.manifest_rows import Row
from job.prepare.readers import readers

if TYPE_CHECKING:
    import pyarrow as pa

#: Window size in batches; the clips of a window are sorted by length.
WINDOW_BATCHES = 8
#: Most seconds of audio in a window, whatever its count: about 115 MB at 24 kHz in float32. The next window is read
#: while one is encoded.
WINDOW_SECONDS = 1200.0
#: Most clips encoded in parallel on a CPU: each takes memory for its activations.
MOST_ENCODERS = 8
#: A call is repeated only after this many times its number of clips were encoded, so that repeats cost at most 1 %.
PROVE_EVERY = 100


@dataclass(slots=True)
class Proof:
    """Clips of one codec call and their codes, kept to check that a second call gives the same codes."""

    samples: list[Samples]
    codes: list[Codes]

    def holds(self, codec: Codec) -> bool:
        """Whether the same call gives the same codes again."""
        again = codec.encode(self.samples)
        return all(np.array_equal(first, second) for first, second in zip(self.codes, again, strict=True))


@dataclass(slots=True)
class Item:
    """A row in the pipeline: first with `samples`, then with `codes` (frames, codebooks) or the reason for rejection.

    `earlier` is what an earlier run encoded of it, as a table of one row: then it has nothing else.
    `proof` is set at the first item of some calls of the codec; see `encode_stream`.
    """

    row: Row
    samples: Samples | None = None
    figures: Figures | None = None
    heard: speech.Heard | None = None
    flaws: flaws.Flaws | None = None
    codes: Codes | None = None
    unusable: Unusable | None = None
    proof: Proof | None = None
    earlier: pa.Table | None = None

    def warnings(self, frame_rate: float) -> list[str]:
        """Categories of problems of an encoded row that are not bad enough to reject it."""
        if self.codes is None:
            return []
        found = self.figures.warnings() if self.figures else []
        found += self.heard.warnings() if self.heard else []
        seconds = self.figures.seconds if self.figures else len(self.codes) / frame_rate
        return found + text_warnings(self.row.text, seconds)

    def digest(self) -> int:
        """64-bit hash of the codes; 0 without codes."""
        if self.codes is None:
            return 0
        return int.from_bytes(hashlib.sha256(np.ascontiguousarray(self.codes).tobytes()).digest()[:8], "big")


def encode_stream(
    items: Iterable[Item],
    settings: Settings,
    codec: Codec,
    group: Callable[[Item], Any] = lambda item: None,
    choice: ProofChoice | None = None,
) -> Generator[Item, None, None]:
    """Encode the items that have samples, in order: in batches on a GPU, one by one on a CPU.

    On a CPU, batches only make tensors too large for its cache, and single clips can be encoded in parallel.

    The first call of the codec in every thread, and from time to time the first one of a group, sets an `Item.proof`:
    the caller must keep a group's codes only if its proofs hold.

    Args:
        items: items as they are read.
        settings: settings of the run.
        codec: the codec to encode with.
        group: clips share a batch only if this is equal for them, so that batches do not depend on preceding items.
        choice: of an earlier call, for items that continue its; by default these items are the first ones.
    """
    if codec.device.type == "cpu":
        return encode_singly(items, codec, group, choice)
    early = settings.num_workers != 0
    return encode_items(items, codec, settings.prepare_batch_size, group, choice, read_ahead=early)


def encode_singly(
    items: Iterable[Item],
    codec: Codec,
    group: Callable[[Item], Any] = lambda item: None,
    choice: ProofChoice | None = None,
) -> Generator[Item, None, None]:
    """Encode clip by clip, as many in parallel as torch has threads; the order is kept, samples are freed.

    Each clip is encoded by a single thread, however many there are: see `one_torch_thread`.
    """
    workers = side_by_side()
    proofs = choice or ProofChoice(group, workers)

    def chosen() -> Iterator[tuple[Item, bool]]:
        for item in items:
            yield item, item.samples is not None and proofs.takes(item, 1)

    def encode(work: tuple[Item, bool]) -> Item:
        item, proven = work
        if item.samples is not None:
            samples = [item.samples]
            codes = codec.encode(samples)
            item.codes, item.samples = codes[0], None
            item.proof = Proof(samples, codes) if proven else None
        return item

    if workers == 1:
        yield from map(encode, chosen())
    else:
        yield from in_order(chosen(), encode, workers, codec.warm_up)


def read_items(
    rows: Iterable[Row],
    settings: Settings,
    codec: Codec | Sizes,
    processes: int = 1,
    encoded_earlier: Callable[[Row], pa.Table | None] = lambda row: None,
) -> Iterator[Item]:
    """Decode each row (or check its codes, if it arrived encoded), several in parallel (see `readers`), in order.

    What `encoded_earlier` has of a row is taken instead of decoding it.
    """
    speech.detector()  # load it before the threads start, or each would

    def read(row: Row) -> Item:
        if (found := encoded_earlier(row)) is not None:
            return Item(row, earlier=found)
        try:
            return _read(row, settings, codec)
        except Unusable as error:
            return Item(row, unusable=error)

    return in_order(rows, read, readers(settings, codec.device, processes))


def encode_items(
    items: Iterable[Item],
    codec: Codec,
    batch_size: int,
    group: Callable[[Item], Any] = lambda item: None,
    choice: ProofChoice | None = None,
    *,
    read_ahead: bool = True,
) -> Generator[Item, None, None]:
    """Encode the items that have samples in batches of `batch_size`; the order is kept, samples are freed.

    Clips are sorted by length within a window of a few batches, to keep padding small. A window holds items of one
    `group`. With `read_ahead` a thread reads the items one window ahead of the encoding.
    """
    proofs = choice or ProofChoice(group, 1)
    enough = threading.Event()
    wanted = takewhile(lambda _: not enough.is_set(), items)
    windows = _windows(wanted, codec.sample_rate, batch_size, group)
    for window in ahead(windows, enough.set) if read_ahead else windows:
        waiting = [item for item in window if item.samples is not None]
        waiting.sort(key=lambda item: len(_samples(item)))
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            samples = [_samples(item) for item in batch]
            encoded = codec.encode(samples)
            for item, codes in zip(batch, encoded, strict=True):
                item.codes, item.samples = codes, None
            if proofs.takes(batch[0], len(batch)):
                batch[0].proof = Proof(samples, encoded)
        yield from window


def check_codes(raw: Any, codec: Codec | Sizes) -> Codes:
    """Check the codes that arrived with a row and convert them to int16 (frames, codebooks).

    Raises:
        Unusable: `empty`, or `bad_codes` when the shape or a value does not fit the base model.
    """
    try:
        codes = np.asarray(raw)
    except ValueError as error:  # rows of unequal length
        raise Unusable("bad_codes", "audio_codes: the frames have different numbers of codes") from error
    if codes.size == 0:
        raise Unusable("empty", "audio_codes: no frames in it")
    if codes.ndim != 2 or codes.shape[1] != codec.codebooks:
        shape = "x".join(str(n) for n in codes.shape)
        raise Unusable("bad_codes", f"audio_codes: shape {shape}, expected frames x {codec.codebooks} codebooks")
    if not np.issubdtype(codes.dtype, np.integer):
        raise Unusable("bad_codes", f"audio_codes: {codes.dtype} values, expected integers")
    if codes.min() < 0 or codes.max() >= codec.codebook_size:
        outside = codes.min() if codes.min() < 0 else codes.max()
        raise Unusable("bad_codes", f"audio_codes: code {outside} is outside 0 to {codec.codebook_size - 1}")
    return codes.astype(np.int16)


def _read(row: Row, settings: Settings, codec: Codec | Sizes) -> Item:
    if not row.text:
        raise Unusable("no_text", "the text is empty")
    if row.codes is not None:
        codes = check_codes(row.codes, codec)
        seconds = len(codes) / codec.frame_rate
        if seconds < settings.min_seconds:
            raise Unusable("too_short", f"{seconds:.2f} s, shorter than MIN_SECONDS={settings.min_seconds:g}")
        if seconds > settings.max_seconds:
            raise Unusable("too_long", f"{seconds:.2f} s, longer than MAX_SECONDS={settings.max_seconds:g}")
        return Item(row, codes=codes)
    if row.audio is None:
        raise Unusable("unreadable", "the row names neither audio nor audio_codes")
    clip: Clip = load(
        row.audio,
        codec.sample_rate,
        start=row.start,
        end=row.end,
        min_seconds=settings.min_seconds,
        max_seconds=settings.max_seconds,
    )
    heard = speech.detector().listen(clip.samples, clip.rate)
    if settings.quality_gate != "off":
        heard.refuse(str(row.audio))
    found = flaws.find(clip.samples, clip.rate)
    return Item(row, samples=clip.samples, figures=clip.figures, heard=heard, flaws=found)


def side_by_side(device: str = "cpu") -> int:
    """Number of codec calls at once on this type of device, each in a thread of its own."""
    import torch

    return min(torch.get_num_threads(), MOST_ENCODERS) if device == "cpu" else 1


class ProofChoice:
    """Choose the codec calls to repeat as a check: the first ones, then some that begin a group."""

    def __init__(self, group: Callable[[Item], Any], first: int) -> None:
        self._group = group
        self._first = first
        self._last: Any = object()
        self._since = 0

    def takes(self, item: Item, clips: int) -> bool:
        """Whether to repeat the call whose first of `clips` clips is `item`. Must be asked for every call, in order."""
        begins, self._last = self._group(item) != self._last, self._group(item)
        chosen = self._first > 0 or (begins and self._since >= PROVE_EVERY * clips)
        self._first -= 1
        self._since = clips if chosen else self._since + clips
        return chosen


def _windows(items: Iterable[Item], rate: int, batch_size: int, group: Callable[[Item], Any]) -> Iterator[list[Item]]:
    window: list[Item] = []
    clips, seconds = 0, 0.0
    for item in items:
        if window and group(window[-1]) != group(item):
            yield window
            window, clips, seconds = [], 0, 0.0
        window.append(item)
        # Only clips count: batches are the same whether rows that need none (encoded earlier) are among them or not.
        if item.samples is not None:
            clips, seconds = clips + 1, seconds + len(item.samples) / rate
        if clips >= WINDOW_BATCHES * batch_size or seconds >= WINDOW_SECONDS:
            yield window
            window, clips, seconds = [], 0, 0.0
    if window:
        yield window


def _samples(item: Item) -> Samples:
    assert item.samples is not None
    return item.samples
