"""Check whose the token is and whether it may write to a repo, before anything is uploaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.core.console import warn
from job.core.errors import BadInput
from job.publish import hub_client
from job.publish.targets import Target

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: Permission of a fine-grained token that lets it create repos and commit.
WRITE_PERMISSION = "repo.write"


def whoami(api: HfApi) -> dict[str, Any]:
    """The token's account.

    Raises:
        BadInput: the Hub does not know the token.
    """
    try:
        return dict(api.whoami())
    except Exception as error:
        if hub_client.status_of(error) == 401:
            raise BadInput(
                f"HF_TOKEN is refused by {api.endpoint}; create one with write access at {api.endpoint}/settings/tokens"
            ) from None
        raise


def full_name(repo: str, account: dict[str, Any]) -> str:
    """`owner/name` of a repo; a name without an owner belongs to the token's account."""
    return repo if "/" in repo else f"{account.get('name')}/{repo}"


def check_target(api: HfApi, account: dict[str, Any], target: Target, settings: Settings, kind: str = "model") -> str:
    """The repo's full name, after checking that the token may create it or upload to it.

    Raises:
        BadInput: it may not.
    """
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    repo = full_name(target.repo, account)
    refusal = _refusal(account, repo)
    try:
        info = api.repo_info(repo, repo_type=kind)
        # The request that an upload starts with; a small text file needs nothing uploaded before the commit.
        api.preupload_lfs_files(repo, additions=[CommitOperationAdd("README.md", b"---\n")], repo_type=kind)
    except RepositoryNotFoundError:
        if refusal:
            raise BadInput(f"{target.variable}={repo}: {refusal}") from None
        return repo
    except HFValidationError as error:
        raise BadInput(f"{target.variable}={repo}: {hub_client.explain(error, settings)}") from None
    except Exception as error:
        if hub_client.status_of(error) in (401, 403):
            words = refusal or hub_client.explain(error, settings)
            raise BadInput(f"{target.variable}={repo}: {words}") from None
        raise
    if settings.hub_private and info.private is False:
        agreed = "" if settings.voice_consent else "; say in VOICE_CONSENT who agreed to that"
        warn("push", f"{repo} exists and is public: HUB_PRIVATE=true only applies to new repos{agreed}")
    return repo


def _refusal(account: dict[str, Any], repo: str) -> str | None:
    """Why the token cannot create `repo`, from the Hub's answer about it; None if it can or the Hub does not say."""
    owner = repo.split("/")[0]
    access = (account.get("auth") or {}).get("accessToken") or {}
    role = access.get("role")
    if role == "read":
        return "HF_TOKEN is read-only; create one with write access"
    if role == "fineGrained":
        for scope in (access.get("fineGrained") or {}).get("scoped") or []:
            entity = scope.get("entity") or {}
            if entity.get("name") in (owner, repo) and WRITE_PERMISSION in (scope.get("permissions") or []):
                return None
        return f"HF_TOKEN (fine-grained) may not write to {owner}; give it write access to repos under {owner}"
    orgs = {org.get("name"): org.get("roleInOrg") for org in account.get("orgs") or [] if isinstance(org, dict)}
    if owner != account.get("name") and owner not in orgs:
        return f"HF_TOKEN belongs to {account.get('name')}, who is not a member of {owner}"
    if orgs.get(owner) == "read":
        return f"HF_TOKEN belongs to {account.get('name')}, who may only read at {owner}"
    return None
