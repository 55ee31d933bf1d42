"""A disk or a mount that fails costs no row: the run ends with 1 and one line, and the same command goes on."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest

from job.audio import clip
from job.audio.unusable import Unusable
from job.core import storage
from job.core.errors import StorageFailed
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


@pytest.fixture
def gone():
    """A set of folders below which this process can open nothing, with the system's error that it says."""
    places: dict[str, int] = {}

    def hook(event, arguments):
        if event == "open" and places:
            for folder, number in places.items():
                if str(arguments[0]).startswith(folder):
                    raise OSError(number, os.strerror(number), str(arguments[0]))

    sys.addaudithook(hook)  # cannot be removed: the folders are forgotten instead
    yield places
    places.clear()


def folder_of_clips(path):
    """Recordings with their texts beside them."""
    for name in ("en-01", "en-02", "en-03"):
        shutil.copy(CLIPS / f"{name}.flac", path)
        (path / f"{name}.txt").write_text(f"Words of {name}.")


@pytest.fixture
def given(tmp_path):
    """The variables of a run over a folder of recordings on what stands for a mount."""
    source = tmp_path / "mount"
    source.mkdir()
    folder_of_clips(source)
    named = {"SPEAKER_NAME": "ada", "LANGUAGE": "English", "ASR_MODEL": ""}
    return {"PRESET": "demo", "WORK_DIR": tmp_path / "work", "DATA_DIR": source, **named}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENFILE])
def test_what_a_mount_says_that_has_gone_ends_the_run(tmp_path, number, capsys, gone, given):
    """The system's errors of a network mount, raised where Python asks for them (an audit hook: there is no mount)."""
    assert run_job(capsys, ["fetch"], given).code == 0
    gone[str(given["DATA_DIR"])] = number
    result = run_job(capsys, ["prepare"], given)
    assert result.code == 1, result
    assert len(result.errors) == 1 and f"flac: {os.strerror(number)}" in result.errors[0]
    gone.clear()
    again = run_job(capsys, ["prepare"], given)
    assert again.code == 0 and not (tmp_path / "work/data/rejected.jsonl").read_text()


@pytest.mark.parametrize("name", ["en-02.txt", "en-02.flac"])
def test_a_mount_that_goes_while_rows_are_fetched_ends_the_run(capsys, gone, given, name):
    """Neither is the row left out, nor the recording transcribed for want of its text."""
    gone[str(given["DATA_DIR"] / name)] = errno.ESTALE
    result = run_job(capsys, ["run", "--from", "fetch", "--until", "prepare"], given)
    assert result.code == 1, result
    assert f"{name}: {os.strerror(errno.ESTALE)}" in result.errors[0]


def test_one_damaged_recording_costs_its_row_and_no_more(tmp_path, gone):
    """A bad sector is the file's own, or a folder with one would never be trained on."""
    folder_of_clips(tmp_path)
    gone[str(tmp_path / "en-02.flac")] = errno.EIO
    with pytest.raises(Unusable, match="input/output error"):
        clip.load(tmp_path / "en-02.flac", 24_000)
    gone[str(tmp_path)] = errno.EIO
    with pytest.raises(StorageFailed):
        clip.load(tmp_path / "en-02.flac", 24_000)


def test_errors_that_are_the_files_own_are_none_of_storage(tmp_path):
    """A name that no file system takes, or a file that is not there, is its row's fault."""
    storage.check(FileNotFoundError(errno.ENOENT, "x"))
    storage.check(ValueError("x"))
    assert Finder().find("a" * 5000, "audio", [tmp_path]) is None
    with pytest.raises(Unusable, match="no such file"):
        clip.load(tmp_path / "none.wav", 24_000)
