"""What the pages say can be done: every variable, preset, command, target, file and link in them is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from job import doctor
from job.cli import app
from job.config.presets import PRESETS
from job.config.settings import load, variables

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *TOP.glob("*.md"),
        *(TOP / "docs").rglob("*.md"),
        TOP / "k8s/README.md",
        TOP / "runpod/README.md",
        TOP / "benchmarks/README.md",
    ]
)
RECIPES = sorted((TOP / "docs/recipes").glob("*.md"))
NAMES = {name for variable in variables() for name in (variable.name, *variable.aliases)}
#: Names in capitals that are set or shown in the pages and belong to something else than the job.
OTHERS = {
    "make": {"IMAGE", "PYTHON", "UPGRADE", "SOAK_MINUTES", "SOAK_SEED"},
    "the image": {
        *("BASE_IMAGE", "BAKE_MODEL", "BAKE_REVISION", "WITH_COMPILER", "WITH_RAY", "REVISION", "VERSION", "SOURCE"),
    },
    "compose": {"JOB_IMAGE", "JOB_WORK", "JOB_USER", "JOB_RECORDINGS", "JOB_GPUS", "JOB_TOKEN_FILE"},
    "the Slurm script": {"JOB_ENV", "JOB_TRIES"},
    "the script for Hugging Face Jobs": {"JOB_FLAVOR", "JOB_TIMEOUT", "JOB_NAMESPACE"},
    "other templates": {"JOB_COMMAND", "JOB_GPU"},
    "the RunPod worker": {"JOB_GRACE_SECONDS", "JOB_VOLUME", "POD_AFTER"},
    "shells of the RunPod page": {"RUNPOD_API_KEY", "VOLUME", "TEMPLATE", "ENDPOINT", "URL", "JOB"},
    "Ray": {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"},
    "libraries": {
        "HF_HUB_OFFLINE",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "HF_ENDPOINT",
        "HF_HOME",
        "TORCHINDUCTOR_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "PYTORCH_ALLOC_CONF",
        "GOMP_SPINCOUNT",
        "OMP_WAIT_POLICY",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "STORAGE_EMULATOR_HOST",
        "APPTAINER_BIND",
        "APPTAINERENV_MIRROR_CHECKPOINTS",
    },
}
#: Characters of a line of prose.
LONGEST_LINE = 125
KNOWN = NAMES.union(*OTHERS.values())


def shown(page: Path) -> str:
    return str(page.relative_to(TOP))


def fences(page: Path, *languages: str) -> list[str]:
    """The contents of the fenced blocks in the given languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> str:
    """Everything in shell blocks and in inline code, lines that go on joined."""
    text = page.read_text()
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return re.sub(r"\\\n\s*", "", "\n".join([*fences(page, "sh", "bash", ""), *inline]))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=shown)
def test_prose_is_wrapped(page: Path) -> None:
    """In an editor as in a diff a line fits; tables, code and images are as long as they must be."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "!["))]
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_variable_that_is_set_in_a_page_is_one(page: Path) -> None:
    """`NAME=value`, `-e NAME`, and lines of .env blocks."""
    text = commands(page) + "\n" + "\n".join(fences(page, "env"))
    named = set(re.findall(r"(?:^|[\s`(])([A-Z][A-Z0-9_]{2,})=", text, re.MULTILINE))
    named |= set(re.findall(r"(?:-e|--env) ([A-Z][A-Z0-9_]+)", text))
    assert named <= KNOWN, sorted(named - KNOWN)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_name_in_capitals_in_a_page_is_one(page: Path) -> None:
    """Inline code that is nothing but a name with an underscore: the job's, or one of those listed above."""
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", page.read_text()))
    runpods = {"TIMED_OUT"}  # a state of a request
    assert named <= KNOWN | runpods, sorted(named - KNOWN)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_preset_command_and_target_exists(page: Path) -> None:
    text = commands(page) + "\n" + "\n".join(fences(page, "env"))
    presets = set(re.findall(r"PRESET=([\w-]+)", text))
    assert presets <= set(PRESETS), sorted(presets - set(PRESETS))
    have = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    asked = set(re.findall(r"(?:-m job|entrypoint\.sh|compose run --rm(?: -T)? job) ([a-z][\w-]*)", text))
    assert asked <= have, sorted(asked - have)
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    made = set(re.findall(r"\bmake ((?!it\b|a\b)[a-z-]+)", text))
    assert made <= targets, sorted(made - targets)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files, and headings in them."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_file_of_the_checkout_that_a_command_names_is_there(page: Path) -> None:
    named = re.findall(r"(?:^|[\s\"])((?:scripts|deploy|k8s|runpod|docs|benchmarks)/[\w./-]+)", commands(page))
    made = {"runpod/.venv", "runpod/.venv/bin/python"}
    missing = [name for name in named if not (TOP / name.rstrip(".")).exists() and name.rstrip(".") not in made]
    assert not [name for name in missing if "..." not in name], missing


@pytest.mark.parametrize("page", RECIPES, ids=shown)
def test_the_settings_of_a_recipe_are_accepted_as_they_stand(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each .env block is read by the job's own reader; with a preset, what it says beside it comes on top."""
    monkeypatch.chdir(tmp_path)
    blocks = fences(page, "env")
    assert blocks
    for block in blocks:
        (tmp_path / ".env").write_text(block)
        settings = load({})
        given = dict(line.split("=", 1) for line in block.splitlines() if line)
        assert settings.speaker_name == given["SPEAKER_NAME"]
        for field, value in PRESETS.get(settings.preset or "", {}).items():
            if field.upper() not in given:
                assert getattr(settings, field) == value, field


def runs_of_the_image() -> list[tuple[str, dict[str, str]]]:
    """Every `docker run` of the job in the pages, and the variables that it sets."""
    found = []
    for page in PAGES:
        for line in re.findall(r"^docker run .*$", commands(page), re.MULTILINE):
            words = shlex.split(line.partition(" | ")[0])
            given = [words[place + 1] for place, word in enumerate(words) if word == "-e"]
            if any(word in words for word in ("qwen3-tts-job", "my-tag")):
                found.append((line, dict(one.split("=", 1) for one in given if "=" in one)))
    return found


def test_every_run_that_a_page_shows_names_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands it gets past the first checks of the first minute, and mounts what its paths lie in."""
    monkeypatch.chdir(tmp_path)
    runs = runs_of_the_image()
    assert len(runs) >= 7
    for line, given in runs:
        doctor._data_is_named(load(given))
        for value in given.values():
            folder = re.match(r"/(work|weights)\b", value)
            assert not folder or re.search(rf"-v \S+:{folder[0]}\b", line), line


def test_every_preset_has_its_recipe() -> None:
    told = set(re.findall(r"PRESET=([\w-]+)", "".join(page.read_text() for page in RECIPES)))
    assert told | {"demo"} == set(PRESETS)


def test_the_page_about_the_code_names_every_part_and_no_module_that_is_gone() -> None:
    """Each layer that the import check knows is a row's; a name like `fetch/sources.py` is the end of a path here."""
    page = (TOP / "docs/architecture.md").read_text()
    layers = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    parts = {part for layer in layers for part in layer.split(" | ")}
    named = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert parts <= named, sorted(parts - named)
    have = {
        f"/{path.relative_to(TOP)}"
        for top in ("job", "tests", "benchmarks", "scripts")
        for path in TOP.glob(f"{top}/**/*.py")
    }
    gone = [name for name in re.findall(r"`([\w/]+\.py)`", page) if not any(path.endswith(f"/{name}") for path in have)]
    assert not gone


def test_figures_in_the_recipes_are_the_presets() -> None:
    """The table of the audiobook page repeats passes and rates."""
    rows = re.findall(r"`PRESET=(alexandria-\d+)` \| (\d+), (\S+) \|", (TOP / "docs/recipes/audiobook.md").read_text())
    assert len(rows) == 3
    for name, epochs, rate in rows:
        assert (PRESETS[name]["num_epochs"], PRESETS[name]["learning_rate"]) == (int(epochs), float(rate))


def test_every_symptom_names_the_test_that_holds_its_check() -> None:
    """Each row of the first four tables of troubleshooting.md ends with a link to a test (see the test of links)."""
    text = (TOP / "docs/troubleshooting.md").read_text()
    tables = re.findall(r"\| symptom \|.*?\| test \|\n\|[- |]+\n((?:\|.*\n)+)", text)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(tables) == 4 and len(rows) >= 30
    for row in rows:
        assert re.search(r"\[test_\w+\.py\]\(\.\./tests/[\w/]+\.py\)[^|]*\|$", row), row


def test_shell_blocks_are_shell() -> None:
    """bash reads each of them without an error of syntax."""
    for page in PAGES:
        for block in fences(page, "sh", "bash"):
            checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
            assert checked.returncode == 0, f"{shown(page)}: {checked.stderr}\n{block}"
