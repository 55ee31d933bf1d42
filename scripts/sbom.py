"""What the job consists of: a CycloneDX list of its packages and their licences, from what is installed in .venv.

`python scripts/sbom.py DIRECTORY` writes sbom.cdx.json (CycloneDX 1.6, the same bytes for the same packages) and
licenses.md there. Both name the packages of requirements.lock only, without the tools of tests and checks. The packages
of the image's Debian are listed when the image is scanned (.github/actions/image).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write both files."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {name(line) for line in (TOP / "requirements.lock").read_text().splitlines() if "==" in line}
    document = only(wanted, listed())
    asked = [name(re.split(r"[<>=;\[]", line)[0]) for line in (TOP / "requirements.in").read_text().splitlines()]
    root = document["metadata"]["component"]["bom-ref"]
    direct = [part["bom-ref"] for part in document["components"] if name(part["name"]) in asked]
    document["dependencies"] = [one for one in document["dependencies"] if one["ref"] != root]
    document["dependencies"].append({"ref": root, "dependsOn": sorted(direct)})
    (directory / "sbom.cdx.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    (directory / "licenses.md").write_text(licences(sorted(wanted)))
    print(f"{len(document['components'])} packages: {directory / 'sbom.cdx.json'}, {directory / 'licenses.md'}")


def name(line: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", line.split("==")[0].strip()).lower()


def listed() -> dict[str, Any]:
    """Everything in the environment that runs this, validated against CycloneDX's schema."""
    quiet = ["-W", "ignore"]  # of a main component without dependencies: they are added here
    tool = [sys.executable, *quiet, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--validate"]
    project = ["--pyproject", str(TOP / "pyproject.toml"), sys.executable]
    done = subprocess.run([*tool, *project], check=True, stdout=subprocess.PIPE)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def only(wanted: set[str], document: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the job does not need, and what is said of it."""
    kept = [component for component in document["components"] if name(component["name"]) in wanted]
    references = {component["bom-ref"] for component in kept} | {document["metadata"]["component"]["bom-ref"]}
    document["components"] = kept
    document["dependencies"] = [
        {**entry, "dependsOn": [one for one in entry.get("dependsOn", []) if one in references]}
        for entry in document.get("dependencies", [])
        if entry["ref"] in references
    ]
    return document


def licences(packages: list[str]) -> str:
    """A table of packages, versions and licences."""
    tool = [
        sys.executable,
        "-m",
        "piplicenses",
        "--format=markdown",
        "--from=mixed",
        "--with-urls",
        "--with-system",
        "--packages",
    ]
    return subprocess.run([*tool, *packages], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
