"""One kubectl and one rendering of each overlay for all tests here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.k8s import kubectl as tool
from tests.k8s.manifests import K8S, OVERLAYS, Document


@pytest.fixture(scope="session")
def kubectl() -> Path:
    return tool.find()


@pytest.fixture(scope="session")
def rendered(kubectl: Path) -> dict[str, list[Document]]:
    """Overlay -> its documents, in order."""
    return {name: tool.render(kubectl, K8S / "overlays" / name) for name in OVERLAYS}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of k8s/ to edit."""
    return Path(shutil.copytree(K8S, tmp_path / "a check out" / "k8s"))
