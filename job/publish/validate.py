"""Stage `validate`: write the model card, and check it and the checkpoint before publishing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job.config.settings import Settings
from job.core import files
from job.core.console import say, warn
from job.core.errors import BadInput, PublishFailed
from job.core.redact import one_line
from job.model import card_facts
from job.publish import card, card_rules, contents, kept_cards
from job.publish.targets import skipped

#: Timeout of requests to the Hub, in seconds.
TIMEOUT = 20


def run(settings: Settings) -> dict[str, Any]:
    """Write README.md into output/best and output/last, and check the files that would be published.

    Returns:
        Counts: files, bytes, weight files checked, speakers.

    Raises:
        BadInput: there is no checkpoint, or the Hub would reject the card.
        PublishFailed: a checkpoint lacks a file that stock `qwen_tts` needs, or holds weights that are not finite.
    """
    paths = settings.paths
    if not paths.best.is_dir():
        raise BadInput(f"{paths.best} is missing; run `python -m job train` first (OUTPUT_DIR)")
    cards = {
        directory: kept_cards.local(directory / "README.md", checked_card(settings, directory), "validate")
        for directory in (paths.best, paths.last)
        if directory.is_dir()
    }
    if skipped(settings) is None:
        ask_hub(cards[paths.best], settings)
    for directory, text in cards.items():
        problems = contents.check(directory, settings)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise PublishFailed(f"{directory}: {problems[0]}{more}; run train again with FORCE=true, then push")
        files.write_text(directory / "README.md", text)
    published = contents.published(paths.best)
    size = sum((paths.best / name).stat().st_size for name in published)
    speakers = card_facts.speakers(settings)
    say("validate", f"the model card and {len(published)} files ({size / 1e6:.1f} MB) are ready to publish")
    return {"files": len(published), "bytes": size, "speakers": speakers, "base_model": card_facts.base_model(settings)}


def checked_card(settings: Settings, checkpoint: Path | None = None) -> str:
    """The model card that will be written, checked by the Hub's rules without a network.

    Raises:
        BadInput: the Hub would reject it, or it is to be published and cannot name its base model.
    """
    if skipped(settings) is None:
        card_facts.need_facts(settings)
    text = card.render(settings, checkpoint=checkpoint)
    problems = card_rules.check_card(text)
    if problems:
        raise BadInput(f"the Hub would reject the model card: {'; '.join(problems)}")
    return text


def ask_hub(text: str, settings: Settings) -> None:
    """Let the Hub itself check the card; if it cannot be reached, only warn, since `push` will ask again.

    `huggingface_hub.ModelCard.validate` does the same, but always at huggingface.co, whatever HF_ENDPOINT says.

    Raises:
        BadInput: the Hub rejects it.
    """
    import requests
    from huggingface_hub import constants, get_session

    try:
        answer = get_session().post(
            f"{constants.ENDPOINT}/api/validate-yaml",
            json={"content": text, "repoType": "model"},
            headers={"Authorization": f"Bearer {settings.token}"} if settings.token else {},
            timeout=TIMEOUT,
        )
        said = answer.json()
    except (requests.RequestException, ValueError) as error:
        reason = one_line(error, [settings.token], limit=120)
        warn("validate", f"the Hub could not check the model card ({reason}); it passed the local checks")
        return
    messages = [str(item.get("message")) for item in said.get("errors") or [] if isinstance(item, dict)]
    if answer.status_code == 400 and messages:
        raise BadInput(f"the Hub rejects the model card: {one_line('; '.join(messages))}")
    if answer.status_code != 200:
        warn("validate", f"the Hub could not check the model card (status {answer.status_code})")
    for item in said.get("warnings") or []:
        warn("validate", f"the Hub's remark on the model card: {one_line(str(item.get('message')))}")
