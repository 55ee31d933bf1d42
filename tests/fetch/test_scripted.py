"""Hub datasets with a loading script: converted once by datasets 3.6 itself, in an environment made from its lock."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from job.core import files, inside
from job.core.errors import Unreachable
from job.fetch.scripted import confine, own_environment
from tests.fetch.scripts import attacks, plain
from tests.fetch.test_confine import gone_soon
from tests.fetch.test_hub import CLIPS, call
from tests.hub.server import READ, Hub

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(confine.landlock_abi() == 0, reason="this kernel or container has no Landlock"),
]

#: A script whose one split is what `BODY` yields.
SCRIPT = """
import os
import datasets
class It(datasets.GeneratorBasedBuilder):
    def _info(self):
        features = {"audio": datasets.Audio(), "text": datasets.Value("string")}
        return datasets.DatasetInfo(features=datasets.Features(features))
    def _split_generators(self, manager):
        return [datasets.SplitGenerator("train", {"clip": manager.download("clip.flac")})]
    def _generate_examples(self, clip):
        BODY
"""
GOOD_ROW = 'yield 1, {"audio": clip, "text": "one"}'


def script(body: str) -> dict[str, bytes | str]:
    return {"it.py": SCRIPT.replace("BODY", body.replace("\n", "\n        ")), "clip.flac": CLIPS[0]}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory that has the environment already: it takes minutes to make."""
    directory = tmp_path_factory.mktemp("scripted") / "work"
    own_environment.make(directory / "data" / "scripted", dict(os.environ))
    return directory


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


def rows(work: Path, split: str = "train") -> list[dict[str, Any]]:
    return list(files.read_jsonl(work / "data" / "raw" / f"{split}.jsonl"))


def plain_repo() -> dict[str, bytes | str]:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.flac", CLIPS[0])
        archive.writestr("b.mp3", CLIPS[1])
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        member = tarfile.TarInfo("c.ogg")
        member.size = len(CLIPS[2])
        archive.addfile(member, io.BytesIO(CLIPS[2]))
    sheet = "file,sentence,who\na.flac,one,Eva\nb.mp3,two,Adam\nc.ogg,three,Eva\n"
    return {
        "plain.py": Path(plain.__file__).read_text(encoding="utf-8"),
        "the clips.zip": zipped.getvalue(),
        "more.tar": tarred.getvalue(),
        "tables/nb.csv": sheet,
        "tables/ha.csv": sheet.replace("one", "daya"),
        "unasked.bin": b"much",
    }


def test_a_private_dataset_is_converted_once_and_its_sound_arrives_byte_for_byte(
    hub: Hub, tmp_path: Path, work: Path
) -> None:
    hub.add_repo("dataset", "alice/plain", plain_repo(), private=True)
    common = {"DATASET_NAME": "alice/plain", "WORK_DIR": work, "VALIDATION_SPLIT": "test", "SPEAKER_COLUMN": "who"}
    on = {**common, "DATASET_TRUST_REMOTE_CODE": "true"}
    (checked,) = call(hub, tmp_path, {**on, "DATASET_CONFIG": "nb"}, action="check", token=READ)
    assert "which fetch runs once, confined and without a token" in checked["value"]
    off, without, wrong, good = call(
        hub, tmp_path, common, on, {**on, "DATASET_CONFIG": "xx"}, {**on, "DATASET_CONFIG": "nb"}, token=READ
    )
    assert "set DATASET_TRUST_REMOTE_CODE=true" in off["error"]
    assert (
        without["error"] == "DATASET_NAME=alice/plain has several configurations: set DATASET_CONFIG to one of nb, ha"
    )
    assert wrong["error"] == "DATASET_CONFIG=xx: alice/plain has only nb, ha"
    assert (good["value"]["train"], good["value"]["validation"]) == (2, 1)
    assert [inside.read_bytes(Path(row["audio"])) for row in (*rows(work), *rows(work, "validation"))] == CLIPS[:3]
    assert [(row["text"], row["speaker"]) for row in rows(work)] == [("one", "eva"), ("two", "adam")]
    assert hub.seen("GET", "tables/nb.csv") and not hub.seen("GET", "unasked.bin")
    before = {path: path.stat().st_mtime_ns for path in (work / "data" / "scripted").rglob("*.parquet")}
    (checked,) = call(hub, tmp_path, {**on, "DATASET_CONFIG": "nb"}, action="check", token=READ)
    assert "train rows (text in sentence, audio in audio)" in checked["value"]
    both = {"DATASETS": "alice/plain:nb#test|alice/plain:ha", "WORK_DIR": work, "DATASET_TRUST_REMOTE_CODE": "true"}
    (mixed,) = call(hub, tmp_path, both, token=READ)
    assert mixed["value"]["train"] == 3 and {row["text"] for row in rows(work)} == {"three", "daya", "two"}
    after = {path: path.stat().st_mtime_ns for path in (work / "data" / "scripted").rglob("*.parquet")}
    assert before.items() < after.items(), "what was converted stays, and the other configuration joins it"
    assert not list((work / "data" / "scripted").glob(".*")), "nothing else is left"


def test_a_script_that_fails_ends_in_one_line(hub: Hub, tmp_path: Path, work: Path) -> None:
    cases = {
        "raises": "raise ValueError('first line\\n\\x1b[31mno column ' + 'hf_' + 'X' * 34)\n" + GOOD_ROW,
        "wrong-row": 'yield 1, {"audio": 7, "text": "one"}',
        "no-rows": "return\n" + GOOD_ROW,
        "killed": "os.kill(os.getpid(), 9)\n" + GOOD_ROW,
        "ailing": GOOD_ROW,
        "offline": f"import requests\nrequests.get('http://127.0.0.1:9/')\n{GOOD_ROW}",
        "link": f"{GOOD_ROW}\nout = os.environ['HOME'] + '/../out'\nos.symlink('/etc', out)\nos._exit(0)",
        "not-parquet": f"{GOOD_ROW}\nout = os.environ['HOME'] + '/../out'\nos.mkdir(out)\n"
        "open(out + '/train.parquet', 'w').write('text')\nos._exit(0)",
    }
    for name, body in cases.items():
        hub.add_repo(
            "dataset", f"alice/{name}", {f"{name}.py" if k == "it.py" else k: v for k, v in script(body).items()}
        )
    hub.fail("HEAD", r"alice/ailing/.*clip\.flac", status=503, times=1000)
    asked = ({"DATASET_NAME": f"alice/{name}", "WORK_DIR": work, "DATASET_TRUST_REMOTE_CODE": "1"} for name in cases)
    answers: dict[str, dict[str, str]] = dict(zip(cases, call(hub, tmp_path, *asked, token=READ), strict=True))
    assert all("\n" not in answer["error"] for answer in answers.values())
    start = "its loading script fails: "
    assert f"DATASET_NAME=alice/raises: {start}ValueError: no column ***;" in answers["raises"]["error"]
    assert "XXX" not in answers["raises"]["error"] and "***" in answers["raises"]["error"]
    assert start in answers["wrong-row"]["error"]
    assert "yields no rows" in answers["no-rows"]["error"]
    assert "was killed; use a machine with more memory" in answers["killed"]["error"]
    assert "check the network" in answers["offline"]["error"] and answers["offline"]["kind"] == "Unreachable"
    assert answers["ailing"]["kind"] == "Unreachable"
    assert "yields no rows" in answers["link"]["error"]
    assert "leaves no Parquet files" in answers["not-parquet"]["error"]
    assert {answer["kind"] for name, answer in answers.items() if name not in ("offline", "ailing")} == {"BadInput"}
    kept = " ".join(path.name for path in (work / "data" / "scripted").iterdir())
    assert not [name for name in cases if f"alice-{name}" in kept], "a conversion that failed is not kept"


def test_a_hostile_script_finds_no_token_and_changes_nothing(hub: Hub, tmp_path: Path, work: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "token").write_text(attacks.SECRET)
    (outside / "victim").write_text("victim")
    listening = f"{tmp_path}/listening"
    body = f"""import json, sys
ask = json.loads(sys.argv[1])["ask"]
os.write(ask[1], b'["../victim", "/etc/passwd", "token", 7]\\n')
answer = os.read(ask[0], 1000).decode()
os.write(ask[1], b"[" * 100_000 + b"\\n")
from pathlib import Path
found = worked(Path({str(outside)!r}), Path(clip), {listening!r})
found += worked(Path({str(work)!r}), Path(clip), {listening!r})
yield 1, {{"audio": clip, "text": json.dumps([answer, found, sorted(os.environ)])}}"""
    source = Path(attacks.__file__).read_text(encoding="utf-8").split("if __name__")[0]
    repo = script(body)
    hub.add_repo("dataset", "alice/it", {**repo, "it.py": f"{source}\n{repo['it.py']!s}"})
    hub.tokens[attacks.SECRET] = hub.tokens[READ]
    env = {**os.environ, **hub.env(tmp_path / "hf"), "AWS_SECRET_ACCESS_KEY": attacks.SECRET}
    env |= {"HTTPS_PROXY": f"http://user:{attacks.SECRET}@127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    env |= {"HF_TOKEN": attacks.SECRET, "HUGGING_FACE_HUB_TOKEN": attacks.SECRET, "TRANSCRIBE": "never"}
    env |= {"DATASET_NAME": "alice/it", "WORK_DIR": str(work), "DATASET_TRUST_REMOTE_CODE": "true"}
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(listening)
        opened.listen()
        done = subprocess.run(
            [sys.executable, "-m", "job", "fetch"], env=env, capture_output=True, text=True, timeout=200
        )
    assert done.returncode == 0, done.stderr
    answer, found, variables = json.loads(rows(work)[0]["text"])
    assert answer == "[]\n" and found == [] and "Traceback" not in done.stderr
    assert "HTTP_PROXY" in variables and "HTTPS_PROXY: holds a password" in done.stderr
    assert not [
        name for name in variables if "HTTPS" in name or "TOKEN" in name.replace("IMPLICIT_TOKEN", "") or "AWS" in name
    ]
    assert [path.name for path in sorted(outside.iterdir())] == ["token", "victim"]
    assert (outside / "token").read_text() == attacks.SECRET and (outside / "victim").read_text() == "victim"
    assert not list(tmp_path.glob("new")) and not list(work.glob("new"))


def test_a_conversion_can_be_stopped_at_any_moment_and_run_again(hub: Hub, tmp_path: Path, work: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(100)
        port = server.getsockname()[1]
        body = f"""import socket
with socket.create_connection(("127.0.0.1", {port})) as asked:
    asked.sendall(str(os.getpid()).encode())
    assert asked.recv(1)
{GOOD_ROW}"""
        hub.add_repo("dataset", "alice/it", script(body))
        env = {**os.environ, **hub.env(tmp_path / "hf"), "TRANSCRIBE": "never", "WORK_DIR": str(work)}
        env |= {"DATASET_NAME": "alice/it", "DATASET_TRUST_REMOTE_CODE": "true"}
        for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9), (None, 0)):
            job = subprocess.Popen([sys.executable, "-m", "job", "fetch"], env=env)
            asked, _ = server.accept()
            with asked:
                script_pid = int(asked.recv(20))
                if number is None:
                    asked.sendall(b"y")
                else:
                    job.send_signal(number)
                assert job.wait(100) == code
                assert gone_soon(script_pid)
    assert [inside.read_bytes(Path(row["audio"])) for row in rows(work)] == CLIPS[:1]
    assert not list((work / "data" / "scripted").glob(".*")), "what was left unfinished is gone"


def test_without_a_package_index_it_ends_in_one_line(tmp_path: Path) -> None:
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "1"}
    env = {"PATH": os.environ["PATH"], **settings}
    assert own_environment.for_pip({**env, "HF_TOKEN": READ, "WANDB_API_KEY": READ}) == env, "pip needs no token"
    with pytest.raises(Unreachable, match=r"^DATASET_TRUST_REMOTE_CODE=true: .*PIP_INDEX_URL\), once$"):
        own_environment.make(tmp_path, env)
    assert not list(tmp_path.iterdir())
