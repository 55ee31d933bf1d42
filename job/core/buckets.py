"""Open a bucket, S3's (or one that speaks its protocol) or Google's, through pyarrow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

#: Seconds without an answer after which a request counts as failed.
PATIENCE = 60.0
#: What pyarrow's messages say when the server could not be reached or is overburdened, not when it refuses.
_PASSING = re.compile(
    r"NETWORK_CONNECTION|curlCode|SLOW_?DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT"
    r"|HTTP status: (5\d\d|429)|could not resolve|timed? ?out|UNAVAILABLE|DEADLINE",
    re.IGNORECASE,
)


def opened(scheme: str, bucket: str, env: Mapping[str, str]) -> Any:
    """The file system of a bucket, whose paths are `bucket/path`; may ask the network.

    Args:
        scheme: `s3` or `gs`.
        env: variables that lead to it; keys are read from the process's own, as the providers' tools do.
    """
    return _google() if scheme == "gs" else _amazon(bucket, env)


def may_pass(error: BaseException) -> bool:
    """Whether pyarrow's error says that the server could not be reached or is overburdened."""
    return _PASSING.search(str(error)) is not None


def _amazon(bucket: str, env: Mapping[str, str]) -> Any:
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    given = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {"request_timeout": PATIENCE, "connect_timeout": PATIENCE / 4, "allow_delayed_open": True}
    if given:
        address = urlsplit(given if "://" in given else f"https://{given}")
        options |= {"scheme": address.scheme, "endpoint_override": f"{address.netloc}{address.path.rstrip('/')}"}
    elif region is None:
        region = resolve_s3_region(bucket)
    return S3FileSystem(region=region or "us-east-1", **options)


def _google() -> Any:
    from pyarrow.fs import GcsFileSystem

    return GcsFileSystem(retry_time_limit=timedelta(seconds=PATIENCE))
