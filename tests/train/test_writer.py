"""Checkpoints written in the background: in order, one at a time, and no failure is lost."""

from __future__ import annotations

import errno
import threading
import time

import pytest
from safetensors import SafetensorError

from job.train.writer import BackgroundWriter


def test_training_goes_on_while_one_checkpoint_is_written():
    """`submit` comes back at once; the next one waits, so that never two copies are in memory."""
    may_end, under_way, most, order = threading.Event(), [], [], []

    def write(number):
        under_way.append(number)
        most.append(len(under_way))
        assert may_end.wait(60)
        order.append(number)
        under_way.remove(number)

    with BackgroundWriter() as writer:
        writer.submit(lambda: write(1))
        assert order == []  # and here we are already
        threading.Timer(0.2, may_end.set).start()
        writer.submit(lambda: write(2))
        assert order[:1] == [1]
        writer.submit(lambda: write(3))
    assert order == [1, 2, 3] and max(most) == 1


def test_a_failure_is_raised_by_what_comes_next():
    def fail():
        raise OSError(errno.EIO, "Input/output error", "disk")

    with pytest.raises(OSError, match="Input/output error"), BackgroundWriter() as writer:
        writer.submit(fail)
    with BackgroundWriter() as writer:
        writer.submit(fail)
        time.sleep(0.1)
        with pytest.raises(OSError, match="Input/output error"):
            writer.submit(lambda: None)
        writer.wait()  # said once


def test_a_full_disk_is_told_from_other_failures():
    """safetensors says so in a text of its own; the command line knows the system's number for it."""

    def full():
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError) as caught, BackgroundWriter() as writer:
        writer.submit(full)
    assert caught.value.errno == errno.ENOSPC


def test_what_ended_training_is_not_hidden_by_a_failed_writing():
    def fail():
        raise OSError("disk")

    with pytest.raises(KeyError, match="training"), BackgroundWriter() as writer:
        writer.submit(fail)
        raise KeyError("training")
