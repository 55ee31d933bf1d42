"""The message that NOTIFY_URL gets when a run has ended: how, why, and where the voice is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from job.config import quoting
from job.config.settings import Settings
from job.core import errors, files, state
from job.core.console import warn
from job.core.errors import BadInput
from job.core.redact import one_line

if TYPE_CHECKING:
    from apprise import Apprise

#: What an exit code says, as in the README's table.
_ENDINGS = {
    errors.OK: "done",
    1: "failed unexpectedly",
    errors.BAD_INPUT: "refused its settings or its input",
    errors.DATA_REFUSED: "refused the data",
    errors.TRAINING_STOPPED: "stopped training",
    errors.PUBLISH_FAILED: "could not publish",
    errors.SPEECH_FAILED: "made speech that failed its checks",
    errors.STOPPED_BY_SIGNAL: "was stopped; the same command resumes",
    137: "was killed, perhaps for memory; the same command resumes",
}
#: Bytes at the end of the console log in which the reason of a failure is looked for.
_TAIL = 64 << 10
#: Characters of a line of the message.
_LINE = 500


def check(settings: Settings) -> None:
    """Check the addresses of NOTIFY_URL by their form; nothing is sent.

    Raises:
        BadInput: one of them is none that Apprise knows. The address is not repeated, as it may hold a password.
    """
    for number, address in enumerate(_addresses(settings), start=1):
        if not _apprise().add(address):
            which = "" if number == 1 else f" address {number}"
            raise BadInput(f"NOTIFY_URL:{which} is not of a known form, such as ntfys://my-topic; see docs/nightly.md")


def send(settings: Settings, code: int) -> bool:
    """Send the message about a run that ended with this exit code. Failing to is a warning, never an error.

    Returns:
        whether there was something to send to, and all of it was sent.
    """
    addresses = _addresses(settings)
    if not addresses:
        return False
    title, body = message(settings, code)
    return _sent(addresses, title, body, good=code == 0)


def send_about_settings(environ: Mapping[str, str], code: int) -> bool:
    """The same about a run whose settings could not even be read, with NOTIFY_URL as it stands in the environment."""
    addresses = _given(environ, "NOTIFY_URL").split()
    log = Path(_given(environ, "CONSOLE_LOG") or Settings.model_fields["console_log"].default)
    reason = [one_line(line, addresses, _LINE) for line in _reason(log)]
    return bool(addresses) and _sent(addresses, _title("", code), "\n".join(reason) or f"Exit code {code}.", good=False)


def _given(environ: Mapping[str, str], name: str) -> str:
    """A variable of the environment without quotation marks and comments; as it stands where they cannot be read."""
    raw = environ.get(name, "")
    try:
        return quoting.plain(name, raw)
    except BadInput:
        return raw.strip("\"' ")


def message(settings: Settings, code: int) -> tuple[str, str]:
    """Title and text of the message, without secrets."""
    lines = [f"Exit code {code}.", *_reason(settings.console_log)] if code else []
    if code in (errors.OK, errors.SPEECH_FAILED):
        stats = settings.paths.samples / "stats.json"
        verdict = files.read_json(stats).get("summary", {}).get("verdict") if stats.exists() else None
        published = (state.read(settings.paths.state, "push") or {}).get("counts", {})
        lines += [str(line) for line in (verdict, published.get("url"), published.get("last", {}).get("url")) if line]
    text = "\n".join(one_line(line, settings.secrets, _LINE) for line in lines)
    name = settings.wandb_run_name or settings.paths.work.resolve().name
    return one_line(_title(name, code), settings.secrets, _LINE), text or "All stages are done."


def _title(name: str, code: int) -> str:
    return f"qwen3-tts {name}".strip() + f": {_ENDINGS.get(code, f'ended with exit code {code}')}"


def _sent(addresses: list[str], title: str, text: str, *, good: bool) -> bool:
    """Send to each address by itself, so that one that fails does not keep the others from it."""
    from apprise import NotifyType

    kind, all_sent = NotifyType.SUCCESS if good else NotifyType.FAILURE, True
    for address in addresses:
        to = _apprise()
        if not (to.add(address) and to.notify(body=text, title=title, notify_type=kind)):
            warn("notify", f"no message could be sent to {address.split(':', 1)[0]}://... of NOTIFY_URL")
            all_sent = False
    return all_sent


def _reason(log: Path) -> list[str]:
    """The last line of the console log that names an error."""
    try:
        text = files.read_end(log, _TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    found = re.findall(r'^(?:error: .*|\w*Error: .*|\{.*"level": "error".*\})$', text, re.MULTILINE)[-1:]
    return [f"error: {json.loads(line)['message']}" if line.startswith("{") else line for line in found]


def _addresses(settings: Settings) -> list[str]:
    """The addresses of NOTIFY_URL, separated by spaces or line ends."""
    return settings.notify_url.get_secret_value().split() if settings.notify_url else []


def _apprise() -> Apprise:
    """An empty list of addressees; imported only where there is one, since it takes a third of a second."""
    import logging

    from apprise import Apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its messages show parts of the addresses
    return Apprise()
