"""The Python package: a wheel with all that the job needs, whose command works far from any checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from job import __version__

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents in a directory, built from a copy of what the build reads; without pip and a network."""
    pytest.importorskip("setuptools.build_meta", reason="the build backend is not installed, and nothing is downloaded")
    source, wheel, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel", "installed"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.in"):
        shutil.copy2(TOP / name, source)
    shutil.copytree(TOP / "job", source / "job", ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheel)!r})"
    built = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (file,) = wheel.glob("*.whl")
    assert file.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_holds_all_files_of_the_package_and_no_others(installed: Path) -> None:
    """Templates, the demo's clips and weights as well as modules; no tests, no benchmarks."""
    wanted = {path.relative_to(TOP) for path in (TOP / "job").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path.suffix for path in wanted} > {".py", ".j2", ".jinja", ".html", ".flac", ".jsonl"}
    there = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert {path for path in there if path.parts[0] == "job"} == wanted
    assert {path.parts[0] for path in there} == {"job", f"qwen3_tts_job-{__version__}.dist-info"}


def test_the_command_works_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    """`qwen3-tts-job --help` from another directory, with the installed modules and not this checkout's."""
    (package,) = distributions(path=[str(installed)])
    (script,) = package.entry_points.select(group="console_scripts", name="qwen3-tts-job")
    # What pip writes into the script of that name, and a word about where its modules come from.
    code = f"import sys; from {script.module} import {script.attr} as run; print(sys.modules['job'].__file__); run()"
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, "--help"]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(str(installed)) and "synthesize" in said.stdout


def test_what_the_package_needs_is_what_the_lock_is_made_from(installed: Path) -> None:
    """Its metadata name the packages of requirements.in, so that `pip install` of it alone gives a job that runs."""
    (metadata,) = installed.glob("*.dist-info/METADATA")
    needed = {line.split(":")[1].strip() for line in metadata.read_text().splitlines() if line.startswith("Requires-D")}
    lines = (line.partition("#")[0].strip() for line in (TOP / "requirements.in").read_text().splitlines())
    assert needed == {line for line in lines if line} and len(needed) > 20
