"""Why a file could not be fetched, in words: the hub's client and urllib raise whatever their transports raise."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from http.client import HTTPException
from ssl import SSLCertVerificationError
from urllib.error import URLError

from common.errors import printable
from featuresExtractor.backbones.weights.download import Damaged

NO_CONNECTION = {"TransportError", "Timeout", "LocalEntryNotFoundError"}
"""Classes of httpx, requests and the hub's client. Which of them are installed depends on the client's version."""

OF_THE_HUB = {
    "GatedRepoError": "its owner must be asked for access: do so on the repository's page, then log in (hf auth login)",
    "RevisionNotFoundError": "the repository has no such commit",
    "EntryNotFoundError": "the repository has no such file",
    "RepositoryNotFoundError": "there is no such repository, or it is private and needs a login (hf auth login)",
    "FileMetadataError": "something else than the model hub answered: check proxy, network login and HF_ENDPOINT",
}
"""What the hub's client means by its classes, the special ones first."""

OF_STATUS = {
    401: "access needs a login (hf auth login)",
    403: "access is forbidden",
    404: "no such file is there",
    407: "the proxy needs a login",
    429: "too many requests: try again later",
}


def why(error: BaseException, source: str) -> str:
    """Return why `source` (`the model hub`, or a host) did not give a file, without a line break or a class name."""
    errors = list(_chain(error))
    return next(filter(None, (part(errors, source) for part in PARTS)), None) or _first_line(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, and what it wraps, outermost first."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        if (item := waiting.pop(0)) is None or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        wrapped = [value for value in (*item.args, getattr(item, "reason", None)) if isinstance(value, BaseException)]
        waiting += [item.__cause__, None if item.__suppress_context__ else item.__context__, *wrapped]


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _damaged(errors: list[BaseException], _source: str) -> str | None:
    return next((str(error) for error in errors if isinstance(error, Damaged)), None)


def _answer(errors: list[BaseException], source: str) -> str | None:
    """What the server said: the meaning that the hub's client sees in it, or that of its number."""
    status = next(filter(None, map(_status, errors)), None)
    for name, words in OF_THE_HUB.items():
        if any(name in _names(error) and "LocalEntryNotFoundError" not in _names(error) for error in errors):
            return f"{words} (HTTP {status})" if status else words
    if status is None:
        return None
    words = f"{source} has a fault: try again later" if status >= 500 else OF_STATUS.get(status, f"{source} refused")
    return f"{words} (HTTP {status})"


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer that was turned into an error: by urllib, or by the clients of the hub."""
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _connection(errors: list[BaseException], source: str) -> str | None:
    if any(isinstance(error, SSLCertVerificationError) for error in errors):
        return f"no connection to {source}: its certificate is not trusted here"
    if any("OfflineModeIsEnabled" in _names(error) for error in errors) or _is_told_to_stay_offline(errors):
        return f"no connection to {source}: HF_HUB_OFFLINE forbids it"
    if any(isinstance(error, TimeoutError) or "Timeout" in type(error).__name__ for error in errors):
        return f"no connection to {source}: no answer in time"
    return f"no connection to {source}" if any(map(_is_of_connections, errors)) else None


def _is_told_to_stay_offline(errors: list[BaseException]) -> bool:
    """Whether the hub's client looked into its cache alone."""
    return any("LocalEntryNotFoundError" in _names(error) and "disabled" in str(error) for error in errors)


def _is_of_connections(error: BaseException) -> bool:
    if isinstance(error, URLError) and isinstance(error.reason, OSError):
        return error.reason.filename is None and error.reason.errno not in (errno.ENOENT, errno.EACCES)
    is_ours = isinstance(error, ConnectionError | HTTPException)
    return is_ours or bool(NO_CONNECTION & _names(error)) or "ConnectionError" in _names(error)


def _disk(errors: list[BaseException], _source: str) -> str | None:
    """What the file system said: of a full disk, a cache that cannot be written, a `file://` that is not there."""
    for error in errors:
        if isinstance(error, OSError) and error.strerror and not isinstance(error, URLError):
            place = f"{printable(str(error.filename))}: " if error.filename else ""
            return f"{place}{error.strerror}"
    return None


def _first_line(error: BaseException) -> str:
    return next((printable(line) for line in str(error).splitlines() if line.strip()), "for an unknown reason")


PARTS = (_damaged, _answer, _connection, _disk)
"""What may tell the reason, the surest first."""
