"""Where a store's objects are: a directory, S3, GCS or memory, by its URL.

Credentials and endpoints of remote stores come from the environment alone.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.store import LocalStore, MemoryStore, from_url

if TYPE_CHECKING:  # obstore has these for type checkers alone
    from obstore.store import ClientConfig, RetryConfig

# obstore's own retries: 5xx answers, lost connections and time-outs; full jitter. Two minutes
# stay below the five after which a signed request expires.
RETRY_CONFIG: "RetryConfig" = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=15),
        "base": 2,
    },
}
# The default of 30 s for a whole request is less than 8 MiB take on a slow line.
CLIENT_OPTIONS: "ClientConfig" = {
    "timeout": timedelta(seconds=300),
    "connect_timeout": timedelta(seconds=10),
}


def open_backend(url: str) -> tuple[obstore.store.ObjectStore, str]:
    """Return the backend of a directory path, `file://`, `s3://`, `gs://` or `memory://` URL.

    A local directory is made if needed. Credentials and endpoints of remote stores come from
    the environment alone (AWS_*, GOOGLE_*). Also returns the URL, absolute for directories.
    """
    if url.startswith("memory://"):
        return MemoryStore(), url
    if "://" not in url or url.startswith("file://"):
        root = Path(url.removeprefix("file://")).expanduser().resolve()
        root.mkdir(parents=True, exist_ok=True)
        return LocalStore(root), str(root)
    # Whoever writes http:// into the endpoint has chosen it.
    is_plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    options: ClientConfig = {**CLIENT_OPTIONS, **({"allow_http": True} if is_plain else {})}
    return from_url(url, client_options=options, retry_config=RETRY_CONFIG), url
