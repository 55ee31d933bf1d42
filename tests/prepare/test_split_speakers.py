"""KEEP_SPEAKERS=split: each person becomes a speaker, keeps the name, and no clip is embedded twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job import prepare
from job.core import files
from job.dataset.prepared import read_speakers, read_split, read_summary
from job.model.speaker_encoder import SpeakerEncoder
from job.prepare.clip_voices import Clip
from job.prepare.people_names import name_people
from job.prepare.quality import Tally
from job.prepare.quality_gate import problems
from tests.prepare.conftest import Make
from tests.prepare.test_main_speaker import says
from tests.support.forked import in_two

HALVES = np.zeros((2, 4), np.float16)
#: Who speaks in each of forty clips of 5 s: two people with enough, and one with too little.
WHO = ([0, 1, 0, 1, 0] * 7 + [2, 0, 2, 0, 2])[:40]


def clips_of(who: list[int], seconds: float = 6.0, first: int = 0) -> list[Clip]:
    return [Clip(0, n, seconds, HALVES, f"clip {n}") for n in range(first, first + len(who))]


def named(who: list[int], before: dict[str, list[str]], taken: set[str] = frozenset(), **more: Any) -> Any:  # type: ignore[assignment]
    """Names of the people, the warnings, and what the next run knows."""
    clips = clips_of(who)
    people, warnings = name_people("host", clips, who, before, taken, **more)
    names = [one.name for one in people]
    record: dict[str, list[str]] = {}
    for clip, one in zip(clips, who, strict=True):
        if names[one] is not None:
            record.setdefault(names[one], []).append(clip.key)
    return names, warnings, record


def test_names_are_free_ones_in_the_order_of_seconds_and_too_little_has_none() -> None:
    names, warnings, _ = named([0] * 30 + [1] * 20 + [2] * 12 + [3] * 11, {}, {"host_2", "guest"})
    assert names == ["host", "host_3", "host_4", None] and not warnings
    few = clips_of([0] * 30 + [1] * 20, seconds=2.0)  # twenty clips, forty seconds
    assert [one.name for one in name_people("host", few, [0] * 30 + [1] * 20, {}, set())[0]] == ["host", None]


@given(st.lists(st.integers(0, 3), min_size=60, max_size=90), st.lists(st.integers(0, 4), max_size=120))
def test_a_name_stays_with_its_person_when_clips_are_added(old: list[int], new: list[int]) -> None:
    """Also when somebody else now speaks more, and when somebody now speaks enough to have a name."""

    def ordered(who: list[int]) -> tuple[list[int], dict[int, int]]:
        place = {
            one: n for n, (one, _) in enumerate(sorted(Counter(who).items(), key=lambda i: (-i[1], who.index(i[0]))))
        }
        return [place[one] for one in who], place

    told, place = ordered(old)
    names, _, record = named(told, {})
    again, then = ordered(old + new)
    later, warnings, _ = named(again, record)
    assert {one: later[then[one]] for one in place if names[place[one]]} == {
        one: names[place[one]] for one in place if names[place[one]]
    }
    assert not warnings
    assert len({name for name in later if name}) == len([name for name in later if name])


def test_who_has_another_name_now_is_said_and_the_one_of_the_reference_has_the_name() -> None:
    _, _, record = named([0] * 30 + [1] * 20, {})
    names, warnings, _ = named([0] * 30 + [0] * 20, record)
    assert names == ["host"]
    assert len(warnings) == 1 and "20 of 20 clips that were 'host_2' are now another's" in warnings[0]
    names, warnings, _ = named([1] * 30 + [0] * 20, record, known=True)
    assert names == ["host", "host_3"] and len(warnings) == 2, "host_2 is nobody else's"
    assert named([0] * 20, {"host_2": ["of other data"]})[0] == ["host"]


def test_a_host_who_says_less_than_half_of_the_clips_is_no_broken_source() -> None:
    """Clips that KEEP_SPEAKERS leaves out do not count as unusable, as others do."""
    tally = Tally(16, 2048, 12.5, 0)
    tally.kept = 1
    for _ in range(9):
        tally.refuse({"reason": "other_speaker"})
    tally.close()
    assert problems(tally) == []
    for _ in range(2):
        tally.refuse({"reason": "silent"})
    assert problems(tally) == [
        "2 of 3 rows are unusable (silent 2): see data/rejected.jsonl and repair the source",
    ]


@pytest.fixture
def rows(wav: Callable[..., str]) -> list[dict[str, Any]]:
    return [
        {"audio": wav(f"c{n}", says(one, n)), "text": f"Sentence {n}.", "speaker": "Host"} for n, one in enumerate(WHO)
    ]


def speakers_of(settings: Any) -> dict[int, str]:
    """Row number, from 0 -> speaker in the prepared dataset, which a row's altered copies have as well."""
    tables = [read_split(settings.paths, split) for split in ("train", "validation")]
    pairs = {(row["id"].split("#")[0], row["speaker"]) for table in tables for row in table.to_pylist()}
    assert len({row for row, _ in pairs}) == len(pairs)
    return {int(row.removeprefix("train-")) - 1: speaker for row, speaker in pairs}


class Counted:
    """How many clips were embedded to tell people apart, and of how many recordings the contents were looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from job.prepare import clip_voices

        self.clips = self.ends = 0
        known, ends = clip_voices.halves_of, files.digest_ends

        def read(path: Path) -> str:
            self.ends += 1
            return ends(path)

        def counted(samples: Any, encoder: SpeakerEncoder) -> Any:
            self.clips += 1
            return known(samples, encoder)

        monkeypatch.setattr(clip_voices, "halves_of", counted)
        monkeypatch.setattr(files, "digest_ends", read)

    def since(self) -> tuple[int, int]:
        found, self.clips, self.ends = (self.clips, self.ends), 0, 0
        return found


@pytest.mark.slow
def test_people_become_speakers_and_only_what_is_new_is_embedded(
    make: Make,
    rows: list[dict[str, Any]],
    wav: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = Counted(monkeypatch)
    options = {"quality_gate": "off", "augment_volume": True}
    asked = make(rows[5:], keep_speakers="split", **options)
    prepare.run(asked)
    expected = {0: "host", 1: "host_2"}
    who = WHO[5:]
    assert speakers_of(asked) == {n: expected[one] for n, one in enumerate(who) if one < 2}
    refused = {row["row"] - 1: row for row in files.read_jsonl(asked.paths.rejected)}
    assert sorted(refused) == [n for n, one in enumerate(who) if one == 2]
    assert all(row["reason"] == "other_speaker" for row in refused.values())
    assert all("3 clips and 15 s, and a speaker needs 12 and 60 s" in row["detail"] for row in refused.values())
    figures = files.read_json(asked.paths.quality)
    assert set(figures["speakers"]) == set(figures["voices"]) == {"host", "host_2"}
    assert figures["people"]["host"]["left_out"] == {"people": 1, "clips": 3, "seconds": 15.12}
    assert figures["people"]["host"]["speakers"]["host_2"]["clips"] == who.count(1)
    about, vectors = read_summary(asked.paths)["speakers"], read_speakers(asked.paths)
    assert set(about) == set(vectors) == {"host", "host_2"}
    ours = [rows[5:][n]["audio"] for n, one in enumerate(who) if one == 1]
    assert set(about["host_2"]["references"]) <= set(ours), "a reference of the person's own"
    assert count.since() == (35, 35)

    # More rows, at the front: names stay, five clips are embedded, and nothing of the others is read. The files of a
    # killed run are of use. A recording that was only touched is known by its contents, then by its new time.
    more = make(rows, keep_speakers="split", **options)
    prepare.run(more)
    assert count.since() == (5, 5)
    kept = speakers_of(more)
    assert kept == {n: expected[one] for n, one in enumerate(WHO) if one < 2}
    assert "x-vectors of 5 clips were computed, those of 35 are kept from before" in capsys.readouterr().out
    damaged = sorted(more.paths.clip_voices.glob("*.npz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    prepare.run(make(rows, keep_speakers="main", **options))
    assert count.since() == (40, 40) and "is damaged" in capsys.readouterr().err
    assert set(speakers_of(more).values()) == {"host"}
    prepare.run(make(rows, keep_speakers="all", **options))
    prepare.run(make(rows, keep_speakers="split", **options))
    assert count.since() == (0, 0) and speakers_of(more) == kept
    os.utime(rows[7]["audio"])
    for ends in (1, 0):
        prepare.run(make(rows, keep_speakers="split", **options))
        assert count.since() == (0, ends) and speakers_of(more) == kept


class Killed(BaseException):
    """Nothing after it is written."""


@pytest.mark.slow
def test_two_processes_after_a_kill_name_people_as_one_does(
    make: Make, rows: list[dict[str, Any]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from job.prepare import clip_voices, shards
    from job.prepare.stage import prepare as stage

    one = make(rows, work="one", keep_speakers="split", quality_gate="off")
    prepare.run(one)
    monkeypatch.setattr(shards, "LINES", 8)
    two = make(rows, work="two", keep_speakers="split", quality_gate="off")
    known, done = clip_voices.halves_of, iter(range(10))

    def killed(samples: Any, encoder: SpeakerEncoder) -> Any:
        if next(done, None) is None:
            raise Killed
        return known(samples, encoder)

    with monkeypatch.context() as patch:
        patch.setattr(clip_voices, "halves_of", killed)
        with pytest.raises(Killed):
            prepare.run(two)
    (first,) = two.paths.clip_voices.glob("*")
    written = first.stat().st_mtime_ns
    (tmp_path / "meet").mkdir()
    in_two(lambda ranks: stage(two, ranks), tmp_path / "meet")
    assert first.stat().st_mtime_ns == written, "what was finished is of use"
    assert len(list(two.paths.clip_voices.glob("*"))) == 5, "a file a shard"
    assert speakers_of(two) == speakers_of(one)
    assert files.read_json(two.paths.people) == files.read_json(one.paths.people)
