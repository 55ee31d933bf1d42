"""Recognize addresses of object storage and sets of shards among the values of variables that name data."""

from __future__ import annotations

import re
from glob import has_magic
from pathlib import Path

_ADDRESS = re.compile(r"(s3|gs|hf):/+(.+)", re.DOTALL | re.IGNORECASE)
#: Any other address; one letter is a drive of Windows.
_OTHER = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
#: A range of numbers in a name, as shells write it, and as NeMo does.
_RANGE = re.compile(r"(?:\{|_OP_)(\d+)\.\.(\d+)(?:\}|_CL_)")
#: A sign of patterns that is meant as it stands.
_SIGN = re.compile(r"\[([*?[])\]")
#: Most files that a range names.
_MOST = 100_000
#: What a message says about keys in an address, which it does not repeat.
NO_KEYS = "an address holds no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def address_of(value: Path | str | None) -> str | None:
    """`s3://…`, `gs://…` or `hf://…`, also from a `Path`, which joins slashes; None for anything else."""
    found = None if value is None else _ADDRESS.fullmatch(str(value).strip())
    return f"{found[1].lower()}://{found[2]}" if found else None


def as_it_stands(pattern: str) -> str | None:
    """The one name that a pattern stands for: `[[]`, `[*]` and `[?]` are the signs in them; None if it has others."""
    return None if has_magic(_SIGN.sub("", pattern)) else _SIGN.sub(r"\1", pattern)


def not_read(value: Path | str) -> str:
    """What to do where a value that names nothing here is an address of a kind that is not read; else empty."""
    other = None if address_of(value) else _OTHER.match(str(value).strip())
    return f"; {other[1]}:// is not read, but s3://, gs:// and hf://datasets/ are: or download it" if other else ""


def holds_keys(value: Path | str) -> bool:
    """Whether an address of a bucket has keys before the bucket's name, so that no message may repeat it."""
    address = address_of(value) or ""
    return address.startswith(("s3:", "gs:")) and "@" in address


def shards_here(value: Path | str) -> list[Path]:
    """The shards on this machine that a pattern such as `night-*.tar` names, a tar itself, or a folder of them.

    With a range (`night-{0..7}.tar`, NeMo's `audio__OP_0..7_CL_.tar`) all that it names, whether they are there or not.
    """
    path = Path(value).expanduser().absolute()
    if path.suffix.lower() == ".tar" and path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(path.iterdir())  # unlike `glob`, tells that a folder cannot be read
        return [p for p in inside if p.name.endswith(".parquet")] or [p for p in inside if p.name.endswith(".tar")]
    if address_of(value) or path.exists():
        return []
    if found := _RANGE.search(path.name):
        numbers = range(int(found[1]), min(int(found[2]), int(found[1]) + _MOST) + 1)
        return [path.with_name(_RANGE.sub(f"{n:0{len(found[1])}d}", path.name, count=1)) for n in numbers]
    if not has_magic(str(value)):
        return []
    root = Path(path.anchor)
    return sorted(one for one in root.glob(str(path.relative_to(root))) if one.is_file())
