"""Errors of the Hugging Face Hub in one sentence each, without the token."""

import contextlib
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from pipelines.hub.repository import Repository
from pipelines.store.backends import one_line

_TOKENS = "https://huggingface.co/settings/tokens"
# Status -> what it means for a push; {id} is the repository.
_STATUSES = {
    401: f"does not know the token: make one that may write at {_TOKENS}, then `hf auth login`",
    403: f"does not let this token write to {{id}}: take one that may, from {_TOKENS}",
    404: "has no {id}, or does not show it to this token",
    409: "has changed {id} meanwhile: run it again",
    412: "has changed {id} meanwhile: run it again",
    429: "asks for fewer requests: run it again later",
}
_SERVER_ERROR = 500


@contextlib.contextmanager
def saying_what_failed(repository: Repository, token: str) -> Iterator[None]:
    """Raise RuntimeError with one sentence in place of an error of the Hub or of the line to it.

    Other errors pass. An error that has the token in its text does not become a cause.
    """
    try:
        yield
    except Exception as error:
        said = _sentence(error, repository)
        if token in str(error) or (said and any(token in str(each) for each in _chain(error))):
            said = said or f"{type(error).__name__} in the push to {repository.id}"
            raise RuntimeError(said.replace(token, "<token>")) from None
        if said:
            raise RuntimeError(said) from error
        raise


def _sentence(error: Exception, repository: Repository) -> str:
    """Return what failed and what to do; "" if it is none of the Hub's errors."""
    for each in _chain(error):
        if isinstance(each, HfHubHTTPError) and each.response is not None:
            return _answered(each, each.response.status_code, repository)
        if isinstance(each, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it"
        if isinstance(each, HTTPError | ConnectionError):
            return (
                f"cannot reach the Hub at {constants.ENDPOINT} ({one_line(each)}): check the "
                "connection, the proxy and HF_ENDPOINT; the same command goes on"
            )
    return ""


def _answered(error: HfHubHTTPError, status: int, repository: Repository) -> str:
    if status >= _SERVER_ERROR:
        return (
            f"the Hub at {constants.ENDPOINT} fails ({status}): run it again later; what was "
            "uploaded is not sent twice"
        )
    known = _STATUSES.get(status)
    what = known.format(id=repository.id) if known else f"refuses: {_said(error)}"
    return f"the Hub at {constants.ENDPOINT} answers {status}: it {what}"


def _said(error: HfHubHTTPError) -> str:
    return error.server_message or one_line(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
