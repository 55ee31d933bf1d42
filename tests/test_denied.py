"""A file or folder that this process may not read ends a run in minute one, with 2 and a line that says which it is.

Never as a traceback, as advice about the disk, or as recordings that are silently left out or transcribed for nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.fetch.conftest import write_audio, write_lines
from tests.fetch.test_sharded import night

#: Runs a command in one process for each set of variables; root gives up what lets it read everything.
CODE = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from job import cli
sys.argv = ["job", sys.argv[1]]
for variables, closed in json.load(sys.stdin):
    for path, mode in closed.items():
        os.chmod(path, mode)
    os.environ.update(variables)
    said, code = io.StringIO(), 0
    with redirect_stderr(said), redirect_stdout(said):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
    print("RESULT", json.dumps([code, said.getvalue()]), flush=True)
    for name in variables:
        del os.environ[name]
    for path in closed:
        os.chmod(path, 0o755)
"""
WITHOUT_RIGHTS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all", "--"]


def told(command: str, work: Path, asked: list[tuple[dict[str, Path | str], dict[Path, int]]]) -> list[tuple[int, str]]:
    """Exit code and output of each, with `closed` paths in their modes meanwhile."""
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root reads everything, and there is no setpriv")
    fixed = {"WORK_DIR": work, "INIT_MODEL_PATH": "demo", "DEVICE": "cpu", "UPLOAD_TO_HUB": "false"}
    jobs = [
        ({name: str(value) for name, value in {**fixed, **variables}.items()}, {str(p): m for p, m in closed.items()})
        for variables, closed in asked
    ]
    called = [*(WITHOUT_RIGHTS if os.geteuid() == 0 else []), sys.executable, "-c", CODE, command]
    done = subprocess.run(called, input=json.dumps(jobs), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Recordings with texts in two folders, the same with tables, in Kaldi's form, as a tar and as Parquet."""
    for name in ("a", "b"):
        write_audio(tmp_path / "voice" / name / f"{name}.wav").with_suffix(".txt").write_text(f"text {name}")
        write_audio(tmp_path / "table" / f"{name}.wav")
    (tmp_path / "voice" / "lost+found").mkdir()
    (tmp_path / "table" / "texts.csv").write_text("file_name,text\na.wav,one\nb.wav,two\n")
    write_lines(tmp_path / "rows.jsonl", [{"audio": "table/a.wav", "text": "one"}])
    (tmp_path / "kaldi").mkdir()
    (tmp_path / "kaldi" / "wav.scp").write_text(f"u {tmp_path}/table/a.wav\n")
    (tmp_path / "kaldi" / "text").write_text("u one\n")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "n-0.tar").write_bytes(night(0))
    (tmp_path / "parquet").mkdir()
    sound = [{"bytes": (tmp_path / "table" / "a.wav").read_bytes(), "path": "a.wav"}]
    parquet.write_table(pa.table({"audio": sound, "text": ["one"]}), tmp_path / "parquet" / "train-0.parquet")
    return tmp_path


def test_what_may_not_be_read_is_named_with_its_variable(place: Path) -> None:
    """Whatever the layout, and whether it is a file, a folder, one above it, or one of several that lies in it."""
    cases: list[tuple[dict[str, Any], str, int]] = [
        ({"TRAIN_JSONL": place / "rows.jsonl"}, "rows.jsonl", 0),
        ({"DATASETS": f"{place / 'voice'} weight=2|{place / 'rows.jsonl'}"}, "voice", 0),
        ({"TRAIN_JSONL": place / "rows.jsonl", "VALIDATION_JSONL": place / "kaldi" / "v.jsonl"}, "kaldi", 0),
        ({"DATA_DIR": place / "voice"}, "voice", 0),
        ({"DATA_DIR": place / "voice"}, "voice", 0o111),
        ({"DATA_DIR": place / "voice"}, "voice/a", 0),
        ({"DATA_DIR": place / "voice"}, "voice/a", 0o444),
        ({"DATA_DIR": place / "voice" / "a"}, "voice", 0),
        ({"DATA_DIR": place / "table"}, "table/texts.csv", 0),
        ({"DATA_DIR": place / "kaldi"}, "kaldi/text", 0),
        ({"DATA_DIR": place / "kaldi"}, "kaldi/wav.scp", 0),
        ({"DATA_DIR": place / "parquet"}, "parquet/train-0.parquet", 0),
        ({"TRAIN_JSONL": place / "tars"}, "tars", 0),
        ({"TRAIN_JSONL": place / "tars" / "n-*.tar"}, "tars/n-0.tar", 0),
        ({"TRAIN_JSONL": place / "rows.jsonl", "REF_AUDIO_PATH": place / "voice/a/a.wav"}, "voice/a/a.wav", 0),
        ({"TRAIN_JSONL": place / "rows.jsonl", "INIT_MODEL_PATH": place / "kaldi"}, "kaldi", 0),
        ({"TRAIN_JSONL": place / "rows.jsonl", "TEST_TEXTS": place / "kaldi" / "texts.txt"}, "kaldi", 0),
        ({"TRAIN_JSONL": place / "rows.jsonl", "WORK_DIR": place / "kaldi" / "work"}, "kaldi", 0),
    ]
    found = told("doctor", place / "work", [(variables, {place / closed: mode}) for variables, closed, mode in cases])
    for (variables, closed, mode), (code, said) in zip(cases, found, strict=True):
        (line,) = [one for one in said.splitlines() if one.startswith("error: ")] or [said]
        name = list(variables)[-1]
        assert code == 2 and "Traceback" not in said, (variables, closed, mode, said)
        assert line.startswith(f"error: {name}: {place / closed}: Permission denied; this job runs as uid"), line


def test_rows_and_folders_that_are_not_the_users_are_no_reason_to_refuse(place: Path) -> None:
    """A row whose recording is out of reach is left out, and says why; a volume's own folder is passed over."""
    rows = write_lines(place / "t.jsonl", [{"audio": f"{n}/x.wav", "text": n} for n in ("voice", "table")])
    shutil.copy(place / "table" / "a.wav", place / "table" / "x.wav")
    one = write_lines(place / "one.jsonl", [{"audio": "voice/x.wav", "text": "x"}])
    none, several, volume = told(
        "fetch",
        place / "work",
        [
            ({"TRAIN_JSONL": one}, {place / "voice": 0}),
            ({"TRAIN_JSONL": rows}, {place / "voice": 0}),
            ({"DATA_DIR": place / "voice"}, {place / "voice" / "lost+found": 0}),
        ],
    )
    assert none[0] == 2 and f"audio cannot be read: {place / 'voice' / 'x.wav'}: permission denied" in none[1]
    assert several[0] == 0 and "1 training and 0 validation rows, 1 left out" in several[1]
    assert volume[0] == 0 and "2 training and 0 validation rows, 0 left out" in volume[1]
