"""Replace secrets in text by `***`."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"

#: Shorter secrets are not searched for: masking every "a" in a log hides nothing and ruins the log.
SHORTEST_SECRET = 6

#: What tokens and keys of well-known services look like.
_TOKENS = (
    re.compile(r"\bhf_[A-Za-z0-9]{10,}|hf_[A-Za-z0-9]{30,}"),  # also after `\n`, `%0A`
    re.compile(r"\b(?:api_org|hf_oauth|hf_jwt)_[A-Za-z0-9_.-]{10,}"),
    re.compile(r"\bwandb_v\d+_[A-Za-z0-9_-]{10,}"),
    re.compile(r"\blocal-[0-9a-f]{40}\b"),  # a key of a self-hosted W&B server
    re.compile(r"\b(?:gh[pousr]|github_pat|rpa|sk|glpat)[_-][A-Za-z0-9_-]{16,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
)
#: Passwords in addresses, signatures of signed ones. The group `keep`, if any, stays in front of the mask.
_ADDRESSES = (
    re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE),
    re.compile(r"(?P<keep>[?&](?:X-Amz-(?:Signature|Security-Token|Credential)|Signature|token)=)[^\s&\"']+", re.I),
)
#: What marks a secret anywhere in a text.
_PATTERNS = (
    *_TOKENS,
    *_ADDRESSES,
    re.compile(r"(?P<keep>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE),
    # NAME_TOKEN=value and the like; TOKENS_PER_BATCH=4096 and HF_TOKEN_FILE=/run/secrets/token are none of these
    re.compile(
        r"(?P<keep>(?:\b|_)(?:TOKEN|API_?KEY|SECRET(?:_?KEY)?|PASSWORD|PASSWD)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;]{8,}",
        re.I,
    ),
)
#: 40 hex digits are a W&B key in a line about W&B, and a commit elsewhere.
_WANDB_LINE = re.compile(r"wandb", re.IGNORECASE)
_WANDB_KEY = re.compile(r"\b[0-9a-f]{40}\b")


def redact(text: str, secrets: Iterable[str | None] = ()) -> str:
    """`text` with every one of `secrets`, and everything that looks like a token or a key, replaced by `***`.

    Hub tokens, W&B keys, other services' well-known formats, `Authorization` values, passwords in addresses, signatures
    of signed addresses and values assigned to names ending in TOKEN, KEY, SECRET or PASSWORD are recognised by form.
    """
    text = redact_line(text, secrets)
    for pattern in _PATTERNS:
        text = pattern.sub(_mask, text)
    if _WANDB_LINE.search(text):
        text = "".join(
            _WANDB_KEY.sub(MASK, line) if _WANDB_LINE.search(line) else line for line in text.splitlines(keepends=True)
        )
    return text


def redact_line(text: str, secrets: Iterable[str | None] = ()) -> str:
    """A line of the log with every one of `secrets`, and what is a token or a password beyond doubt, masked.

    Words that stand where secrets often do are left: "set HF_TOKEN: whatever" tells people what to do.
    """
    for secret in sorted({s for s in secrets if s and len(s) >= SHORTEST_SECRET}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for pattern in (*_TOKENS, *_ADDRESSES):
        text = pattern.sub(_mask, text)
    return text


def holds_token(text: str) -> bool:
    """Whether a text surely holds a token: one that is long, and no word."""
    found = [match[0] for pattern in _TOKENS for match in pattern.finditer(text)]
    return any(len(one) >= 20 and re.search(r"\d", one) for one in found) or any(
        one.startswith(("AKIA", "ASIA")) for one in found
    )


def _mask(found: re.Match[str]) -> str:
    return (found.groupdict().get("keep") or "") + MASK


def one_line(error: BaseException | str, secrets: Iterable[str | None] = (), limit: int = 300) -> str:
    """An exception's message on one line, at most `limit` characters, without secrets."""
    words = error if isinstance(error, str) else (str(error) or type(error).__name__)
    line = " ".join(redact(words, secrets).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
