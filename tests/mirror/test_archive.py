"""A set of files in the mirror is complete or invisible, wherever an upload is cut off, and comes back as it went."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job.config import settings as variables
from job.core.errors import BadInput, Unreachable
from job.mirror import addresses
from job.mirror.archive import Archive, Damaged, Store, decoded
from job.mirror.folder_mirror import FolderMirror
from tests.support.bucket import KEYS, Bucket

NAMES = st.sampled_from(["output/a.txt", "output/b.json", "output/best/m.safetensors", "work/state/x.json"])
SETS = st.lists(st.dictionaries(NAMES, st.binary(max_size=9), min_size=1), min_size=1, max_size=4)


class Killed(Exception):
    """What a SIGKILL is to the process: nothing more happens."""


class Cut(FolderMirror):
    """A directory whose writer is killed at operation `at`, leaving half of a file under its final name.

    That is worse than a directory is, where files are renamed into place, and as bad as a bucket can be.
    """

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root)
        self.left = at

    def replace(self, new: Mapping[str, Path | bytes], gone: Collection[str] = ()) -> None:
        for name, source in new.items():
            data = source if isinstance(source, bytes) else source.read_bytes()
            if not self.left:
                (self._root / name).parent.mkdir(parents=True, exist_ok=True)
                (self._root / name).write_bytes(data[: len(data) // 2])
                raise Killed
            self.left -= 1
            super().replace({name: data})
        for name in gone:
            if not self.left:
                raise Killed
            self.left -= 1
            super().replace({}, [name])


def written(into: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    shutil.rmtree(into, ignore_errors=True)
    for name, data in contents.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_bytes(data)
    return {name: into / name for name in contents}


def complete(root: Path, scratch: Path) -> dict[str, dict[str, bytes]]:
    """Every set that a new machine sees, brought back and checked."""
    archive = Archive(FolderMirror(root), "run")
    found = {}
    for manifest in archive.manifests():
        shutil.rmtree(scratch, ignore_errors=True)
        archive.bring(manifest, {"output": scratch / "output", "work": scratch / "work"})
        found[manifest.name] = {name: (scratch / name).read_bytes() for name in manifest.entries}
    return found


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sets=SETS, at=st.integers(0, 12))
def test_a_kill_at_any_operation_leaves_the_set_before_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: list[dict[str, bytes]], at: int
) -> None:
    """Each set replaces the one before it; the last upload is killed, and the next one heals what it has left."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill is no power cut
    root = tmp_path / "mirror"
    shutil.rmtree(root, ignore_errors=True)
    whole = Archive(FolderMirror(root), "run")
    for number, contents in enumerate(sets[:-1]):
        whole.keep(f"checkpoint-{number}", {}, written(tmp_path / "from", contents), [f"checkpoint-{number - 1}"])
    before = complete(root, tmp_path / "to")
    last = len(sets) - 1
    files, forget = written(tmp_path / "from", sets[-1]), [f"checkpoint-{last - 1}"]
    try:
        Archive(Cut(root, at), "run").keep(f"checkpoint-{last}", {}, files, forget)
    except Killed:
        seen = complete(root, tmp_path / "to")
        assert seen == before or seen[f"checkpoint-{last}"] == sets[-1]
    Archive(FolderMirror(root), "run").keep(f"checkpoint-{last}", {}, files, forget)
    assert complete(root, tmp_path / "to") == {f"checkpoint-{last}": sets[-1]}
    objects = list((root / "run" / "objects").iterdir())
    assert len(objects) == len({(data, Path(name).suffix) for name, data in sets[-1].items()}), "nothing is left over"


@pytest.mark.parametrize("harm", ["lost", "cut", "changed"])
def test_what_does_not_match_its_manifest_is_not_taken(tmp_path: Path, harm: str) -> None:
    store = FolderMirror(tmp_path / "mirror")
    archive = Archive(store, "run")
    archive.keep("checkpoint-1", {}, written(tmp_path / "from", {"output/a.txt": b"weights"}))
    (stored,) = (tmp_path / "mirror/run/objects").iterdir()
    if harm == "lost":
        stored.unlink()
    else:
        stored.write_bytes(b"weigh" if harm == "cut" else b"Weights")
    (manifest,) = archive.manifests()
    with pytest.raises((Damaged, FileNotFoundError)):
        archive.bring(manifest, {"output": tmp_path / "to"})


@pytest.mark.parametrize("path", ["/etc/passwd", "output/../../x", "alone"])
def test_a_manifest_cannot_name_a_file_outside(path: str) -> None:
    with pytest.raises(ValueError):
        decoded("x", b'{"format": 1, "facts": {}, "files": {"%s": [1, "00"]}}' % path.encode())


@pytest.fixture(scope="module")
def bucket():
    with Bucket() as running:
        yield running


def keys(bucket: Bucket) -> list[str]:
    """What is in it, but for pyarrow's empty marks of folders."""
    return sorted(key for key in bucket.objects if not key.endswith("/"))


@pytest.fixture
def in_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    bucket.objects.clear()
    bucket.refused.clear()
    store = addresses.opened(variables.load({"MIRROR_CHECKPOINTS": "s3://voices/kari"}))
    assert store is not None
    return store


def test_a_bucket_gives_back_what_it_got_and_keeps_no_more(in_bucket: Store, bucket: Bucket, tmp_path: Path) -> None:
    """Through pyarrow's S3 client: a file of several parts, one in two sets, and what nobody needs any more."""
    archive = Archive(in_bucket, "run")
    large = random.Random(0).randbytes(11 << 20)
    first = {"output/a.txt": b"a", "output/best/m.safetensors": large}
    second = {"output/a.txt": b"b", "output/best/m.safetensors": large, "output/copy.safetensors": large, "work/e": b""}
    assert in_bucket.listing() == {}
    assert archive.keep("checkpoint-1", {"step": 1}, written(tmp_path / "1", first)) == len(large) + 1
    assert archive.keep("checkpoint-2", {"step": 2}, written(tmp_path / "2", second), ["checkpoint-1"]) == 1
    assert archive.keep("checkpoint-2", {"step": 2}, written(tmp_path / "2", second)) is None
    (manifest,) = archive.manifests()
    archive.bring(manifest, {"output": tmp_path / "to/output", "work": tmp_path / "to/work"})
    assert {name: (tmp_path / "to" / name).read_bytes() for name in second} == second
    assert keys(bucket) == sorted(f"kari/run/{name}" for name in ("checkpoint-2.json", *manifest.objects))


def test_a_bucket_that_refuses_is_found_in_minute_one(in_bucket: Store, bucket: Bucket) -> None:
    """As bad input, which is not tried again; the secret key is in no message."""
    in_bucket.check()
    assert not keys(bucket)
    bucket.refused |= {"PUT", "POST"}
    with pytest.raises(BadInput, match=r"MIRROR_CHECKPOINTS=s3://voices/kari: .*ACCESS_DENIED") as refusal:
        in_bucket.check()
    assert not isinstance(refusal.value, Unreachable)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(refusal.value)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] in variables.load({}).secrets, "so it is masked wherever it may turn up"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/x", "use hf://owner/name, s3://bucket/path"),
        ("hf://only-a-name", "use hf://owner/name"),
        ("s3://AKIA:secret-key@bucket/path", "set AWS_ACCESS_KEY_ID"),
        ("work/mirror", "is in or around WORK_DIR"),
        ("out", "is in or around OUTPUT_DIR"),
    ],
)
def test_an_address_of_no_known_form_is_bad_input(address: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refusal:
        addresses.opened(variables.load({"MIRROR_CHECKPOINTS": address, "WORK_DIR": "work", "OUTPUT_DIR": "out"}))
    assert "secret-key" not in str(refusal.value)


def test_a_directory_that_cannot_be_written_to_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = addresses.opened(variables.load({"MIRROR_CHECKPOINTS": str(tmp_path / "file/mirror")}))
    assert store is not None
    with pytest.raises(BadInput, match="is not writable"):
        store.check()
