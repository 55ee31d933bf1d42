"""The Hub's rules about the metadata of a README.md, as its `validate-yaml` endpoint words them.

Written apart from `job.publish.card`, so that a mistake in one does not hide in the other.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
    gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc intel-research lppl-1.3c ms-pl apple-ascl mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma apple-amlr
    unknown other
"""
LICENSES = set(_LICENSES.split())
REPO_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


def front_matter(content: str) -> str | None:
    """The YAML between the first two `---` lines, or None."""
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", content, re.DOTALL)
    return found.group(1) if found else None


def validate(content: str, kind: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) for a README.md."""
    block = front_matter(content)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(block)
    except yaml.YAMLError as error:
        return [f"bad yaml: {error}"], []
    if twice := _twice(yaml.compose(block)):
        return [f"bad yaml: duplicated mapping key {twice}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["the metadata must be of type object"], []
    errors: list[str] = []
    warnings: list[str] = []
    _license(data, errors)
    _languages(data, errors)
    if kind == "model":
        _base_model(data, errors)
        _strings(data, "pipeline_tag", errors, one=True)
        _strings(data, "library_name", errors, one=True)
    _strings(data, "tags", errors)
    for index, name in enumerate(_strings(data, "datasets", errors)):
        if not REPO_ID.fullmatch(name):
            warnings.append(f'"datasets[{index}]" with value "{name}" is not valid. If possible, use a dataset id')
    return errors, warnings


def _twice(node: Any) -> str | None:
    """A key that occurs twice in a mapping."""
    if not isinstance(node, yaml.MappingNode):
        return None
    keys = [key.value for key, _ in node.value]
    found = next((key for key in keys if isinstance(key, str) and keys.count(key) > 1), None)
    return found or next(filter(None, (_twice(value) for _, value in node.value)), None)


def _strings(data: dict[str, Any], key: str, errors: list[str], one: bool = False) -> list[str]:
    """The strings under `key`, after saying what is wrong with the others."""
    if key not in data:
        return []
    value = data[key]
    items = value if isinstance(value, list) and not one else [value]
    named = [(f"{key}[{i}]" if isinstance(value, list) else key, item) for i, item in enumerate(items)]
    for name, item in named:
        if not isinstance(item, str):
            errors.append(f'"{name}" must be a string')
        elif not item:
            errors.append(f'"{name}" is not allowed to be empty')
    return [item for item in items if isinstance(item, str) and item]


def _base_model(data: dict[str, Any], errors: list[str]) -> None:
    for name in _strings(data, "base_model", errors):
        if not REPO_ID.fullmatch(name):
            errors.append(f'"base_model" with value "{name}" is not valid. Use a model id from https://hf.co/models.')


def _license(data: dict[str, Any], errors: list[str]) -> None:
    if any(name not in LICENSES for name in _strings(data, "license", errors)):
        errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}]')


def _languages(data: dict[str, Any], errors: list[str]) -> None:
    for name in _strings(data, "language", errors):
        if name != name.lower():
            errors.append('"language" must only contain lowercase characters')
        elif not re.fullmatch(r"[a-z]{2,3}", name) and name not in ("code", "multilingual"):
            errors.append(
                f'"language" with value "{name}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code (two/three '
                'letters), or a special value like "code", "multilingual".'
            )
