"""Templates of all platforms keep the same promises, and a new platform is one reader and one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from job.config.settings import load
from tests.packaging.platforms import PLATFORMS, TOP, Template, problems


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_template_sets_known_variables_and_no_secrets_and_retries_what_may_pass(name: str) -> None:
    assert problems(PLATFORMS[name](TOP / name)) == []


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_platform_is_in_the_readmes_table(name: str) -> None:
    """By its template, or the folder that it lies in."""
    rows = re.findall(r"^\| .* \|$", (TOP / "README.md").read_text(), re.MULTILINE)
    (table,) = [row for row in rows if row.startswith("| platform | template |")]
    linked = {target for row in rows[rows.index(table) :] for target in re.findall(r"\]\(([^)]+)\)", row)}
    assert linked & {name, *(str(folder) for folder in Path(name).parents)}


@pytest.mark.parametrize("page", ["slurm", "hf-jobs", "skypilot", "modal"])
def test_the_variables_that_a_page_has_one_write_are_accepted(page: str, tmp_path: Path) -> None:
    """By the job's own reader, as they stand; they name data, a voice, and a repo for it."""
    text = (TOP / f"docs/{page}.md").read_text()
    (block,) = re.findall(r"^cat >~/qwen3-tts.env <<'EOF'\n(.*?)^EOF$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "env").write_text(block)
    settings = load({"ENV_FILE": str(tmp_path / "env")})
    assert (settings.speaker_name, settings.language) == ("kari", "Norwegian") and settings.hf_repo_id
    assert settings.data_dir or settings.dataset_name


def example(file: Path) -> Template:
    """The reader of an invented platform, whose templates are JSON."""
    value = json.loads(file.read_text())
    return Template(value["run"], value["env"], set(value["give_up_after"]), placeholder=r"secret:\w+")


def test_another_platforms_template_is_checked_as_the_real_ones(tmp_path: Path) -> None:
    file = tmp_path / "example.json"
    good = {
        "run": ["run"],
        "env": {"SPEAKER_NAME": "me", "HF_TOKEN": "secret:hub"},
        "give_up_after": [2, 3, 4, 6],
    }
    file.write_text(json.dumps(good))
    assert problems(example(file)) == []
    bad = {
        "run": ["trian"],
        "env": {"SPEAKER": "me", "HF_TOKEN": "hf_" + "x" * 34, "BATCH_SIZE": "many"},
        "give_up_after": [2, 3, 4, 5],
    }
    file.write_text(json.dumps(bad))
    found = problems(example(file))
    assert [line.split(" ")[0] for line in found[:3]] == ["trian", "SPEAKER", "HF_TOKEN"]
    assert "BATCH_SIZE" in found[3]
    assert found[4:] == ["exit code 6 is retried", "exit code 5 is not retried"]
