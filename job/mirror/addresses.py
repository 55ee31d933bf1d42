"""What MIRROR_CHECKPOINTS names: a repo on the Hub, a bucket or a directory."""

from __future__ import annotations

import re
from pathlib import Path

from job.config.settings import Settings
from job.core.console import say
from job.core.errors import BadInput
from job.mirror.archive import Store
from job.mirror.bucket_mirror import BucketMirror
from job.mirror.folder_mirror import FolderMirror

_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/([\w./-]*))?")
_BUCKET = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]+(?:/[^?#]*)?)")
_FORMS = "use hf://owner/name, s3://bucket/path, gs://bucket/path, or a directory"


def opened(settings: Settings) -> Store | None:
    """The store that MIRROR_CHECKPOINTS names; None if it is not set. Nothing is asked of it yet.

    Raises:
        BadInput: the address has none of the known forms.
    """
    address = settings.mirror_checkpoints
    if not address:
        return None
    if "://" in address and "@" in address:  # not repeated: what stands before it may be a password
        raise BadInput(
            "MIRROR_CHECKPOINTS: an address holds no keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and "
            "AWS_ENDPOINT_URL for another server than Amazon's"
        )
    if found := _HUB.fullmatch(address):
        from job.mirror.hub_mirror import HubMirror

        return HubMirror(found[1], found[2] or "", settings)
    if found := _BUCKET.fullmatch(address):
        return BucketMirror(found[1], found[2], settings)
    if "://" in address:
        raise BadInput(f"MIRROR_CHECKPOINTS={address[:100]}: {_FORMS}")
    root = Path(address).expanduser().absolute()
    for name, own in (("WORK_DIR", settings.paths.work), ("OUTPUT_DIR", settings.paths.output)):
        if root == own or root in own.parents or own in root.parents:
            raise BadInput(f"MIRROR_CHECKPOINTS={address}: is in or around {name}={own}; name a directory elsewhere")
    return FolderMirror(root)


def check(settings: Settings) -> None:
    """Check in the first minute that the mirror may be written to.

    Raises:
        BadInput: it may not.
        Unreachable: it cannot be reached now.
    """
    store = opened(settings)
    if store is not None:
        store.check()
        say("doctor", f"checkpoints and prepared data are copied to {settings.mirror_checkpoints}")
