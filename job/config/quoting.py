"""Parse the values of variables: one rule for quotation marks and trailing comments, wherever a value comes from.

A shell and python-dotenv remove quotation marks; `docker --env-file`, Kubernetes and web forms pass them on as part of
the value, and comments too. The rule, for the environment and the `.env` file alike:

- A value enclosed in one pair of `"` or `'` is the text between them, as python-dotenv reads it (with escapes such as
  `\\n` in double quotes). A comment after the pair is dropped.
- In other values ` #` (with a space) begins a comment, which is dropped; in those of `FREE_TEXT` it is text.
- An unmatched quotation mark at one end is refused. An apostrophe in a word is none (`it's`), nor is one at the ends of
  free text (`'tis`). Pairs that do not enclose the whole value are part of it (`He said "no"`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.main import resolve_variables
from dotenv.parser import decode_escapes, parse_stream

from job.core.errors import BadInput

#: Variables that hold sentences, in which `#` and apostrophes are ordinary characters.
FREE_TEXT = frozenset({"TEST_TEXTS", "REF_TEXT", "DATASETS", "VOICE_CONSENT"})

#: Variables of libraries and the system that follow the same rule, since a wrong one makes a run fail late.
OF_LIBRARIES = re.compile(
    r"(HF|HUGGING_?FACE|TRANSFORMERS|DATASETS|WANDB|TRACKIO|XDG|CUDA|NCCL|TORCH\w*|PYTORCH|OMP|MKL)_\w+"
    r"|TMPDIR|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(https?|all|no)_proxy|(HTTPS?|ALL|NO)_PROXY"
)

_QUOTED = {
    '"': (re.compile(r'"((?:[^"\\]|\\.)*)"\s*(#.*)?', re.DOTALL), re.compile(r"\\[\\'\"abfnrtv]")),
    "'": (re.compile(r"'((?:[^'\\]|\\.)*)'\s*(#.*)?", re.DOTALL), re.compile(r"\\[\\']")),
}
_MARKS = {'"': re.compile('"'), "'": re.compile(r"(?<!\w)'|'(?!\w)")}  # not an apostrophe within a word
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?'?([\w.-]+)'?[^\S\n]*=(.*)", re.DOTALL)


@dataclass
class Notes:
    """The corrections made to values and the variables affected, to be logged once per kind."""

    unquoted: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line per kind of correction, without any value."""
        said = (
            (self.unquoted, "removed the quotation marks around the value"),
            (self.cut, "dropped the text after ' #' as a comment; put the value in quotation marks to keep it"),
            (self.kept, "' #' is kept as part of the text; it does not begin a comment"),
            (self.unread, "ignored, since it is not NAME=value"),
        )
        return [f"{', '.join(dict.fromkeys(names))}: {what}" for names, what in said if names]


def plain(name: str, raw: str, notes: Notes | None = None) -> str:
    """The value that `raw`, the text after `NAME=`, stands for; see the rule above.

    Raises:
        BadInput: there is a quotation mark at one end only. The message omits the value, which may be a secret.
    """
    notes = notes if notes is not None else Notes()
    text, free = raw.strip(), name in FREE_TEXT
    if text[:1] in _QUOTED:
        whole, escapes = _QUOTED[text[0]]
        if match := whole.fullmatch(text):
            notes.unquoted.append(name)
            return str(decode_escapes(escapes, match[1])).strip()
    only_comment = text.startswith("#") and raw[:1].isspace()
    if only_comment or re.search(r"\s#", text):
        (notes.kept if free else notes.cut).append(name)
        if not free:
            text = "" if only_comment else re.sub(r"\s+#.*", "", text, flags=re.DOTALL)
    for mark, pattern in _MARKS.items():
        if not (text.startswith(mark) or text.endswith(mark)):
            continue
        count = len(pattern.findall(text))
        if count == 2 and len(text) > 1 and text[0] == text[-1] == mark:  # apostrophes between them: 'It's me'
            notes.unquoted.append(name)
            return text[1:-1].strip()
        if count % 2 and not (free and mark == "'"):
            raise BadInput(
                f"{name}: there is a quotation mark ({mark}) at one end of the value and none at the other; put it "
                "in a pair of them, or in none"
            )
    return text


def quoted(name: str, value: str) -> str:
    """A text that `plain` reads as exactly `value` (ignoring surrounding spaces): the value itself if possible."""
    if is_settled(name, value.strip()) and not value.lstrip().startswith("#"):
        return value
    return '"' + re.sub(r'([\\"])', r"\\\1", value.strip()) + '"'


def is_settled(name: str, value: str) -> bool:
    """Whether parsing a value leaves it unchanged, so that a child process reads the same value again."""
    try:
        return plain(name, value) == value
    except BadInput:
        return False


def mended(environ: Mapping[str, str], names: Iterable[str], notes: Notes) -> dict[str, str]:
    """The environment with the values of `names` and of the libraries' variables parsed by `plain`.

    Raises:
        BadInput: naming the variable.
    """
    ours = set(names)
    return {
        name: plain(name, value, notes) if name in ours or OF_LIBRARIES.fullmatch(name) else value
        for name, value in environ.items()
    }


def read_env_file(path: Path, notes: Notes) -> dict[str, str]:
    """The variables of a `.env` file. python-dotenv splits it into statements and expands `${NAME}`.

    Raises:
        BadInput: it cannot be read or is not UTF-8, or a value has a quotation mark at one end only.
    """
    try:
        with path.open(encoding="utf-8-sig") as handle:
            statements = list(parse_stream(handle))
    except UnicodeDecodeError:
        raise BadInput(f"ENV_FILE={path}: is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise BadInput(f"ENV_FILE={path}: {error.strerror}") from error
    quiet = Notes()  # quotation marks and comments are normal in such a file
    pairs: list[tuple[str, str | None]] = []
    for statement in statements:
        text = statement.original.string
        # A statement that python-dotenv cannot parse (an unmatched quotation mark) may have swallowed later lines.
        for number, line in enumerate(text.splitlines() if statement.error else [text], start=statement.original.line):
            match = _ASSIGNMENT.fullmatch(line.rstrip("\r\n"))
            if match is None:
                if statement.error and line.strip() and not line.lstrip().startswith("#"):
                    notes.unread.append(f"{path} line {number}")
                continue
            name, raw = match[1], match[2]
            if swallowed := re.search(r"\n\s*(?:export\s+)?([A-Z][A-Z0-9_]+)=", raw):
                raise BadInput(
                    f"ENV_FILE={path}: the quotation mark of {name} (line {number}) is only closed after "
                    f"{swallowed[1]}=; close it on its own line"
                )
            pairs.append((name, plain(name, raw, quiet)))
    notes.kept += quiet.kept
    return {name: value for name, value in resolve_variables(pairs, override=True).items() if value is not None}
