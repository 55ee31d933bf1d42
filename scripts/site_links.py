"""What makes the repository's pages a site: a hook of mkdocs that takes in pages from outside docs/ and mends links.

The pages are written for the repository: their links are relative paths in it, to any file. On the site a link to a
page of the site leads there; one to another file leads to the repository's host where its address is known
(GITHUB_SERVER_URL and GITHUB_REPOSITORY, as GitHub's runners have them), and is plain text elsewhere.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = Path(__file__).resolve().parents[1]
#: Pages outside docs/, and what they are called on the site.
TAKEN_IN = {
    "README.md": "overview.md",
    "k8s/README.md": "kubernetes.md",
    "runpod/README.md": "runpod.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/RESULTS.md": "benchmark-results.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
ORIGINS = {site: repository for repository, site in TAKEN_IN.items()}
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Keep the repository's address, if it is known; not as `repo_url`, for which the theme asks its host for stars."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        config.extra["repository"] = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the pages from outside docs/."""
    for repository, site in TAKEN_IN.items():
        files.append(File.generated(config, site, abs_src_path=str(TOP / repository)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page, outside its code blocks."""
    site, repository = page.file.src_uri, config.extra.get("repository")
    return "".join(part if FENCE.match(part) else for_site(part, site, repository) for part in FENCE.split(markdown))


def for_site(markdown: str, site: str, repository: str | None) -> str:
    """The text with its links as the site needs them; `site` is the page's own name there."""
    origin = ORIGINS.get(site, f"docs/{site}")

    def mended(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path, hash_, heading = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        there = TAKEN_IN.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if there is not None:
            there = posixpath.relpath(there, posixpath.dirname(site) or ".")
            return f"{image}[{text}]({there}{hash_}{heading})"
        return f"[{text}]({repository}/blob/HEAD/{file}{hash_}{heading})" if repository else text

    return LINK.sub(mended, markdown)
