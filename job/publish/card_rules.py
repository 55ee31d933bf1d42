"""The Hub's rules for a model card, and how an edited card is repaired by them."""

from __future__ import annotations

import re
from typing import Any

from job.model import card_facts
from job.publish import edited, front_matter
from job.publish.licenses import LICENSES

#: Metadata that only this job can know, and so never taken from an edited card.
FACTS = ("base_model", "base_model_relation", "model-index")


def check_card(text: str) -> list[str]:
    """Problems for which the Hub would reject a README.md, one line each; checked without a network.

    Checks that there is metadata in YAML; no key is null or empty; `base_model` is a Hub id; `license` is an identifier
    that the Hub knows; `language` contains ISO 639 codes; lists contain strings.
    """
    block, _ = front_matter.split(text)
    if block is None:
        return ["README.md has no metadata (a block between two lines of ---)"]
    found = front_matter.read(block)
    problems = [f"README.md's metadata {found.problem}"] if found.problem else []
    data = found.data or {}
    return [*problems, *(one for key, value in data.items() for one in value_problems(key, value)), *_unnamed(data)]


def value_problems(key: str, value: Any) -> list[str]:
    """Why the Hub would reject one value of the metadata."""
    return _empty(key, value) or _wrong_values({key: value})


def repaired(text: str, ours: str) -> str:
    """A README.md that somebody has edited, with what the Hub would reject in its metadata taken from the card `ours`.

    What this job alone knows comes from `ours` as well: the base model, and the figures in `model-index`. All other
    valid values stay, and so does the text, of which only what nobody has edited is written anew.
    """
    import yaml

    block, body = front_matter.split(text)
    fresh, fresh_body = front_matter.split(ours)
    told: dict[str, Any] = yaml.safe_load(fresh or "")
    is_edited = edited.what(text)
    if is_edited.metadata:
        read = front_matter.read(block or "")
        given = front_matter.salvaged(block or "") if read.data is None else read.data
        valid = {k: v for k, v in given.items() if k not in FACTS and not value_problems(str(k), v)}
        whole = {**told, **valid}
        merged = {key: whole[key] for key in dict.fromkeys((*given, *told)) if key in whole}  # in their order
        if _unnamed(merged):
            merged |= {key: told.get(key) for key in ("license", "license_name", "license_link")}
        merged = {key: value for key, value in merged.items() if value is not None}
        as_it_is = block is not None and read.problem is None and merged == given
        fresh = block if as_it_is else yaml.safe_dump(merged, sort_keys=False, allow_unicode=True).strip()
    return edited.joined(fresh or "", body if is_edited.body else fresh_body, is_edited)


def _unnamed(data: dict[str, Any]) -> list[str]:
    """A licence of one's own without what the Hub shows in place of an identifier."""
    lacking = [key for key in ("license_name", "license_link") if not data.get(key)]
    if data.get("license") != "other" or not lacking:
        return []
    wanted = " and ".join(key.upper() for key in lacking)
    return [f"license: other needs {' and '.join(lacking)} (set {wanted})"]


def _empty(key: str, value: Any) -> list[str]:
    """Null and empty values, which the Hub rejects."""
    if value is None:
        return [f"{key} is null; leave it out or give it a value{_fix(key)}"]
    if value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
        return [f"{key} is empty{_fix(key)}"]
    if isinstance(value, list) and any(item is None or (isinstance(item, str) and not item.strip()) for item in value):
        return [f"{key} has an empty entry{_fix(key)}"]
    return []


def _fix(key: str) -> str:
    variables = {
        "base_model": "BASE_MODEL_ID",
        "license": "LICENSE",
        "language": "LANGUAGE",
        "datasets": "DATASET_NAME",
    }
    return f" (set {variables[key]})" if key in variables else ""


def _wrong_values(data: dict[str, Any]) -> list[str]:
    problems = []
    for key in ("license", "language", "base_model", "datasets", "tags", "pipeline_tag", "library_name"):
        value = data.get(key)
        if isinstance(value, list) and key in ("pipeline_tag", "library_name"):
            problems.append(f"{key}: {str(value)[:60]} must be one string, without a list")
            continue
        items = value if isinstance(value, list) else [value]
        problems += [
            f"{key}: {str(item)[:60]} is not a string{_fix(key)}"
            for item in items
            if item is not None and not isinstance(item, str)
        ]
    for name in _strings(data.get("base_model")):
        if not card_facts.REPO_ID.fullmatch(name) and not re.fullmatch(r"[\w.-]{1,96}", name):
            problems.append(f"base_model: {name!r} is not a Hub id (set BASE_MODEL_ID to owner/name)")
    for name in _strings(data.get("license")):
        if name not in LICENSES:
            problems.append(
                f"license: {name!r} is not an identifier that the Hub knows (set LICENSE, or LICENSE=other)"
            )
    for name in _strings(data.get("language")):
        if not re.fullmatch(r"[a-z]{2,3}", name) and name not in ("code", "multilingual"):
            problems.append(f"language: {name!r} is not an ISO 639 code (set LANGUAGE)")
    for name in _strings(data.get("datasets")):
        if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name):
            problems.append(f"datasets: {name!r} is not a Hub id (set DATASET_NAME)")
    return problems


def _strings(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item.strip()]
