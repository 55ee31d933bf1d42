"""The documentation's site: built whole and strictly, with nothing in it that comes from elsewhere."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.site_links import for_site

TOP = Path(__file__).resolve().parents[2]


class Loaded(HTMLParser):
    """What a browser loads for a page, and where its links lead."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif tag in ("script", "img", "link", "iframe", "source"):
            self.loaded.append(values.get("src") or values.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    """Every page of the site by its name; building it fails where a link, a heading or a page of `nav` is not there."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    directory = tmp_path_factory.mktemp("site")
    config = load_config(str(TOP / "mkdocs.yml"), site_dir=str(directory))
    assert config.strict
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return {str(page.relative_to(directory)): Loaded(page) for page in directory.rglob("*.html")}


def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(site: dict[str, Loaded]) -> None:
    assert len(site) > 20
    for name, page in site.items():
        assert page.loaded, name
        assert not [address for address in page.loaded if re.match(r"(https?:)?//", address)], name


def test_pages_from_outside_docs_are_on_the_site_and_linked(site: dict[str, Loaded]) -> None:
    assert "kubernetes.html" in site["quickstart.html"].links
    assert "docs/images/report.png" not in site["overview.html"].loaded
    assert "images/report.png" in site["overview.html"].loaded
    for name, page in site.items():
        assert not [link for link in page.links if link.startswith("../tests/")], name


def test_links_to_other_files_lead_to_the_repository_where_its_address_is_known() -> None:
    """And a link within the site stays in it; one that leads nowhere in docs/ is left, for the strict build to name."""
    text = "See [the test](../tests/test_plan.py) and [costs](costs.md#memory)."
    assert for_site(text, "scale.md", None) == "See the test and [costs](costs.md#memory)."
    known = for_site(text, "scale.md", "https://example.com/me/job")
    assert "[the test](https://example.com/me/job/blob/HEAD/tests/test_plan.py)" in known
    assert for_site("[rows](docs/data.md)", "overview.md", None) == "[rows](data.md)"
    assert for_site("[k](../k8s/README.md#x)", "recipes/hausa.md", None) == "[k](../k8s/README.md#x)"
    assert for_site("[k](../../k8s/README.md#x)", "recipes/hausa.md", None) == "[k](../kubernetes.md#x)"
