"""Open a bucket, S3's (or one that speaks its protocol) or Google's, through pyarrow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
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
#: What Google's client says when it has found no credentials and asked for those of a machine of Google's in vain: only
#: there is there such a host. It says the same of credentials that it has found, without a network.
_NO_TOKEN = re.compile(r"access token.*resolve host", re.IGNORECASE | re.DOTALL)
#: What a message says then.
NO_CREDENTIALS = "there are no Google credentials; set GOOGLE_APPLICATION_CREDENTIALS to a service account's file"


def opened(scheme: str, bucket: str, env: Mapping[str, str]) -> Any:
    """The file system of a bucket, whose paths are `bucket/path`; may ask the network.

    Args:
        scheme: `s3` or `gs`.
        env: variables that lead to it; keys are read from the process's own, as the providers' tools do.
    """
    return _google(env) if scheme == "gs" else _amazon(bucket, env)


def may_pass(error: BaseException) -> bool:
    """Whether pyarrow's error says that the server could not be reached or is overburdened."""
    return _PASSING.search(str(error)) is not None


def lacks_credentials(error: BaseException, env: Mapping[str, str]) -> bool:
    """Whether it is for want of any credentials that Google's client gives up; to try again would not help."""
    saved = Path(env.get("HOME", "/")) / ".config/gcloud/application_default_credentials.json"
    found = env.get("GOOGLE_APPLICATION_CREDENTIALS") or saved.is_file()
    return not found and _NO_TOKEN.search(str(error)) is not None


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


def _google(env: Mapping[str, str]) -> Any:
    from pyarrow.fs import GcsFileSystem

    options: dict[str, Any] = {"retry_time_limit": timedelta(seconds=PATIENCE)}
    if given := env.get("STORAGE_EMULATOR_HOST"):  # of Google's own clients: another server, which takes no credentials
        address = urlsplit(given if "://" in given else f"http://{given}")
        options |= {"scheme": address.scheme, "endpoint_override": address.netloc, "anonymous": True}
    return GcsFileSystem(**options)
