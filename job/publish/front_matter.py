"""Read a model card as people write them: its characters, and the block of metadata in YAML at its beginning.

Whatever is wrong with a block is a sentence, never an exception: it is written by hand.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Any

from job.core.errors import BadInput

#: Bytes of a README.md above which the Hub shows none, and characters and values of its metadata that are read.
LARGEST = 5 << 20
LARGEST_BLOCK = 200_000
MOST_VALUES = 20_000

_BLOCK = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_EMPTY = re.compile(r"---[ \t]*\r?\n---[ \t]*(?:\r?\n|$)")


@dataclass(frozen=True)
class Block:
    """What a block of metadata holds (None where nothing can be made of it), and what is wrong with it as a whole."""

    data: dict[str, Any] | None
    problem: str | None = None


def decoded(data: bytes, where: str) -> tuple[str, str | None]:
    """A README.md as text, and in which encoding it is where that is not UTF-8.

    Raises:
        BadInput: it is too large for a model card.
    """
    if len(data) > LARGEST:
        raise BadInput(f"{where} has {len(data) / 1e6:.1f} MB and the Hub shows no card of that size; shorten it")
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            text, told = data.decode(name, errors="replace"), None if name == "utf-8-sig" else "UTF-16"
            break
    else:
        try:
            text, told = data.decode("utf-8"), None
        except UnicodeDecodeError:
            text, told = data.decode("cp1252", errors="replace"), "Windows-1252"
    if "\r" in text and "\n" not in text:
        text = text.replace("\r", "\n")
    return text, told


def split(text: str) -> tuple[str | None, str]:
    """The metadata of a README.md (None where it has no such block), and the text below it."""
    text = text.lstrip("\ufeff \t\r\n")
    if empty := _EMPTY.match(text):
        return "", text[empty.end() :]
    found = _BLOCK.match(text)
    return (found.group(1), text[found.end() :]) if found else (None, text)


def closed(text: str) -> str:
    """A README.md whose metadata lack the line that ends them, with that line; any other as it is."""
    block, body = split(text)
    begun = re.match(r"---[ \t]*\r?\n", body) if block is None else None
    if begun is None:
        return text
    lines = body[begun.end() :].splitlines(keepends=True)
    end = next((n for n, line in enumerate(lines) if not line.strip() or line.startswith("#")), len(lines))
    above = "".join(lines[:end]).rstrip("\r\n")
    return f"---\n{above}\n---\n{''.join(lines[end:])}" if read(above).data else text


def read(block: str) -> Block:
    """Read a block of metadata."""
    import yaml

    if len(block) > LARGEST_BLOCK:
        return Block(None, f"has {len(block) / 1e3:.0f} kB, more than a card can have")
    try:
        tree = yaml.compose(block, Loader=yaml.SafeLoader)
        values, twice = _count(tree, {}), _twice(tree)
        if values > MOST_VALUES:
            return Block(None, "repeats itself by its aliases until it has too many values")
        data = yaml.safe_load(block)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" in line {mark.line + 2}" if mark else ""
        return Block(None, f"is not valid YAML{at}: {getattr(error, 'problem', None) or 'cannot be parsed'}")
    except RecursionError:
        return Block(None, "is nested too deeply, or within itself")
    except Exception as error:  # of dates such as 2024-13-45, and of values that are not what their tag says
        return Block(None, f"is not valid YAML: {str(error) or type(error).__name__}")
    if data is None:
        return Block(None, "is empty")
    if not isinstance(data, dict):
        return Block(None, "is empty" if not data else "holds no names with values")
    return Block({str(key): value for key, value in data.items()}, twice)


def salvaged(block: str) -> dict[str, Any]:
    """What can be read of a block that cannot be read as a whole: each of its names by itself."""
    found: dict[str, Any] = {}
    if len(block) <= LARGEST_BLOCK:
        for part in re.split(r"(?m)^(?=[A-Za-z_][\w-]*[ \t]*:)", block):
            one = read(part) if "\t" not in part else read(part.expandtabs(2))
            found |= one.data or {}
    return found


def _count(node: Any, known: dict[int, int]) -> int:
    """How many values there are once all aliases are followed."""
    import yaml

    if id(node) in known:
        return known[id(node)]
    if not isinstance(node, yaml.CollectionNode):
        return 1
    known[id(node)] = MOST_VALUES + 1  # if it is met within itself, there is no end to it
    parts = [part for one in node.value for part in (one if isinstance(one, tuple) else (one,))]
    known[id(node)] = found = 1 + sum(_count(part, known) for part in parts)
    return found


def _twice(tree: Any) -> str | None:
    """The first name that occurs twice in one mapping, which the Hub refuses and PyYAML does not."""
    import yaml

    seen, left = set(), [tree]
    while left:
        node = left.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            again = [name for n, name in enumerate(names) if name in names[:n]]
            if again:
                return f"has {again[0]!r} twice"
        left += [part for one in node.value for part in (one if isinstance(one, tuple) else (one,))]
    return None
