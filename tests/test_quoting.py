"""Quotation marks and comments are read by one rule, whoever hands the variables over."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from job.config import quoting
from job.config import settings as variables
from job.core.errors import BadInput
from tests.support.commands import run_job

TOP = Path(__file__).resolve().parent.parent
NAMED = {"TRAIN_JSONL": "rows.jsonl"}
ALL_NAMES = sorted(name for v in variables.variables() for name in (v.name, *v.aliases) if v.name != "ENV_FILE")
WORDS = st.text(alphabet=string.ascii_letters + string.digits + "-_./:åß語 ", min_size=1, max_size=20).map(str.strip)


def outcome(env):
    """The settings, or the refusal: both say what was read."""
    try:
        loaded = variables.load({**NAMED, **env})
        return [loaded.public(), loaded.hf_token and loaded.hf_token.get_secret_value(), loaded.wandb_api_key]
    except BadInput as refusal:
        return str(refusal)


@pytest.mark.parametrize("name", ALL_NAMES)
@hypothesis_settings(max_examples=3, deadline=None)
@given(value=WORDS.filter(bool), mark=st.sampled_from("\"'"), behind=st.sampled_from(["", " ", " # why", "\t#x", "\r"]))
def test_a_value_in_quotation_marks_is_the_value(name, value, mark, behind):
    """For every variable and alias: with marks around it, and a comment behind them, it means the same as without."""
    assert outcome({name: f"{mark}{value}{mark}{behind}"}) == outcome({name: value})


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize("value", ['"left', 'right"', "'left", '"', "more'''"])
def test_a_mark_at_one_end_is_refused_by_name(name, value):
    """Half a pair is a value that was cut; apostrophes of texts are none."""
    if name in quoting.FREE_TEXT and "'" in value:
        assert quoting.plain(name, value) == value
        return
    with pytest.raises(BadInput, match=f"^{name}: there is a quotation mark"):
        variables.load({**NAMED, name: value})


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("it's fine", "it's fine"),
        ("'It's Bob's turn.'", "It's Bob's turn."),
        ("'tis the season", "'tis the season"),
        ("the dogs'", "the dogs'"),
        ('He said "no"', 'He said "no"'),
        ('"Hello," she said. "Bye."', '"Hello," she said. "Bye."'),
        ("Room # 3|C# is a note", "Room # 3|C# is a note"),
        ('"Room # 3"', "Room # 3"),
        (r'"a \"b\" c"', 'a "b" c'),
        ("''", None),
    ],
)
@pytest.mark.parametrize("name", sorted(quoting.FREE_TEXT))
def test_free_text_stays_whole(name, raw, value, tmp_path):
    """What is said aloud is not cut at a # nor at an apostrophe, from the environment and from a file."""
    path = tmp_path / "my.env"
    path.write_text(f"SEED=1\n{name}={raw}\nBATCH_SIZE=3\n", encoding="utf-8")
    for loaded in (variables.load({**NAMED, name: raw}), variables.load({**NAMED, "ENV_FILE": str(path)})):
        assert getattr(loaded, name.lower()) == value
    assert loaded.batch_size == 3


TEXTS = st.text(alphabet=st.sampled_from("ab1é語\"'\\# \t=-/.,"), max_size=15)


@pytest.mark.slow
@hypothesis_settings(max_examples=400, deadline=None)
@given(raw=TEXTS, name=st.sampled_from(["SPEAKER_NAME", "TEST_TEXTS", "HF_TOKEN", "DATASET_NAME"]))
def test_the_environment_and_the_file_agree(tmp_path_factory, raw, name):
    """`NAME=text` means the same as a line of `.env` and as docker's variable of that text."""
    path = tmp_path_factory.mktemp("env") / "my.env"
    path.write_text(f"SEED=7\n{name}={raw}\nBATCH_SIZE=3\n", encoding="utf-8")
    inside, outside = outcome({"ENV_FILE": str(path)}), outcome({name: raw, "SEED": "7", "BATCH_SIZE": "3"})
    if isinstance(inside, list) and isinstance(outside, list):
        inside[0].pop("ENV_FILE"), outside[0].pop("ENV_FILE")
    assert inside == outside


def test_the_env_file_itself_may_be_quoted(tmp_path):
    """ENV_FILE is a variable like the others."""
    path = tmp_path / "my own.env"
    path.write_bytes("\ufeffSPEAKER_NAME=kari\r\nLR='1e-4'\r\n".encode())
    loaded = variables.load({**NAMED, "ENV_FILE": f"'{path}' # mine", "LEARNING_RATE": '"1e-4"'})
    assert (loaded.speaker_name, loaded.learning_rate) == ("kari", 1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('SPEAKER_NAME="kari\nSEED="3"\n', "SPEAKER_NAME"),
        ('REF_TEXT="Hello\nDATASET_CONFIG="x', "REF_TEXT"),
        ('WORK_DIR="a\nSEED=3\nLICENSE="', "WORK_DIR"),
    ],
)
def test_a_mark_that_swallows_lines_of_the_file_is_found(tmp_path, text, said):
    """An unclosed one took the next variables for a part of the value, in silence."""
    path = tmp_path / "my.env"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        variables.load({**NAMED, "ENV_FILE": str(path)})


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "my.env"
    path.write_bytes("SPEAKER_NAME=Kåre\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"ENV_FILE=.*UTF-8"):
        variables.load({**NAMED, "ENV_FILE": str(path)})


@pytest.mark.parametrize("mark", ['"', "'"])
def test_tokens_lose_their_marks_and_are_not_shown(tmp_path, mark, capsys):
    """A quoted token was sent as it was and called powerless; a broken one is not repeated."""
    secret = "hf_" + "Zq8" * 11
    path = tmp_path / "token"
    path.write_text(f"{mark}{secret}{mark}\n")
    assert variables.load({**NAMED, "HF_TOKEN": f"{mark}{secret}{mark}"}).token == secret
    assert variables.load({**NAMED, "HF_TOKEN_FILE": f"{mark}{path}{mark}"}).token == secret
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        result = run_job(capsys, ["plan"], {**NAMED, name: f"{mark}{secret}"})
        assert result.code == 2 and result.errors[0].startswith(f"error: {name}: ") and secret not in result.err


def test_what_was_mended_is_said_once_without_values(capsys):
    variables.load(
        {**NAMED, "SPEAKER_NAME": '"kari"', "LICENSE": "'mit'", "BATCH_SIZE": "2 # two", "REF_TEXT": "No # 1"}
    )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "kari" not in "".join(lines)
    assert "LICENSE" in lines[0] and "SPEAKER_NAME" in lines[0] and "BATCH_SIZE" in lines[1] and "REF_TEXT" in lines[2]


def test_libraries_and_children_see_the_mended_values():
    """huggingface_hub reads HF_TOKEN and HF_ENDPOINT by itself; a child says nothing any more."""
    child = "import os; from job.config.settings import load; s = load(); print(s.speaker_name, os.environ['HF_TOKEN'])"
    program = (
        "import json, os, subprocess, sys\nfrom job.config.settings import load\nload()\n"
        "import huggingface_hub as hub\n"
        f"child = subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, text=True)\n"
        "print(json.dumps([hub.get_token(), hub.constants.ENDPOINT, child.stdout, child.stderr]))"
    )
    given = {"HF_TOKEN": '"hf_abcdefgh"', "HF_ENDPOINT": "'http://hub.test' # ours", "SPEAKER_NAME": '"kari"'}
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(TOP), **given}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout) == ["hf_abcdefgh", "http://hub.test", "kari hf_abcdefgh\n", ""], done.stderr


@given(raw=TEXTS, name=st.sampled_from(["SPEAKER_NAME", "TEST_TEXTS", "HF_HOME"]))
def test_an_exact_value_can_be_handed_over(raw, name):
    """A request's JSON says exactly what is meant; put into the environment, it means the same there."""
    assert quoting.plain(name, quoting.quoted(name, raw)) == raw.strip()


@hypothesis_settings(max_examples=300, deadline=None)
@given(raw=TEXTS)
def test_a_value_that_is_handed_on_means_itself(raw):
    """A child reads again what its parent has written back: what would change is not written."""
    try:
        value = quoting.plain("HF_HOME", raw)
    except BadInput:
        return
    if quoting.is_settled("HF_HOME", value):
        assert quoting.plain("HF_HOME", value) == value
