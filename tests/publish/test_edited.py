"""A model card that somebody has edited stays theirs: only what the Hub would reject is repaired."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from job.core.errors import BadInput
from job.publish import card, card_rules, edited, front_matter, hub_client, kept_cards, validate
from tests.hub.server import WRITE, Hub
from tests.publish.test_card import front, load


def test_a_card_as_it_was_written_is_written_anew(work: Path) -> None:
    """Also after an editor has changed its line ends; without edits the newest figures count."""
    written = card.render(load(work))
    for text in (written, written.replace("\n", "\r\n"), written.rstrip(), f"\ufeff{written}"):
        assert edited.what(text) == edited.Edited(False, False)


def test_an_edited_text_is_kept_and_only_bad_metadata_are_repaired(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their text to the last letter, their valid values; ours for what is null, wrong or missing."""
    readme = work / "output" / "best" / "README.md"
    metadata = "license: mit\nlanguage: [german]\nbase_model:\ntags: [mine]\nwidget: [{text: Hi}]"
    theirs = f"---\n{metadata}\n---\n\n# Mine\n\nText. \n"
    readme.write_text(theirs)
    validate.run(load(work, TRAIN_MODE="full", LANGUAGE="German"))
    kept = readme.read_text()
    assert kept.endswith("---\n\n# Mine\n\nText. \n")
    told = front(kept)
    assert (told["license"], told["tags"], told["widget"]) == ("mit", ["mine"], [{"text": "Hi"}])
    assert (told["language"], told["base_model"]) == (["de"], "Qwen/Qwen3-TTS-12Hz-1.7B-Base")
    assert card_rules.check_card(kept) == []
    said = capsys.readouterr().out.splitlines()
    assert f"[validate] {readme} was edited and is kept, its metadata repaired:" in said
    assert {"[validate] -language: [german]", "[validate] +- de", "[validate] -base_model:"} <= set(said)
    validate.run(load(work, TRAIN_MODE="full", LANGUAGE="German"))
    assert readme.read_text() == kept, "once is enough"
    assert f"[validate] {readme} was edited and is kept" in capsys.readouterr().out.splitlines()


def test_a_repair_is_shown_once_a_run(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By doctor, in time to mend the card; later stages of the run say a line, unless they drop something else."""
    from huggingface_hub import HfApi

    readme = work / "output" / "best" / "README.md"
    readme.write_text("---\nlicense: mit\nlanguage: [german]\n---\n# Mine\n")
    theirs = "---\nlicense: mit\nbase_model: ''\n---\n# Mine too\n"
    with Hub() as hub:
        hub.add_repo("model", "alice/voice", {"README.md": theirs}, private=True)
        env = {"HF_TOKEN": WRITE, "HF_REPO_ID": "alice/voice", "TRAIN_MODE": "full"}
        settings = load(work, **env, LANGUAGE="German", HUB_PRIVATE="true")
        monkeypatch.setattr(hub_client, "client", lambda settings: HfApi(endpoint=hub.url, token=WRITE))
        kept_cards.check(settings)
        api = HfApi(endpoint=hub.url, token=WRITE)
        ours = card.render(load(work, **env, LANGUAGE="German", LEARNING_RATE="3e-4")).encode()
        written = kept_cards.local(readme, ours.decode(), "validate")
        sent = kept_cards.with_card(api, "alice/voice", {"README.md": ours}, settings, "push")
        said = capsys.readouterr().out.splitlines()
        for where, lost, stage in (
            (str(readme), "-language: [german]", "validate"),
            ("README.md of alice/voice", "-base_model: ''", "push"),
        ):
            assert [line for line in said if lost in line] == [f"[doctor] {lost}"]
            assert f"[doctor] {where} was edited and is kept, its metadata repaired:" in said
            assert [line for line in said if line.startswith(f"[{stage}]")] == [
                f"[{stage}] {where} was edited and is kept, its metadata repaired as said above"
            ]
        assert card_rules.check_card(written) == card_rules.check_card(bytes(sent["README.md"]).decode()) == []  # type: ignore[arg-type]
        readme.write_text("---\nlicense: mit\nlanguage: [german]\ntags: ['']\n---\n# Mine\n")
        kept_cards.local(readme, ours.decode(), "validate")
        assert "[validate] -tags: ['']" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "text", ["# Only a text\n", "---\ntags: [a\n---\n# Broken YAML\n", "---\nlicense: other\n---\nno name\n"]
)
def test_any_card_of_somebody_else_becomes_one_that_the_hub_takes(work: Path, text: str) -> None:
    body = front_matter.split(text)[1]
    kept = card_rules.repaired(text, card.render(load(work)))
    assert card_rules.check_card(kept) == []
    assert front_matter.split(kept)[1] == body


def test_edited_metadata_leave_the_text_to_the_job(work: Path) -> None:
    """Who only adds a tag, as in the Hub's form, still gets each run's figures; who only edits the text, metadata."""
    ours = card.render(load(work))
    tagged = ours.replace("- qwen3-tts\n", "- qwen3-tts\n- opera\n")
    newer = card.render(load(work, LEARNING_RATE="3e-4", TRAIN_MODE="full"))
    kept = card_rules.repaired(tagged, newer)
    assert "| LEARNING_RATE | 0.0003 |" in kept
    assert "opera" in front(kept)["tags"]  # type: ignore[operator]
    assert card_rules.repaired(kept, newer) == kept

    own_text = ours.replace("## Limits", "## My limits")
    kept = card_rules.repaired(own_text, newer)
    assert "## My limits" in kept
    assert front(kept) == front(newer)
    assert edited.what(kept) == edited.Edited(metadata=False, body=True)


def test_a_new_empty_repo_of_the_hub_gets_the_whole_card(work: Path) -> None:
    """Its form leaves a README.md of a licence alone: the licence stays, and the text is ours."""
    ours = card.render(load(work))
    kept = card_rules.repaired("---\nlicense: cc-by-4.0\n---\n", ours)
    assert front(kept) == {**front(ours), "license": "cc-by-4.0"}
    assert "## How to speak with it" in kept


def test_a_card_edited_here_replaces_one_edited_there_and_both_get_warnings(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import HfApi

    ours = card.render(load(work, VOICE_CONSENT="Ada agreed.")).encode()
    with Hub() as hub:
        api = HfApi(endpoint=hub.url, token=WRITE)

        def sent(text: bytes, repo: str) -> bytes | Path:
            settings = load(work, VOICE_CONSENT="Ada agreed.")
            return kept_cards.with_card(api, repo, {"README.md": text}, settings, "push")["README.md"]

        for name, files in {
            "alice/new": {},
            "alice/ours": {"README.md": ours},
            "alice/theirs": {"README.md": "Hi"},
        }.items():
            hub.add_repo("model", name, files)  # type: ignore[arg-type]
        assert sent(ours, "alice/new") == sent(ours, "alice/ours") == ours
        assert capsys.readouterr().err == ""
        mine = b"---\nlicense: mit\n---\n# Mine\n"
        assert sent(mine, "alice/theirs") == mine
        said = capsys.readouterr().err
        assert "README.md of alice/theirs is replaced by the one that was edited in output/" in said
        assert "does not say VOICE_CONSENT" in said
        assert str(sent(ours, "alice/theirs")).endswith("---\\nHi'")


def test_a_blank_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("\n")
    assert kept_cards.local(tmp_path / "README.md", "ours", "validate") == "ours"


def test_a_licence_of_ones_own_needs_its_name_and_address(work: Path) -> None:
    with pytest.raises(
        BadInput, match=r"license: other needs license_name and license_link \(set LICENSE_NAME and LICENSE_LINK\)"
    ):
        validate.checked_card(load(work, LICENSE="other"))
    with pytest.raises(BadInput, match=r"needs license_link \(set LICENSE_LINK\)"):
        validate.checked_card(load(work, LICENSE="Other", LICENSE_NAME="mine-1.0"))
    with pytest.raises(BadInput, match="LICENSE_LINK='www"):
        load(work, LICENSE_LINK="www.mine.org")
    told = front(
        validate.checked_card(load(work, LICENSE="other", LICENSE_NAME="mine-1.0", LICENSE_LINK="https://a.org/l"))
    )
    assert (told["license"], told["license_name"], told["license_link"]) == ("other", "mine-1.0", "https://a.org/l")
    assert "license_name" not in front(card.render(load(work, LICENSE_NAME="mine-1.0")))


def test_a_public_voice_needs_somebody_s_consent(work: Path) -> None:
    """In minute one, only where it would be published, and not for the built-in clips; what it says is in the card."""
    env = {"HF_TOKEN": "hf_x" * 9, "HF_REPO_ID": "alice/voice", "HUB_PRIVATE": "false", "DATASET_NAME": "alice/voices"}
    with pytest.raises(BadInput, match=r"^HUB_PRIVATE=false needs VOICE_CONSENT: who agreed"):
        validate.checked_card(load(work, **env))
    said = "Common Voice 17 (CC0):\n whose speakers | gave <their> recordings"
    text = validate.checked_card(load(work, **env, VOICE_CONSENT=said))
    assert "as the publisher tells it: Common Voice 17 (CC0): whose speakers gave their recordings\n" in text
    for other in ({"HUB_PRIVATE": "true"}, {"UPLOAD_TO_HUB": "false"}, {"DATASET_NAME": ""}):
        assert "as the publisher tells it" not in validate.checked_card(load(work, **(env | other)))


def test_figures_of_the_judges_are_in_the_metadata(work: Path) -> None:
    """As `model-index`, with the texts they are of, the judge, and where each is to be read."""
    stats = {
        "samples": [{"file": "1.wav", "text": "a", "origin": "validation"}] * 8,
        "comparison": [
            {"figure": "mos", "label": "Naturalness (MOS)", "voice": 3.91234},
            {"figure": "wer", "label": "Word error rate", "voice": None},
            {"figure": "pitch", "label": "Pitch", "voice": 120.0},
        ],
        "judges": {"mos": {"by": "distillmos 0.9"}},
    }
    settings = load(work, DATASET_NAME="alice/voices", DATASET_REVISION="v2", HF_REPO_ID="alice/voice")
    text = card.render(settings, stats, "https://hub/alice/voice/resolve/main/samples")
    assert card_rules.check_card(text) == []
    assert yaml.safe_load(text.split("---")[1])["model-index"] == [
        {
            "name": "voice",
            "results": [
                {
                    "task": {"type": "text-to-speech", "name": "Text-to-speech"},
                    "dataset": {
                        "name": "8 test texts (validation)",
                        "type": "alice/voices",
                        "split": "validation",
                        "revision": "v2",
                    },
                    "metrics": [
                        {
                            "type": "mos",
                            "value": 3.9123,
                            "name": "Naturalness (MOS)",
                            "args": {"judge": "distillmos 0.9"},
                        }
                    ],
                    "source": {
                        "url": "https://hub/alice/voice/resolve/main/samples/stats.json",
                        "name": "Test speech of the run",
                    },
                }
            ],
        }
    ]
    assert re.search(r"^<!-- qwen3-tts-job wrote this card", text, re.MULTILINE)

    from huggingface_hub import ModelCard

    (work / "README.md").write_text(text)
    read = ModelCard.load(work / "README.md", ignore_metadata_errors=False)
    assert [(one.metric_type, one.metric_value) for one in read.data.eval_results or []] == [("mos", 3.9123)]
    assert read.data.to_dict() == front(text), "written back by the Hub's library it is the same"
