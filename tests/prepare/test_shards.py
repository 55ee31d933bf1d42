"""Killed, shared and disturbed runs: finished shards are kept, and the dataset is that of an undisturbed run."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job import prepare
from job.config.settings import Settings
from job.core import files
from job.core.errors import DataRefused
from job.dataset.prepared import read_split
from job.prepare import shards
from job.prepare.stage import merge
from job.prepare.work import COPIES, Work
from tests.prepare.conftest import Make, complete, voice


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of three lines."""
    monkeypatch.setattr(shards, "LINES", 3)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Twenty rows: recordings of two speakers at two rates, a loud one, unusable ones, and rows that come encoded."""
    import soundfile

    directory = tmp_path_factory.mktemp("recordings")
    draw = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for n in range(20):
        row: dict[str, Any] = {"text": f"Row {n} of them.", "speaker": "ab"[n % 2]}
        if n % 6 == 5:
            row["audio_codes"] = draw.integers(0, 2048, (5 + n, 16)).tolist()
        elif n % 7 == 3:
            row["audio"] = str(directory / "none.wav")
        else:
            rate = (24_000, 16_000)[n % 2]
            row["audio"] = str(directory / f"{n}.wav")
            level = 8.0 if n == 8 else 1.0
            soundfile.write(row["audio"], np.clip(level * voice(0.6 + 0.1 * (n % 4), rate, seed=n), -1, 1), rate)
        rows.append(row)
    return rows


def everything(settings: Settings) -> dict[str, bytes]:
    """All that prepare leaves under data/ besides its shards."""
    data = settings.paths.prepared.parent
    found = {str(path.relative_to(data)): path for path in sorted(data.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(("raw", "encoding"))}


def leftovers(settings: Settings) -> list[str]:
    """Temporary files and directories anywhere in the work directory."""
    names = [path.name for path in settings.paths.work.rglob("*")]
    return [name for name in names if name.startswith(".") or "partial" in name]


@contextlib.contextmanager
def process(function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """A process of its own that runs `function`, forked so that torch need not be imported again."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    try:
        yield child
    finally:
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()


def notes(settings: Settings) -> dict[str, float]:
    """Finished shards, and when they were written."""
    return {path.stem: path.stat().st_mtime_ns for path in settings.paths.encoding.glob("*.json")}


def interrupted(settings: Settings, finished: int) -> dict[str, float]:
    """Kill a run of the stage with SIGKILL when it has finished so many shards. Returns the shards that it left."""
    with process(prepare.run, settings) as child:
        deadline = time.monotonic() + 60
        while len(notes(settings)) < finished and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
    assert child.exitcode == -signal.SIGKILL
    return notes(settings)


ALL = {"augment_volume": True, "validation_fraction": 0.2, "max_hours": 9.5 / 3600, "quality_gate": "warn"}


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, ALL])
def test_a_run_that_is_killed_again_and_again_gives_what_an_undisturbed_one_gives(
    make: Make, mixed: list[dict[str, Any]], values: dict[str, Any]
) -> None:
    """Rows, figures, the page and the list of rejected rows, byte for byte, and no file is left over."""
    calm = make(mixed, work="calm", **values)
    counts = prepare.run(calm)
    disturbed = make(mixed, work="disturbed", **values)
    draw = random.Random(1)
    for _ in range(10):
        with process(prepare.run, disturbed) as child:
            child.join(draw.uniform(0.0, 0.5))
    assert prepare.run(disturbed) == counts
    assert everything(disturbed) == everything(calm)
    assert leftovers(disturbed) == leftovers(calm) == []
    assert read_split(disturbed.paths, "train").equals(read_split(calm.paths, "train"))


def test_finished_shards_are_kept_and_said(
    make: Make, mixed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make(mixed)
    left = interrupted(settings, 3)
    assert len(left) >= 3
    prepare.run(settings)
    after = notes(settings)
    assert len(after) == 7
    assert {name: after[name] for name in left} == left
    assert f"{3 * len(left)} train rows were encoded by a run before this one" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "note"])
def test_a_damaged_shard_is_encoded_again_and_the_others_are_not(
    make: Make, mixed: list[dict[str, Any]], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calm, settings = make(mixed, work="calm"), make(mixed)
    prepare.run(calm)
    work = Work(settings)
    work.encode(("train",))
    before = notes(settings)
    shard = settings.paths.encoding / "train-000002.arrow"
    contents = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(contents[:-100])
    elif damage == "changed":
        contents[len(contents) // 2] ^= 255
        shard.write_bytes(contents)
    elif damage == "gone":
        shard.unlink()
    else:
        shard.with_suffix(".json").write_text('{"fingerprint":')
    Work(settings).encode(("train",))
    after = notes(settings)
    assert [name for name in before if before[name] != after[name]] == ["train-000002"]
    if damage != "note":
        assert "train-000002.arrow is damaged; its rows are encoded again" in capsys.readouterr().err
    prepare.run(settings)
    assert everything(settings) == everything(calm)


def redone(settings: Settings, before: dict[str, float]) -> list[str]:
    """Shards that a run with these settings has to encode again."""
    Work(settings).encode(("train", "validation", COPIES))
    after = notes(settings)
    return sorted(name for name in after if before.get(name) != after[name])


@pytest.mark.slow
def test_a_shard_is_used_only_for_the_rows_and_settings_that_it_was_made_of(
    make: Make, mixed: list[dict[str, Any]], wav: Callable[..., str]
) -> None:
    """A changed text, speaker, recording, or length limit; settings that codes do not follow from keep them."""
    rows = [dict(row) for row in mixed]
    rows[7]["audio"] = wav("own", voice(0.8, seed=70))
    settings = make(rows)
    Work(settings).encode(("train",))
    before = notes(settings)
    assert redone(make(rows, quality_gate="warn", num_workers=2, seed=3, prepare_batch_size=1), before) == []
    rows[4]["text"] = "Changed."
    assert redone(make(rows), before) == ["train-000001"]
    before = notes(settings)
    wav("own", voice(0.8, seed=71))
    assert redone(make(rows), before) == ["train-000002"]
    before = notes(settings)
    assert len(redone(make(rows, min_seconds=0.65), before)) == 7
    before = notes(settings)
    assert len(redone(make(rows), before)) == 7
    before = notes(settings)
    assert redone(make(rows, augment_volume=True), before) == [f"copies-00000{n}" for n in range(7)]
    before = notes(settings)
    assert redone(make(rows, augment_noise=True), before) == [f"copies-00000{n}" for n in range(7)]


def test_shards_of_other_data_are_neither_used_nor_left(make: Make, mixed: list[dict[str, Any]]) -> None:
    settings = make(mixed)
    Work(settings).encode(("train",))
    fewer = make(mixed[6:10], work="work")
    prepare.run(fewer)
    calm = make(mixed[6:10], work="calm")
    prepare.run(calm)
    assert everything(fewer) == everything(calm)
    assert sorted(notes(fewer)) == sorted(notes(calm)) == ["train-000000", "train-000001"]
    assert leftovers(fewer) == []


def test_what_the_gate_refuses_need_not_be_encoded_again(make: Make, mixed: list[dict[str, Any]]) -> None:
    rows = [*mixed[:3], *({"text": "x"} for _ in range(4))]
    with pytest.raises(DataRefused, match="4 of 7 rows are unusable"):
        prepare.run(make(rows))
    settings = make(rows, quality_gate="warn")
    before = notes(settings)
    assert redone(settings, before) == []
    prepare.run(settings)
    assert leftovers(settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_shards_and_the_dataset_is_that_of_one(
    make: Make, mixed: list[dict[str, Any]], world: int
) -> None:
    """Each shard has one owner; order, limits, split and copies do not depend on how many there were."""
    values = {"augment_volume": True, "max_hours": 9.5 / 3600, "max_eval_samples": 2, "quality_gate": "warn"}
    train, validation = mixed[:14], mixed[14:]
    alone = make(train, work="alone", validation=validation, **values)
    prepare.run(alone)
    shared = make(train, work="shared", validation=validation, **values)

    def encode(rank: int) -> None:
        Work(shared).encode(("train", "validation", COPIES), rank, world)

    with process(encode, 1) as child:
        child.join()
    assert {int(name[-6:]) % world for name in notes(shared)} == {1}
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process(encode, rank)) for rank in range(world)]
        for child in children:
            child.join()
    assert [child.exitcode for child in children] == [0] * world
    merge(Work(shared))
    assert everything(shared) == everything(alone)
    assert leftovers(shared) == []


def test_rows_past_the_limits_are_not_encoded(make: Make, mixed: list[dict[str, Any]]) -> None:
    settings = make(mixed, max_hours=2.5 / 3600, validation=mixed, max_eval_samples=2)
    Work(settings).encode(("train", "validation"), 0, 1)
    assert 1 <= sum(name.startswith("validation") for name in notes(settings)) <= 3
    assert 2 <= sum(name.startswith("train") for name in notes(settings)) <= 5


def test_a_limit_that_is_reached_at_the_end_of_a_shard_asks_for_no_other(
    make: Make, clips: list[dict[str, Any]]
) -> None:
    """Neither in the encoding nor in what is read: MAX_EVAL_SAMPLES of three, shards of three."""
    rows = [{key: row[key] for key in ("audio", "text")} for row in clips]
    settings = make(rows[:1], validation=[*rows[1:8], *({"text": "x"} for _ in range(30))], max_eval_samples=3)
    Work(settings).encode(("train", "validation"))
    assert sum(name.startswith("validation") for name in notes(settings)) < 8
    prepare.run(settings)
    assert read_split(settings.paths, "validation").column("id").to_pylist() == [f"validation-{n}" for n in (1, 2, 3)]


@pytest.mark.slow
def test_what_a_lost_process_has_not_encoded_the_first_one_does(make: Make, mixed: list[dict[str, Any]]) -> None:
    """A limit is reckoned from the shards before one, not from those that happen to be there."""
    values = {"max_hours": 5.0 / 3600, "quality_gate": "warn", "augment_volume": True}
    calm, settings = make(mixed, work="calm", **values), make(mixed, **values)
    prepare.run(calm)
    work = Work(settings)
    work.encode(("train", COPIES), 1, 2)
    work.encode(("train", COPIES), 0, 2)
    for name in ("train-000000", "copies-000001"):
        (settings.paths.encoding / f"{name}.json").unlink(missing_ok=True)
    merge(Work(settings))
    assert everything(settings) == everything(calm)


def test_rows_that_come_encoded_have_no_copies_and_that_is_no_error(make: Make, mixed: list[dict[str, Any]]) -> None:
    rows = [row for row in mixed if "audio_codes" in row] * 2
    settings = make([*rows, *mixed[:1]], augment_volume=True, quality_gate="warn")
    assert prepare.run(settings)["train_rows"] == len(rows) + 2


@pytest.mark.slow
def test_a_full_disk_names_the_file_and_the_next_run_goes_on(
    make: Make, mixed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The third shard is written to /dev/full, which refuses as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    settings = make(mixed)
    settings.paths.encoding.mkdir(parents=True)
    (settings.paths.encoding / ".train-000002.arrow.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        prepare.run(settings)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).endswith("train-000002.arrow")
    assert sorted(notes(settings)) == ["train-000000", "train-000001"]
    prepare.run(settings)
    assert "6 train rows were encoded by a run before this one" in capsys.readouterr().out
    calm = make(mixed, work="calm")
    prepare.run(calm)
    assert everything(settings) == everything(calm)
    assert leftovers(settings) == []


def test_new_rows_at_the_end_leave_whole_shards_as_they_are(make: Make, mixed: list[dict[str, Any]]) -> None:
    settings = make(mixed[:8])
    Work(settings).encode(("train",))
    before = notes(settings)
    files.write_jsonl(settings.paths.manifest("train"), complete(mixed, "train"))
    assert redone(settings, before) == [f"train-00000{n}" for n in range(2, 7)]
