"""Make addresses and texts safe to print: no user, password, query or fragment of a URL.

    https://me:password@host/drawings?token=1#x    ->    https://host/drawings

Whatever is printed ends in logs, manifests and reports. `printable`
removes them from one address, `shown` from the URLs inside a text. `shown` also escapes control
characters, since names may come from other people.
"""

import re
import traceback
from collections.abc import Mapping
from typing import Any

# pathlib makes one slash of two.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}")
# A host as it should be; a password with a slash in it ends up as a port that is no number.
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")
# What follows a URL in a sentence is not of it.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/[^\s\"'<>]+")
_FOLLOWING = re.compile(r"[:;,.)\]}]*$")
# Controls but tab and newline, marks that turn the direction of writing, halves of characters.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(address: str) -> str:
    """Return a URL without user, password, query and fragment; a path as it is.

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
    """Return what JSON can hold with `shown` texts in it."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {shown(str(key)): shown_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown_value(item) for item in value]
    return value


def shown_trace(error: BaseException) -> str:
    """Return a traceback that may be printed."""
    return shown("".join(traceback.format_exception(error)))


def _shown_url(url: str) -> str:
    end = _FOLLOWING.search(url)
    assert end is not None
    return printable(url[: end.start()]) + end[0]
