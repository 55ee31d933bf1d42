"""Set up the inputs of prepare (raw rows, references, codec) and encode the shards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from job.config import names
from job.config.settings import Settings
from job.core import console, files
from job.core.errors import BadInput
from job.dataset.prepared import SPLITS
from job.model import loading, voices
from job.model.embedding_rows import language_rows, speaker_rows
from job.model.speaker_encoder import SpeakerEncoder
from job.prepare import augment, shards, speakers
from job.prepare.codec import identity_of, load_codec
from job.prepare.edits import Edit, Edits
from job.prepare.manifest_rows import AUTO, Row, read_rows
from job.prepare.row_encoder import COPIES, STAGE, RowEncoder, shard_of, versions
from job.prepare.shards import Shard, Shards
from job.text.languages import Languages, UnclearLanguage

if TYPE_CHECKING:
    from job.prepare.on_ray.pool import Pool

__all__ = ["COPIES", "STAGE", "Manifest", "Work"]


class Manifest:
    """Stream the raw rows, as often as needed; the constructor reads them once to collect speakers and languages.

    Raises:
        BadInput: the name of a row's language looks like a misspelling, or two speakers' references disagree.
    """

    def __init__(self, settings: Settings, known: dict[str, int]) -> None:
        self._settings = settings
        self.known = known
        self.rows = dict.fromkeys(SPLITS, 0)
        self._keys: dict[str, str] = {}
        #: Split -> line of its manifest -> what a person decided about it.
        self.edits: dict[str, dict[int, Edit]] = {}
        #: Split -> line of its manifest -> the recogniser that its text is from.
        self.transcribed: dict[str, dict[int, str]] = {split: {} for split in SPLITS}
        decided = Edits(settings.paths.edits)
        #: Language name as given in the rows -> the first row that has it.
        first: dict[str, str] = {}
        self.speakers = speakers.survey(self._counted(first, decided))
        self.rows[COPIES] = self.rows["train"]
        self.edits[COPIES] = self.edits.get("train", {})
        if unused := decided.unused():
            console.warn(STAGE, unused)
        self.languages, self.codes = self._understood(first)

    def read(self, split: str) -> Iterator[Row]:
        """Stream the rows of a split, in order."""
        return self._rows(split, self._keys.__getitem__)

    def _rows(self, split: str, language: Callable[[str], str]) -> Iterator[Row]:
        split = "train" if split == COPIES else split
        return read_rows(self._settings.paths.manifest(split), split, self._settings, language)

    def _counted(self, first: dict[str, str], decided: Edits) -> Iterator[Row]:
        for split in SPLITS:
            for row in self._rows(split, str):
                self.rows[split] += 1
                if decided and (edit := decided.find(row)):
                    self.edits.setdefault(split, {})[row.position] = edit
                if row.transcribed_by:
                    self.transcribed[split][row.position] = row.transcribed_by
                first.setdefault(row.language, f"{row.source} row {row.number}")
                yield row

    def _understood(self, first: dict[str, str]) -> tuple[set[str], dict[str, str | None]]:
        """Map the rows' languages to the model's names and ISO codes; logs each differing spelling once."""
        languages, codes = Languages(self.known, first), dict[str, str | None]()
        for name, where in first.items():
            try:
                meant = languages.find(name)
            except UnclearLanguage as question:
                variable = f" (LANGUAGE={name})" if name == self._settings.language else ""
                raise BadInput(f"{where}: language {question}{variable}") from None
            self._keys[name] = meant.key
            codes[meant.key] = meant.code
            if meant.key != AUTO and names.lookup_key(name) != meant.key:
                console.say(STAGE, f"language {name!r} is {meant.key}")
        return set(codes), codes


class Work:
    """Check all inputs before anything is encoded, then encode the rows: here, or in a pool of other processes.

    Raises:
        BadInput: there is no manifest, a reference recording or a model directory cannot be used, or the base model has
            no room for the speakers.
    """

    def __init__(self, settings: Settings, pool: Pool | None = None) -> None:
        paths = settings.paths
        self._pool = pool
        if not paths.manifest("train").is_file():
            raise BadInput(f"{paths.manifest('train')} is missing; run `python -m job fetch` first (WORK_DIR)")
        self.settings = settings
        self.base = loading.base_directory(settings)
        config = loading.read_config(self.base)
        known = {name.lower(): row for name, row in config.languages.items()}
        self.manifest = Manifest(settings, known)
        if not settings.prepare_only:
            voices.refuse_adapter_alone(self.manifest.languages, known, settings)
        self._config = config.raw
        self.check_room(self.manifest.speakers)
        #: The speakers that the base has, and their rows.
        self.existing = loading.by_lookup_key(config.talker.get("spk_id"))
        self.came = speakers.published(paths.published_voices, int(config.talker.get("hidden_size") or 0))
        self.plans = speakers.plan_references(self.manifest.speakers, settings, self.existing, self.came)
        self.device = loading.resolve_device(settings)
        self.codec = load_codec(settings, config.codebooks, self.device)
        if pool is not None:
            pool.begin(self.codec, loading.speech_tokenizer_directory(settings))
        # Used only at the end, for voices that the base lacks; loaded here so that a missing one fails before encoding.
        new = any(plan.strategy not in (speakers.KEPT, speakers.CAME) for plan in self.plans.values())
        self.encoder = SpeakerEncoder(self.base, self.device) if new else None
        speakers.check_files(self.plans, self.codec.sample_rate, settings.quality_gate != "off")
        self.shards = self._shards()
        self._begun: set[str] = set()

    def _shards(self) -> Shards:
        """Build the `Shards`. Their fingerprints do not depend on which GPU, process or batch encodes a row."""
        settings = self.settings
        codec = {
            "weights": identity_of(loading.speech_tokenizer_directory(settings)),
            "books": self.codec.codebooks,
            "device": self._pool.device if self._pool is not None else self.device.type,
            "versions": list(versions().values()),
        }
        encoded = {
            "codec": codec,
            "seconds": [settings.min_seconds, settings.max_seconds],
            "judged": settings.quality_gate != "off",
        }
        altered = {**encoded, "seed": settings.seed, "changes": list(augment.changes(settings))}
        identities = {**dict.fromkeys(SPLITS, encoded), COPIES: altered}
        manifests = [files.digest_file(path) for s in SPLITS if (path := settings.paths.manifest(s)).is_file()]
        run = files.digest_bytes(repr((identities, manifests)).encode())
        return Shards(settings.paths.encoding, self.codec, identities, run, self.manifest.edits)

    def check_room(self, names: Iterable[str]) -> None:
        """Check that the base model's table has a row for each speaker and language, if they are to be trained.

        Raises:
            BadInput: there are more.
        """
        if not self.settings.prepare_only:
            new = language_rows(self._config, sorted(self.manifest.languages))
            speaker_rows(self._config, sorted(names), new)

    def encode(self, splits: Sequence[str], rank: int = 0, world: int = 1) -> None:
        """Encode the shards of process `rank` of `world` (those whose number is `rank` modulo `world`).

        Finished shards are skipped.

        Raises:
            OSError: with the file's name, when a shard cannot be written; those before it are kept.
        """
        for split in splits:
            if self.manifest.rows[split] and (split != COPIES or augment.changes(self.settings)):
                self._encode_split(split, rank, world)

    def call_speakers(self, names: Mapping[str, Mapping[int, str]]) -> None:
        """From now on, rows have these speakers, by split and line of the manifest, and their copies as well."""
        self.shards.call_speakers({**names, COPIES: names["train"]})
        strategy = "first" if self.settings.ref_audio_strategy == "first" else "best"
        for name in {name for of_split in names.values() for name in of_split.values()}:
            self.plans.setdefault(name, speakers.Plan(strategy))

    def limits(self, split: str) -> tuple[float | None, int | None]:
        """Largest number of frames (MAX_HOURS) and of rows (MAX_EVAL_SAMPLES) in a split; None for no limit."""
        hours = self.settings.max_hours if split != "validation" else None
        frames = hours * 3600 * self.codec.frame_rate if hours else None
        return frames, self.settings.max_eval_samples if split == "validation" else None

    def _encode_split(self, split: str, rank: int, world: int) -> None:
        due = _Due(self, split, rank, world)
        if self._pool is not None:
            self._encode_in_pool(split, due)
        else:
            self._encode_here(split, due, world)
        if due.left_alone and split not in self._begun:
            console.say(STAGE, f"{due.left_alone} {_unit(split)} were encoded by a run before this one; the others now")
        self._begun.add(split)

    def _encode_here(self, split: str, due: _Due, world: int) -> None:
        waiting: deque[tuple[Shard, list[Row]]] = deque()

        def rows() -> Iterator[Row]:
            for shard, chunk in due:
                waiting.append((shard, chunk))
                yield from chunk

        total = max(1, (self.manifest.rows[split] - shards.LINES * self.shards.present(split)) // world)
        encoder = RowEncoder(self.settings, self.codec)
        readers = -(-world // self.settings.num_nodes)
        taken = 0
        # closing: stops the read-ahead if this fails
        with closing(encoder.encoded(split, rows(), readers, self.shards.encoded_earlier)) as items:
            count = total * self._items_of_a_row(split)
            shown = console.progress(items, stage=STAGE, total=count, unit=_unit(split))
            for number, group in groupby(shown, key=shard_of):
                while waiting[0][0].number != number:
                    self.shards.write(waiting.popleft()[0], [])
                shard, chunk = waiting.popleft()
                encoded = list(group)
                taken += sum(item.earlier is not None for item in encoded)
                self.shards.write(shard, encoder.proven(encoded, partial(encoder.encoded, split, chunk)))
        for shard, _ in waiting:
            self.shards.write(shard, [])
        _say_taken(split, taken)

    def _encode_in_pool(self, split: str, due: _Due) -> None:
        assert self._pool is not None
        total = -(-self.manifest.rows[split] // shards.LINES) - self.shards.present(split)
        earlier = self.shards.encoded_earlier if split != COPIES else lambda row: None  # copies are made anew
        taken = 0
        with closing(self._pool.encoded(split, due, earlier)) as done:
            unit = f"shards of {shards.LINES} {_unit(split)}"
            for shard, items in console.progress(done, stage=STAGE, total=max(1, total), unit=unit):
                taken += sum(item.earlier is not None for item in items)
                self.shards.write(shard, items)
        _say_taken(split, taken)

    def _items_of_a_row(self, split: str) -> int:
        return len(augment.changes(self.settings)) if split == COPIES else 1

    def is_enough(self, split: str, number: int) -> bool:
        """Whether the shards before `number` are known to hold all rows that MAX_HOURS and MAX_EVAL_SAMPLES allow."""
        most_frames, most_rows = self.limits(split)
        if most_frames is None and most_rows is None:
            return False
        rows, frames = self.shards.sizes("train" if split == COPIES else split, number)
        return (most_frames is not None and frames > most_frames) or (most_rows is not None and rows >= most_rows)


class _Due:
    """Iterates over the shards of a split that process `rank` of `world` has to encode, with their rows.

    `left_alone` counts the rows of shards that were finished already.
    """

    def __init__(self, work: Work, split: str, rank: int, world: int) -> None:
        self._work, self._split, self._rank, self._world = work, split, rank, world
        self.left_alone = 0

    def __iter__(self) -> Iterator[tuple[Shard, list[Row]]]:
        work, split = self._work, self._split
        for shard, chunk in work.shards.cut(split, work.manifest.read(split)):
            if work.is_enough(split, shard.number):
                return
            if shard.number % self._world != self._rank:
                continue
            if work.shards.is_finished(shard):
                self.left_alone += len(chunk)
            else:
                yield shard, chunk


def _unit(split: str) -> str:
    return "copies" if split == COPIES else f"{split} rows"


def _say_taken(split: str, count: int) -> None:
    if count:
        console.say(STAGE, f"{count} {_unit(split)} have another place than before, and keep their codes")
