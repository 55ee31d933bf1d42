"""The lines of the logs: on a full disk they wait, whole and in order, and the run goes on."""

from __future__ import annotations

import errno
import json

import pytest

from job.train.logs import Lines
from tests.support.small_disk import small_disk


def numbers(log):
    return [json.loads(line)["step"] for line in log.read_text(encoding="utf-8").splitlines()]


def test_lines_wait_on_a_full_disk_until_there_is_room(tmp_path, capsys):
    """/dev/full refuses as a full disk does; one warning names the variable, and no line is lost."""
    training, validation = tmp_path / "training.jsonl", tmp_path / "validation.jsonl"
    training.symlink_to("/dev/full")
    lines = Lines()
    for step in range(1, 4):
        lines.append(training, {"step": step})
        lines.append(validation, {"step": step})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and f"OUTPUT_DIR={tmp_path} is full: make room" in said[0], said
    assert numbers(validation) == [1, 2, 3], "another log has room"
    with pytest.raises(OSError) as caught:
        lines.finish()
    assert caught.value.errno == errno.ENOSPC
    training.unlink()
    lines.append(training, {"step": 4})
    assert numbers(training) == [1, 2, 3, 4]
    lines.finish()
    assert numbers(training) == [1, 2, 3, 4]


def test_lines_that_waited_are_written_at_the_end(tmp_path):
    log = tmp_path / "training.jsonl"
    log.symlink_to("/dev/full")
    lines = Lines()
    lines.append(log, {"step": 1})
    log.unlink()
    lines.finish()
    assert numbers(log) == [1]


def test_room_is_made_before_a_line_waits(tmp_path, capsys):
    log = tmp_path / "training.jsonl"
    log.symlink_to("/dev/full")

    def making_room(write):
        try:
            write()
        except OSError:
            log.unlink()
            write()

    lines = Lines(making_room)
    lines.append(log, {"step": 1})
    assert numbers(log) == [1]
    assert not capsys.readouterr().err


def test_no_part_of_a_line_is_left(tmp_path):
    """A line of which only the beginning fits leaves nothing, so whoever reads meanwhile finds whole lines."""
    with small_disk(tmp_path / "disk", 64) as disk:
        log, lines = disk / "training.jsonl", Lines()
        lines.append(log, {"step": 1})
        (disk / "other").write_bytes(bytes(40 << 10))
        long = {"step": 2, "said": "x" * (30 << 10)}
        lines.append(log, long)
        assert numbers(log) == [1]
        (disk / "other").unlink()
        lines.append(log, {"step": 3})
        assert numbers(log) == [1, 2, 3]


def test_other_errors_end_the_run(tmp_path):
    with pytest.raises(FileNotFoundError):
        Lines().append(tmp_path / "gone" / "training.jsonl", {"step": 1})


def test_a_disk_that_is_full_again_is_said_again(tmp_path, capsys):
    """And what waits can be written before a checkpoint is taken, whether or not there is room."""
    log, lines = tmp_path / "training.jsonl", Lines()
    for step in (1, 2):
        log.symlink_to("/dev/full")
        lines.append(log, {"step": step})
        assert capsys.readouterr().err.count("is full: make room") == 1
        lines.retry()
        log.unlink()
        lines.retry()
        assert numbers(log) == [step]
        log.unlink()
