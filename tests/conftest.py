"""What tests of several stages share: the embedded clips and one tiny base model a test session."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from job.demo import clips_directory

# Nothing here is a timed test, and other people's machines are busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Tiny tensors: a second thread costs more than it brings, and child processes inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in its background with SIGINT ignored; child processes inherit that, and a shell script among
# them cannot even trap it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def clips_dir() -> Path:
    """The embedded clips with their `metadata.jsonl`; read only."""
    return clips_directory()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model of the real architecture, built once a session; read only."""
    from job.demo.base import build

    return build(tmp_path_factory.mktemp("model") / "tiny-base")


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Whisper that knows three sentences and is unsure of another, trained once a session; read only."""
    from tests.support import whisper

    clips = [whisper.wave(text) for text in whisper.TEXTS]
    directory = tmp_path_factory.mktemp("whisper") / "tiny"
    return whisper.build(directory, clips, whisper.TEXTS, whisper.wave(whisper.UNSURE))
