"""Model cards as people leave them: before training each is repaired, saying how, or refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from job.core.errors import BadInput
from job.publish import card_rules, front_matter, kept_cards, validate
from tests.hub import metadata
from tests.hub.server import WRITE, Hub
from tests.publish.test_card import front, load

TEXT = "\n# My voice\n\nIt says: grüß Gott.\n"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@dataclass(frozen=True)
class Bad:
    """A card, what is said of it, what stays of its metadata, and whether its text stays."""

    card: str | bytes
    said: str
    kept: tuple[str, ...] = ()
    text: str = TEXT


def block(lines: str, **more: str) -> str:
    return f"---\n{lines}\n---\n{TEXT}"


REPAIRED = {
    "broken YAML": Bad(block("tags: [a\nlicense: mit"), "is not valid YAML in line 3", ("license",)),
    "tabs": Bad(block("license: mit\nwidget:\n\t- text: Hi"), "is not valid YAML in line 4", ("license", "widget")),
    "a name twice": Bad(block("license: mit\ntags: [a]\nlicense: mit"), "has 'license' twice", ("license", "tags")),
    "twice further in": Bad(block("license: mit\nextra: {a: 1, a: 2}"), "has 'a' twice", ("license", "extra")),
    "a number as licence": Bad(block("license: 3\ntags: [a]"), "license: 3 is not a string", ("tags",)),
    "a mapping as licence": Bad(block("license: {mit: true}"), "is not a string"),
    "an unknown licence": Bad(block("license: free for all"), "is not an identifier that the Hub knows"),
    "other without a name": Bad(block("license: other\ntags: [a]"), "needs license_name", ("tags",)),
    "a language's name": Bad(block("language: German\ntags: [a]"), "is not an ISO 639 code", ("tags",)),
    "Norwegian": Bad(block("language: no"), "False is not a string"),
    "an empty base model": Bad(block("base_model: ''\nlicense: mit"), "base_model is empty", ("license",)),
    "a path as base model": Bad(block("base_model: /models/base"), "is not a Hub id"),
    "another base model": Bad(block("base_model: gpt/2\nlicense: mit"), "-base_model: gpt/2", ("license",)),
    "nulls": Bad(block("license:\ntags:\ndatasets: [null]"), "license is null"),
    "datasets that are none": Bad(block("datasets: [My recordings]"), "is not a Hub id"),
    "tags of all kinds": Bad(block("tags: [a, 3, [b]]\nlicense: mit"), "tags: 3 is not a string", ("license",)),
    "a list of tasks": Bad(block("pipeline_tag: [text-to-speech]\nlicense: mit"), "must be one string", ("license",)),
    "a task that is none": Bad(block("pipeline_tag: {a: b}"), "is not a string"),
    "a list as library": Bad(block("library_name: [a, b]"), "must be one string"),
    "a malformed model-index": Bad(block("model-index: nonsense\nlicense: mit"), "-model-index", ("license",)),
    "a day that is none": Bad(
        block("date: 2024-13-45\nlicense: mit"), "is not valid YAML: month must be in 1..12", ("license",)
    ),
    "a billion laughs": Bad(block(f"license: mit\n{LAUGHS}"), "repeats itself by its aliases"),
    "a list within itself": Bad(block("tags: &a [*a]"), "repeats itself by its aliases"),
    "too deep": Bad(block(f"a: {'[' * 3000}"), "is nested too deeply"),
    "Python's own tags": Bad(block("a: !!python/object/apply:os.system [ls]"), "is not valid YAML in line 2"),
    "a list as metadata": Bad(block("- license: mit"), "holds no names with values"),
    "a sentence as metadata": Bad(block("just words"), "holds no names with values"),
    "no metadata within": Bad(f"---\n---\n{TEXT}", "is empty"),
    "not closed": Bad(f"---\nlicense: mit\ntags: [a]\n{TEXT}", "no line of --- ends", ("license", "tags")),
    "no metadata": Bad(TEXT, "has no metadata"),
    "HTML": Bad(f"<html><body>{TEXT}</body></html>\n", "has no metadata", text=f"<html><body>{TEXT}</body></html>\n"),
    "Windows' characters": Bad(block("license: mit").encode("cp1252"), "is in Windows-1252", ("license",)),
    "UTF-16": Bad(block("license: mit").encode("utf-16"), "is in UTF-16", ("license",)),
    "lines of an old Mac": Bad(block("license: mit").replace("\n", "\r"), "was edited and is kept", ("license",)),
    "lines of Windows": Bad(
        block("license: mit\nlanguage: [german]").replace("\n", "\r\n"),
        "is not an ISO 639 code",
        ("license",),
        TEXT.replace("\n", "\r\n"),
    ),
    "a mark of byte order": Bad("\ufeff" + block("license: mit\ntags:"), "tags is null", ("license",)),
    "metadata of a book": Bad(block(f"a: {'x' * 250_000}"), "more than a card can have"),
}

#: A token that the settings do not know, as it looks, and one that they do.
OTHERS, OWN = "hf_" + "Ab3" * 11 + "x", "key of mine 0815"
REFUSED = {
    "too large": (b"# Mine\n" + b"x" * (6 << 20), "has 6.3 MB and the Hub shows no card of that size; shorten it"),
    "somebody's token": (block(f"license: mit\n# {OTHERS}"), "line 3 holds what looks like a token; remove it"),
    "a key of Amazon's": (f"{TEXT}AKIA{'ABCD' * 4}\n", "line 5 holds what looks like a token; remove it"),
    "the run's own key": (f"{TEXT}{OWN}\n", "line 5 holds a secret of this run; remove it"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_a_bad_card_is_repaired_before_training_saying_how(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What becomes of it is what the Hub takes, with the words of whoever wrote it; validate writes just that."""
    bad = REPAIRED[name]
    readme = tmp_path / "output" / "best" / "README.md"
    readme.parent.mkdir(parents=True)
    readme.write_bytes(bad.card if isinstance(bad.card, bytes) else bad.card.encode())
    settings = load(tmp_path, TRAIN_MODE="full", LANGUAGE="German", UPLOAD_TO_HUB="false")
    before = readme.read_bytes()
    kept_cards.check(settings)
    said = capsys.readouterr().out
    assert f"[doctor] {readme} was edited and is kept" in said
    assert bad.said in said, said
    assert len(said) < 12_000 and readme.read_bytes() == before, "said in few words, and nothing is written yet"
    kept = kept_cards.local(readme, validate.checked_card(settings), "validate")
    readme.write_bytes(kept.encode())
    assert card_rules.check_card(kept) == []
    assert metadata.validate(kept, "model") == ([], [])
    assert front_matter.split(kept)[1].strip("\r\n") == bad.text.strip("\r\n")
    assert set(bad.kept) <= set(front(kept))
    assert front(kept)["base_model"] == "Qwen/Qwen3-TTS-12Hz-1.7B-Base"
    if "license" in bad.kept:
        assert front(kept)["license"] == "mit"
    capsys.readouterr()
    kept_cards.check(settings)
    assert "metadata repaired" not in capsys.readouterr().out, "once is enough"


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_can_repair_is_refused_before_training(tmp_path: Path, name: str) -> None:
    """In one line that says what to do, exit code 2, without the secret itself; a card on the Hub as one in output/."""
    card, said = REFUSED[name]
    data = card if isinstance(card, bytes) else card.encode()
    settings = load(tmp_path, WANDB_API_KEY=OWN, HF_TOKEN=WRITE, HF_REPO_ID="alice/voice", INIT_MODEL_PATH="a/b")
    readme = tmp_path / "output" / "best" / "README.md"
    readme.parent.mkdir(parents=True)
    readme.write_bytes(data)
    with pytest.raises(BadInput) as refused:
        kept_cards.check(settings)
    line = str(refused.value)
    assert line == f"{readme}: {said}" or line == f"{readme} {said}"
    assert OTHERS not in line and OWN not in line


@pytest.mark.slow
def test_doctor_looks_at_the_card_on_the_hub(work: Path) -> None:
    """The command itself: a line for what will be repaired, exit code 2 for what cannot be."""
    with Hub() as hub:
        hub.add_repo("model", "alice/fair", {"README.md": block("license: mit\nlanguage: german")}, private=True)
        hub.add_repo("model", "alice/foul", {"README.md": block(f"license: mit\n# {OTHERS}")}, private=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | hub.env(work.parent / "home")
        env |= {"PRESET": "demo", "WORK_DIR": str(work), "HF_TOKEN": WRITE, "DEVICE": "cpu"}
        command = [sys.executable, "-m", "job", "doctor"]
        fair, foul = (
            subprocess.run(command, env=env | {"HF_REPO_ID": repo}, capture_output=True, text=True, timeout=300)
            for repo in ("alice/fair", "alice/foul")
        )
        assert fair.returncode == 0, fair.stderr
        assert "[doctor] README.md of alice/fair was edited and is kept, its metadata repaired:" in fair.stdout
        assert "[doctor] -language: german" in fair.stdout
        assert foul.returncode == 2
        assert foul.stderr.splitlines()[-1] == (
            "error: README.md of alice/foul: line 3 holds what looks like a token; remove it"
        )
        assert not [request for request in hub.requests if "/commit/" in request.path]
