"""Remove user, password, query and fragment from the URLs in printed addresses and texts.

    https://me:password@host/drawings?token=1#x    ->    https://host/drawings

Printed text ends up in logs, manifests and reports. `printable` cleans one address, `shown` the
URLs inside a text. `shown` also escapes control characters, since names are untrusted input.
"""

import json
import re
import traceback
from collections.abc import Mapping
from typing import Any

# pathlib makes one slash of two.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}")
# A well-formed host; a password that contains a slash parses as a port that is not a number.
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")
# Punctuation after a URL in a sentence is not part of it.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/[^\s\"'<>]+")
_FOLLOWING = re.compile(r"[:;,.)\]}]*$")
# Controls except tab and newline, marks of text direction, lone surrogates.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(address: str) -> str:
    """Return a URL without user, password, query and fragment, and a path unchanged.

    >>> printable("https://me:token@host:8080/drawings?X-Amz-Signature=1")
    'https://host:8080/drawings'
    >>> printable("/data/what?"), printable("s3://me:pass/word@bucket/x")
    ('/data/what?', 's3://bucket/x')
    """
    if not _SCHEME.match(address):
        return address
    return re.split("[?#]", without_user(address), maxsplit=1)[0]


def without_user(address: str) -> str:
    """Return a URL without user and password.

    >>> without_user("http://me:token@host/drawings?token=1")
    'http://host/drawings?token=1'
    """
    if (scheme := _SCHEME.match(address)) is None:
        return address
    start, rest = scheme[0], address[scheme.end() :]
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        return start + host.rpartition("@")[2] + rest[len(host) :]
    if _HOST.fullmatch(host):
        return address
    return start + (rest.rpartition("@")[2] if "@" in rest else host.partition(":")[0])


def shown(text: str) -> str:
    r"""Return a text with printable URLs and escaped control characters.

    >>> shown("http://me:pw@host/x?token=1: not there"), shown("\x1b[2Jcat")
    ('http://host/x: not there', '\\x1b[2Jcat')
    """
    found = _URL.sub(lambda match: _shown_url(match[0]), text)
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), found)


def shown_value(value: Any) -> Any:
    """Return a JSON value with every text in it passed through `shown`."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {shown(str(key)): shown_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown_value(item) for item in value]
    return value


def describe_value(value: Any) -> str:
    """Return the beginning of a value as JSON has it."""
    try:
        text = json.dumps(value, default=repr)
    except RecursionError:
        text = "lists within lists without end"
    return text if len(text) <= 40 else f"{text[:40]}..."


def shown_trace(error: BaseException) -> str:
    """Return a traceback that is safe to print."""
    return shown("".join(traceback.format_exception(error)))


def _shown_url(url: str) -> str:
    end = _FOLLOWING.search(url)
    assert end is not None
    return printable(url[: end.start()]) + end[0]
