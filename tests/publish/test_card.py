"""The card that is written is one that the Hub takes, and says what a stranger needs to speak with the model."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from job.config import settings as variables
from job.core.errors import BadInput
from job.model import card_facts
from job.publish import card, card_rules, licenses, validate
from job.text.languages import iso_code
from tests.hub import metadata


def load(work: Path | None = None, **env: str) -> variables.Settings:
    named = {"SPEAKER_NAME": "Me"} | env  # with nothing named, the settings are those of the demo
    return variables.load({"WORK_DIR": str(work)} | named if work else named)


def front(text: str) -> dict[str, object]:
    loaded = yaml.safe_load(text.split("---")[1])
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"INIT_MODEL_PATH": "demo", "TRAIN_MODE": "full"},
        {"EXPORT": "adapter", "LANGUAGE": "Hausa", "DATASET_NAME": "alice/voices", "HF_REPO_ID": "alice/voice"},
        {"TRAIN_MODE": "full", "TEXT_LAYOUT": "streaming", "LANGUAGE": "Klingon", "LICENSE": "CC-BY-4.0"},
    ],
)
@pytest.mark.parametrize("trained", [False, True])
def test_rendered_card_is_accepted(work: Path, env: dict[str, str], trained: bool) -> None:
    """Before and after training, the card passes our check and, independently, the Hub's rules."""
    settings = load(work if trained else work / "fresh", **env)
    text = card.render(settings)
    assert card_rules.check_card(text) == []
    assert metadata.validate(text, "model") == ([], [])
    assert front(text) == card.front_matter(settings), "the file holds what front_matter says"


def test_card_tells_how_to_speak_and_what_it_was_trained_on(work: Path) -> None:
    """The code in the card parses and names the real speaker, repo and language; figures are the run's."""
    text = card.render(load(work, HF_REPO_ID="alice/voice", TRAIN_MODE="full"))
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    calls = {n.func.attr: n for n in ast.walk(ast.parse(block.group(1))) if isinstance(n, ast.Call)}  # type: ignore[attr-defined]
    assert ast.literal_eval(calls["from_pretrained"].args[0]) == "alice/voice"
    spoken = {k.arg: ast.literal_eval(k.value) for k in calls["generate_custom_voice"].keywords}
    assert (spoken["speaker"], spoken["language"]) == ("my_voice", "German")
    assert "| train | 90 | 0.20 |" in text
    assert "validation | 0" not in text
    assert "| this checkpoint, validation | 40 | 1.2500 |" in text
    assert "| last logged | 40 | 1.0000 | 4.0000 | 2.0000 |" in text
    assert front(text)["language"] == ["de"]


def test_card_holds_no_path_and_no_secret(work: Path) -> None:
    """Neither a directory of this machine nor a token gets into a file that will be public."""
    token = "hf_" + "S" * 34
    settings = load(
        work,
        HF_TOKEN=token,
        INIT_MODEL_PATH=str(work / "base"),
        BASE_MODEL_ID="a/b",
        REF_AUDIO_PATH=str(work / "ref.wav"),
        TRAIN_JSONL=str(work / "train.jsonl"),
        DATASET_NAME=str(work),
    )
    text = card.render(settings)
    assert str(work) not in text
    assert token not in text


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, "Qwen/Qwen3-TTS-12Hz-1.7B-Base"),
        ({"INIT_MODEL_PATH": "me/base"}, "me/base"),
        ({"INIT_MODEL_PATH": "me/base", "BASE_MODEL_ID": "Qwen/Other"}, "Qwen/Other"),
        ({"INIT_MODEL_PATH": "/models/base", "BASE_MODEL_ID": "Qwen/Other"}, "Qwen/Other"),
        ({"INIT_MODEL_PATH": "/c/hub/models--Qwen--Qwen3-TTS-12Hz-0.6B-Base/snapshots/" + "a" * 40}, None),
        ({"INIT_MODEL_PATH": "demo"}, ""),
        ({"INIT_MODEL_PATH": "/models/base"}, ""),
    ],
)
def test_base_model_is_named_or_left_out(env: dict[str, str], expected: str | None) -> None:
    """`base_model` is never empty: it is a Hub id, also out of the clients' cache, or it is not there."""
    found = card.front_matter(load(**env))
    expected = "Qwen/Qwen3-TTS-12Hz-0.6B-Base" if expected is None else expected
    assert found.get("base_model", "") == expected
    assert ("base_model" in found) == bool(expected)


def test_publishing_a_local_base_needs_its_name(tmp_path: Path) -> None:
    """A directory without BASE_MODEL_ID is refused in minute one, but only when something will be published."""
    env = {"INIT_MODEL_PATH": str(tmp_path), "WORK_DIR": str(tmp_path / "work")}
    validate.checked_card(load(**env))
    with pytest.raises(BadInput, match=r"^BASE_MODEL_ID is not set and INIT_MODEL_PATH=.*BASE_MODEL_ID=Qwen/"):
        validate.checked_card(load(**env, HF_TOKEN="hf_x" * 9, HF_REPO_ID="alice/voice"))
    with pytest.raises(BadInput, match=r"BASE_MODEL_ID=\./base: must be"):
        card.render(load(BASE_MODEL_ID="./base"))


def test_unknown_licence_names_the_variable() -> None:
    with pytest.raises(BadInput, match=r"license: 'my-own' is not an identifier that the Hub knows \(set LICENSE"):
        validate.checked_card(load(LICENSE="my-own"))


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("base_model: ''", "base_model is empty (set BASE_MODEL_ID)"),
        ("base_model:", "base_model is null"),
        ("base_model: ['']", "base_model has an empty entry"),
        ("base_model: /models/base", "is not a Hub id"),
        ("license: apache2", "is not an identifier"),
        ("license: [3]", "3 is not a string"),
        ("language: german", "is not an ISO 639 code"),
        ("language: [de, DE]", "'DE' is not an ISO 639 code"),
        ("language: no", "False is not a string"),  # YAML 1.1 reads the code of Norwegian as a boolean
        ("tags: []", "tags is empty"),
        ("datasets: [My Data]", "is not a Hub id"),
        ("tags: [a", "is not valid YAML"),
        ("just words", "metadata holds no names with values"),
    ],
)
def test_check_card_refuses_what_the_hub_refuses(block: str, said: str) -> None:
    """Every mistake is found without a network."""
    problems = card_rules.check_card(f"---\n{block}\n---\n# Title\n")
    assert any(said in problem for problem in problems), problems


def test_check_card_wants_metadata() -> None:
    assert card_rules.check_card("# Title\n") == ["README.md has no metadata (a block between two lines of ---)"]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_any_speaker_name_gives_a_valid_card(name: str) -> None:
    """No name breaks the metadata, the code or a table."""
    try:
        loaded = load(SPEAKER_NAME=name)
    except BadInput:
        return
    text = card.render(loaded)
    assert card_rules.check_card(text) == []
    block = re.search(r"```python\n(.*?)\n```\n", text, re.DOTALL)
    assert block is not None
    literals = [n.value for n in ast.walk(ast.parse(block.group(1))) if isinstance(n, ast.Constant)]
    assert card_facts.speakers(loaded)[0] in literals


def test_norwegian_survives_yaml() -> None:
    """`no` is written so that it is read back as a string, not as a boolean."""
    text = card.render(load(LANGUAGE="Norwegian"))
    assert front(text)["language"] == ["no"]
    assert card_rules.check_card(text) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("German", "de"),
        ("nb_NO", "nb"),
        ("Norwegian Bokmål", "nb"),
        ("pt-BR", "pt"),
        ("beijing_dialect", "zh"),
        ("HAUSA", "ha"),
        ("auto", None),
        ("My Own Tongue", None),
        ("No Such Language", None),
        ("new:My Own Tongue", None),
        ("Klingon", "tlh"),
        ("", None),
    ],
)
def test_language_codes(name: str, code: str | None) -> None:
    assert iso_code(name) == code


def test_tables_have_no_stray_entries() -> None:
    """A typo in the tables would be a card that the Hub refuses."""
    assert licenses.LICENSES == metadata.LICENSES
