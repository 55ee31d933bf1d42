"""The locks: complete, hashed, tied to no index, and what the .in files ask for."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

TOP = Path(__file__).resolve().parents[2]
LOCKS = ("requirements", "requirements-dev")
#: What loading scripts run with is installed without the others.
ALL = (*LOCKS, "requirements-ray", "job/fetch/scripted/requirements")


def locked(name: str) -> dict[str, tuple[Version, Marker | None, list[str]]]:
    """Package -> version, marker and hashes."""
    text = re.sub(r"\s*#.*", "", (TOP / f"{name}.lock").read_text()).replace("\\\n", " ")
    found = {}
    for line in filter(None, text.splitlines()):
        head, *options = line.split("--hash=")
        requirement = Requirement(head.strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        hashes = [option.strip() for option in options]
        found[canonicalize_name(requirement.name)] = (Version(pin.version), requirement.marker, hashes)
    return found


def asked(name: str) -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in (TOP / f"{name}.in").read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


@pytest.mark.parametrize("name", ALL)
def test_every_package_has_sha256_hashes(name: str) -> None:
    for package, (_, _, hashes) in locked(name).items():
        assert hashes, package
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), package


@pytest.mark.parametrize("name", ALL)
def test_what_is_asked_for_is_locked(name: str) -> None:
    """An edit of a .in file without `make lock` is noticed."""
    have = locked(name)
    for requirement in asked(name):
        version = have[canonicalize_name(requirement.name)][0]
        assert version in requirement.specifier, f"{requirement}: {version} is locked; run `make lock`"


@pytest.mark.parametrize(
    "name",
    [
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-mutation.lock",
        "requirements-ray.lock",
        "requirements-ray.in",
        "job/fetch/scripted/requirements.lock",
        "requirements.in",
        "requirements-dev.in",
        "job/fetch/scripted/requirements.in",
    ],
)
def test_no_file_names_an_index(name: str) -> None:
    """Whoever installs decides where from: pip's own settings."""
    text = (TOP / name).read_text()
    assert not re.search(r"://|--(extra-)?index|--find-links|\.(org|com|io)/", text)


def test_what_is_installed_together_agrees() -> None:
    job = locked("requirements")
    for other in map(locked, ("requirements-dev", "requirements-ray")):
        assert {p: (job[p][0], other[p][0]) for p in job.keys() & other.keys() if job[p][0] != other[p][0]} == {}


def test_lock_is_complete() -> None:
    """Following the installed packages' own requirements leads to no package outside the lock (--no-deps needs it)."""
    have = locked("requirements")
    todo = {(canonicalize_name(r.name), frozenset(r.extras)) for r in asked("requirements")}
    done: set[tuple[str, frozenset[str]]] = set()
    while todo:
        package, extras = item = todo.pop()
        done.add(item)
        assert package in have, package
        for line in metadata.requires(package) or ():
            needed = Requirement(line)
            if needed.marker and not any(needed.marker.evaluate({"extra": e}) for e in ("", *extras)):
                continue
            further = (canonicalize_name(needed.name), frozenset(needed.extras))
            assert have[further[0]][0] in needed.specifier, f"{package} needs {needed}"
            todo |= {further} - done


def test_these_tests_run_on_the_locked_versions() -> None:
    """What passes here is what the image holds."""
    for name in LOCKS:
        for package, (version, marker, _) in locked(name).items():
            if (marker is None or marker.evaluate()) and package != "uv":
                assert Version(metadata.version(package)) == version, f"{package}: run `make setup-dev`"
    assert sys.version_info >= (3, 11)
