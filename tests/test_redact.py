"""Secrets do not get through; figures and paths that look a little like them do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.core.redact import MASK, one_line, redact

HEX = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("token hf_abcdefghijKLMNOPqrst given", "hf_abcdefghijKLMNOPqrst"),
        (r"header value: '# mine\nhf_" + "Zq7" * 12 + "'", "hf_" + "Zq7" * 12),
        ("https://host/x%0Ahf_" + "Zq7" * 12, "hf_" + "Zq7" * 12),
        (f"wandb: login with {HEX}", HEX),
        (f"WANDB_API_KEY={HEX}", HEX),
        ("wandb_v1_abcDEF123456_xyz", "wandb_v1_abcDEF123456_xyz"),
        ("Authorization: Bearer abc.def-ghi123", "abc.def-ghi123"),
        ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("https://user:pa55word@host/x", "pa55word"),
        ("https://b.s3.com/o?X-Amz-Signature=deadbeef&x=1", "deadbeef"),
        ('{"RUNPOD_API_KEY": "rp4567890abc"}', "rp4567890abc"),
        ("MY_SECRET='s3cr3t-value'", "s3cr3t-value"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
        ("AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
    ],
)
def test_secrets_are_masked_by_form(text: str, secret: str) -> None:
    cleaned = redact(text)
    assert secret not in cleaned
    assert MASK in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "TOKENS_PER_BATCH=4096000000",
        "HF_TOKEN_FILE=/run/secrets/token",
        f"commit {HEX} pushed",
        "max_new_tokens: 123456789",
        "tokenizer: speech_tokenizer/config.json",
        "http://127.0.0.1:8000/api/models",
        "HF_TOKEN: ***",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@settings(deadline=None)
@given(st.text(), st.text(min_size=6, alphabet=st.characters(blacklist_characters="*")), st.text())
def test_a_given_secret_never_stays(before: str, secret: str, after: str) -> None:
    """Whatever it looks like and wherever it stands."""
    assert secret not in redact(f"{before}{secret}{after}", [secret])


def test_one_line_is_one_line() -> None:
    line = one_line(ValueError("a\n\nb hf_abcdefghijKLMNOP\n" + "c" * 500))
    assert "\n" not in line
    assert "hf_" not in line
    assert len(line) == 300
