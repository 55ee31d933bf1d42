"""The local Hub behaves like the real one towards the real clients (a protocol mistake here would hide ours)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.hub.server import READ, WRITE, Hub
from tests.hub.store import Token


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


def run(hub: Hub, home: Path, code: str, *, token: str | None = None) -> Any:
    """Run `code` in a process whose clients talk to `hub`; it prints JSON on its last line."""
    env = {**os.environ, **hub.env(home)} | ({"HF_TOKEN": token} if token else {})
    if token is None:
        env.pop("HF_TOKEN", None)
    prelude = "import json, sys\nfrom pathlib import Path\nfrom huggingface_hub import HfApi\napi = HfApi()\n"
    done = subprocess.run([sys.executable, "-c", prelude + code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def clip(seed: int, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).normal(0, 0.1, 4000).astype(np.float32)
    soundfile.write(buffer, samples, 16000, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("part_size", [None, 50_000])
def test_upload_and_download_round_trip(tmp_path: Path, part_size: int | None) -> None:
    """What upload_folder sends, snapshot_download gets back, large files in one piece or in parts."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    files = {
        "README.md": b"---\nlicense: mit\n---\n# hi\n",
        "config.json": b'{"a": 1}',
        "model.safetensors": np.random.default_rng(0).bytes(180_001),
        "sub/empty.txt": b"",
        "sub/b.wav": clip(0, "WAV"),
        "sub/\u00e5 b.txt": b"name",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with Hub(part_size=part_size) as hub:
        code = f"""
folder = Path({str(folder)!r})
api.create_repo("alice/new", private=True)
first = api.upload_folder(repo_id="alice/new", folder_path=folder, commit_message="one")
again = api.upload_folder(repo_id="alice/new", folder_path=folder, commit_message="two")
got = Path(api.snapshot_download("alice/new"))
names = sorted(p.relative_to(got).as_posix() for p in got.rglob("*") if p.is_file())
same = all((got / n).read_bytes() == (folder / n).read_bytes() for n in names)
listed = sorted(f.path for f in api.list_repo_tree("alice/new", recursive=True) if hasattr(f, "size"))
info = api.model_info("alice/new", files_metadata=True)
sizes = {{s.rfilename: s.size for s in info.siblings}}
print(json.dumps([names, same, first.oid == again.oid, listed, sizes, info.private]))
"""
        names, same, one_commit, listed, sizes, private = run(hub, tmp_path / "home", code, token=WRITE)
        assert names == listed == sorted(files)
        assert same
        assert one_commit, "unchanged files make no second commit"
        assert sizes == {name: len(data) for name, data in files.items()}
        assert private
        assert hub.files("model", "alice/new") == files
        puts = hub.seen("PUT", "^/_upload")
        assert len(puts) == (2 if part_size is None else 1 + 4)
        assert all("Authorization" not in r.headers for r in puts), "signed addresses need no token"
        assert not hub.seen("GET", "xet")


@pytest.mark.slow
def test_datasets_reads_parquet_with_audio(hub: Hub, tmp_path: Path) -> None:
    """`load_dataset` by name gives a parquet dataset's audio bytes, downloaded and streamed, public and private."""
    import pyarrow
    import pyarrow.parquet

    clips = [clip(i) for i in range(5)]
    table = pyarrow.table(
        {"audio": [{"bytes": c, "path": f"{i}.flac"} for i, c in enumerate(clips)], "text": [f"t{i}" for i in range(5)]}
    )
    features = {"audio": {"_type": "Audio"}, "text": {"dtype": "string", "_type": "Value"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    files: dict[str, bytes | str] = {"data/train-00000-of-00001.parquet": buffer.getvalue()}
    hub.add_repo("dataset", "alice/open", files)
    hub.add_repo("dataset", "alice/closed", files, private=True)
    hub.add_repo("dataset", "alice/hidden", files, private=True)
    code = f"""
from datasets import Audio, load_dataset
seen = []
for name, token in (("alice/open", None), ("alice/closed", {READ!r})):
    for streaming in (False, True):
        rows = load_dataset(name, split="train", streaming=streaming, token=token)
        rows = list(rows.cast_column("audio", Audio(decode=False)))
        seen.append([[r["text"], len(r["audio"]["bytes"])] for r in rows])
try:
    load_dataset("alice/hidden", split="train", token=False)
    seen.append("read without a token")
except Exception as error:
    seen.append(type(error).__name__)
print(json.dumps(seen))
"""
    *reads, anonymous = run(hub, tmp_path / "home", code)
    assert reads == [[[f"t{i}", len(c)] for i, c in enumerate(clips)]] * 4
    assert anonymous == "DatasetNotFoundError"


@pytest.mark.slow
def test_datasets_reads_a_folder_of_clips(hub: Hub, tmp_path: Path) -> None:
    """A dataset repo of clips with a metadata.jsonl comes down whole, over more than one page of listing."""
    clips = {f"clips/{i}.wav": clip(i, "WAV") for i in range(7)}
    rows = [{"file_name": name, "text": f"t{i}"} for i, name in enumerate(clips)]
    hub.add_repo("dataset", "alice/folder", {**clips, "metadata.jsonl": "\n".join(map(json.dumps, rows))})
    code = """
from datasets import load_dataset
rows = list(load_dataset("alice/folder", data_files="metadata.jsonl", split="train"))
got = Path(api.snapshot_download("alice/folder", repo_type="dataset"))
print(json.dumps([rows, {p.relative_to(got).as_posix(): p.stat().st_size for p in got.rglob("*.wav")}]))
"""
    read, sizes = run(hub, tmp_path / "home", code)
    assert read == rows
    assert sizes == {name: len(data) for name, data in clips.items()}


def test_rights(hub: Hub, tmp_path: Path) -> None:
    """Who may see, create and change what: the client's exception is the one that the real Hub's answer makes."""
    hub.add_repo("model", "alice/private", {"a.txt": "a"}, private=True)
    hub.add_repo("model", "bob/public", {"a.txt": "a"})
    fine = "hf_" + "F" * 34
    hub.tokens[fine] = Token("alice", "fineGrained", scoped={("model", "alice/private"): ("repo.write",)})
    code = f"""
from requests import HTTPError
R, W, F, BAD = {READ!r}, {WRITE!r}, {fine!r}, "hf_bad"
def outcome(call, *args, **kw):
    try:
        call(*args, **kw)
        return "ok"
    except HTTPError as error:
        return f"{{type(error).__name__}} {{error.response.status_code}}"
up = dict(path_or_fileobj=b"b", path_in_repo="b.txt")
print(json.dumps({{
    "anonymous sees private": outcome(api.model_info, "alice/private", token=False),
    "anonymous sees missing": outcome(api.model_info, "alice/missing", token=False),
    "reader sees private": outcome(api.model_info, "alice/private", token=R),
    "reader sees missing": outcome(api.model_info, "alice/missing", token=R),
    "bad token": outcome(api.whoami, token=BAD),
    "reader creates": outcome(api.create_repo, "alice/x", token=R),
    "writer creates": outcome(api.create_repo, "alice/x", token=W),
    "writer creates again": outcome(api.create_repo, "alice/x", token=W),
    "writer creates at choir": outcome(api.create_repo, "choir/x", token=W),
    "writer creates at studio": outcome(api.create_repo, "studio/x", token=W),
    "fine creates": outcome(api.create_repo, "alice/y", token=F),
    "fine uploads": outcome(api.upload_file, repo_id="alice/private", token=F, **up),
    "reader uploads": outcome(api.upload_file, repo_id="alice/private", token=R, **up),
    "writer uploads to bob": outcome(api.upload_file, repo_id="bob/public", token=W, **up),
    "no file": outcome(api.hf_hub_download, "bob/public", "nothing.txt", token=False),
    "no revision": outcome(api.model_info, "bob/public", revision="v9", token=False),
    "writer deletes": outcome(api.delete_repo, "alice/x", token=W),
}}))
"""
    assert run(hub, tmp_path / "home", code) == {
        "anonymous sees private": "RepositoryNotFoundError 401",
        "anonymous sees missing": "RepositoryNotFoundError 401",
        "reader sees private": "ok",
        "reader sees missing": "RepositoryNotFoundError 404",
        "bad token": "HTTPError 401",
        "reader creates": "HfHubHTTPError 403",
        "writer creates": "ok",
        "writer creates again": "HfHubHTTPError 409",
        "writer creates at choir": "HfHubHTTPError 403",
        "writer creates at studio": "ok",
        "fine creates": "HfHubHTTPError 403",
        "fine uploads": "ok",
        "reader uploads": "HfHubHTTPError 403",
        "writer uploads to bob": "HfHubHTTPError 403",
        "no file": "EntryNotFoundError 404",
        "no revision": "RevisionNotFoundError 404",
        "writer deletes": "ok",
    }
    assert set(hub.files("model", "alice/private")) == {"a.txt", "b.txt"}


def test_card_rules_and_faults(hub: Hub, tmp_path: Path) -> None:
    """An empty base_model is refused in the Hub's words, also at the commit; faults reach the client as such."""
    hub.add_repo("model", "alice/m", {"data.bin": b"0" * 100})
    hub.fail("POST", "/api/validate-yaml", status=200, times=1)  # the first upload gets past the client's own check
    hub.fail("GET", "/api/models/alice/m$", status=429, times=1, retry_after="1")
    hub.drop("GET", "/resolve/main/data.bin", times=1)
    code = """
card = b"---\\nbase_model: ''\\n---\\n"
said = []
for _ in range(2):
    try:
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/m")
    except Exception as error:
        said.append(str(error).replace("\\n", " "))
try:
    api.model_info("alice/m")
except Exception as error:
    said.append(error.response.headers["Retry-After"])
said.append(Path(api.hf_hub_download("alice/m", "data.bin")).read_text()[:2])
print(json.dumps(said))
"""
    at_commit, at_check, retry_after, content = run(hub, tmp_path / "home", code, token=WRITE)
    assert '"base_model" is not allowed to be empty' in at_commit
    assert at_check.startswith("Invalid metadata in README.md.")
    assert '"base_model" is not allowed to be empty' in at_check
    assert retry_after == "1"
    assert content == "00", "the client retries a dropped connection"
    assert "README.md" not in hub.files("model", "alice/m")
