"""A disk or a mount that fails costs no row: the run ends with 1 and one line, and the same command goes on."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest

from job.audio import clip
from job.audio.unusable import Unusable
from job.core.errors import StorageFailed, check_storage
from job.fetch.find import Finder
from tests.support.commands import run_job

CLIPS = Path(__file__).parents[1] / "job" / "demo" / "clips"


@pytest.fixture
def no_more_files():
    """A function after which this process can open no file more, which is a real error of the system."""
    limit, opened = resource.getrlimit(resource.RLIMIT_NOFILE), []

    def exhaust():
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 5, limit[1]))
        while True:
            try:
                opened.append(os.open("/dev/null", os.O_RDONLY))
            except OSError as error:
                assert error.errno == errno.EMFILE
                return

    yield exhaust
    for number in opened:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_a_recording_that_cannot_be_opened_for_the_machines_fault_is_not_the_recordings(no_more_files, tmp_path):
    """`unreadable` leaves a row out; with no file to be had, each of a million rows would have been."""
    path = CLIPS / "en-01.flac"
    assert len(clip.load(path, 24_000).samples)
    no_more_files()
    with pytest.raises(StorageFailed, match=r"en-01.flac: Too many open files: .* the same command goes on"):
        clip.load(path, 24_000)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENFILE])
def test_what_a_mount_says_that_has_gone_ends_the_run(tmp_path, number, capsys, monkeypatch):
    """The system's errors of a network mount, raised where Python asks for them (an audit hook: there is no mount)."""
    for name in ("en-01", "en-02"):
        shutil.copy(CLIPS / f"{name}.flac", tmp_path)
    rows = [json.dumps({"audio": f"{name}.flac", "text": f"Words of {name}."}) for name in ("en-01", "en-02")]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    given = {"PRESET": "demo", "WORK_DIR": tmp_path / "work", "TRAIN_JSONL": tmp_path / "rows.jsonl"}
    given |= {"SPEAKER_NAME": "ada", "LANGUAGE": "English"}
    assert run_job(capsys, ["fetch"], given).code == 0
    gone = [str(tmp_path / "en-02.flac")]

    def hook(event, arguments):
        if event == "open" and gone and str(arguments[0]) == gone[0]:
            raise OSError(number, os.strerror(number), gone[0])

    sys.addaudithook(hook)  # cannot be removed: `gone` is emptied instead
    try:
        result = run_job(capsys, ["prepare"], given)
    finally:
        gone.clear()
    assert result.code == 1, result
    assert len(result.errors) == 1 and f"en-02.flac: {os.strerror(number)}" in result.errors[0]
    again = run_job(capsys, ["prepare"], given)
    assert again.code == 0 and not (tmp_path / "work/data/rejected.jsonl").read_text()


def test_errors_that_are_the_files_own_are_none_of_storage(tmp_path):
    """A name that no file system takes, or a file that is not there, is its row's fault."""
    check_storage(FileNotFoundError(errno.ENOENT, "x"))
    check_storage(ValueError("x"))
    assert Finder().find("a" * 5000, "audio", [tmp_path]) is None
    with pytest.raises(Unusable, match="no such file"):
        clip.load(tmp_path / "none.wav", 24_000)
