"""Declarations of the variables of publishing and tracking; `job.config.variables` has the others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from job.config.declaring import var


class PublishVariables(BaseSettings):
    """Publishing and tracking."""

    hf_token: SecretStr | None = var(None, "Hub token.", free=True)
    hf_token_file: Path | None = var(None, "File that contains the Hub token.", free=True)
    hf_repo_id: str | None = var(
        None, "Repo for the best checkpoint.", "HF_REPO_ID", "HUB_MODEL_ID_BEST", "HF_BEST_MODEL_REPO"
    )
    hf_last_repo_id: str | None = var(
        None, "Repo for the last checkpoint.", "HF_LAST_REPO_ID", "HUB_MODEL_ID_LAST", "HF_LAST_MODEL_REPO"
    )
    upload_to_hub: bool | None = var(
        None,
        "Publish to the Hub. Default: true if there are a token and HF_REPO_ID.",
        "UPLOAD_TO_HUB",
        "UPLOAD_TO_HF",
    )
    hub_private: bool = var(True, "Create repos as private.")
    push_dataset: str | None = var(
        None,
        "Publish the prepared dataset (codes and x-vectors, no recordings) as this Hub dataset (`owner/name`).",
    )
    base_model_id: str | None = var(None, "`base_model` in the model card, if INIT_MODEL_PATH is a directory.")
    license: str = var("apache-2.0", "Licence in the model card: an identifier of the Hub, or `other`.")
    license_name: str | None = var(
        None, "LICENSE=other: the licence's short name, such as `my-licence-1.0`.", pattern=r"^[\w.-]+$"
    )
    license_link: str | None = var(
        None,
        "LICENSE=other: its address, or `LICENSE` for a file of that name in the repo.",
        pattern=r"^(LICENSE|https?://[^\s/]+\S*)$",
    )
    voice_consent: str | None = var(
        None,
        "Who agreed that this voice may be made and published, and how, in your words; shown in the model card, and "
        "required with HUB_PRIVATE=false (docs/publishing.md).",
    )
    export: Literal["merged", "adapter", "both"] = var(
        "both", "What a LoRA checkpoint contains: merged weights, the adapter, or both."
    )
    upload_logs: bool = var(False, "Upload the console log, secrets redacted.", free=True)
    notify_url: SecretStr | None = var(
        None,
        "Where a message goes when a run has ended, however it ended: addresses of Apprise, such as `ntfys://my-topic` "
        "(docs/nightly.md).",
        free=True,
    )
    trackers: str = var("jsonl", "Comma-separated: jsonl (always), tensorboard, wandb, trackio.", free=True)
    use_wandb: bool = var(False, "Same as wandb in TRACKERS.", free=True)
    wandb_api_key: SecretStr | None = var(None, "W&B key.", free=True)
    wandb_project: str = var("qwen3-tts", "W&B project.", free=True)
    wandb_run_name: str | None = var(None, "W&B run name.", free=True)
    wandb_entity: str | None = var(None, "W&B entity.", free=True)
