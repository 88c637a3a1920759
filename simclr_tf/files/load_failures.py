"""Why something could not be loaded: the actual cause, and what to do about it.

Keras, KerasCV, KerasHub and TensorFlow Datasets download, read and check files behind one call, and
whatever goes wrong comes out as one exception, often a bare `Exception` around the true one.
`explain` reads the whole chain: no network, a server that refuses, a full disk and a damaged file
each need a different remedy.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import ssl
import urllib.error
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_DOWNLOAD = {
    "network", "refused", "certificate", "checksum", "forbidden", "disk", "damaged", "package",
    "memory",
}  # fmt: skip
_MISSING = {errno.ENOENT, errno.ENOTDIR}
_NETWORK = {
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETUNREACH, errno.EHOSTUNREACH,
    errno.ETIMEDOUT, errno.ENETDOWN,
}  # fmt: skip

# Errors of libraries that are not imported here (requests, urllib3, h5py, TensorFlow), recognised
# by their messages.
_WORDS = (
    ("certificate", r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"),
    ("checksum", r"hash does not match|checksum|NonMatchingChecksum"),
    (
        "network",
        r"Name or service not known|Name resolution|Failed to establish a new connection"
        r"|Max retries exceeded|Connection (refused|reset|aborted)|Network is unreachable"
        r"|URL fetch failure|timed out",
    ),
    # TensorFlow calls both a full disk and full memory exhausted.
    ("disk", r"No space left on device|Disk quota exceeded|File too large"),
    ("memory", r"Resource ?Exhausted|\bOOM\b|Unable to allocate|[Oo]ut of memory|cannot allocate"),
    ("forbidden", r"Permission denied|Read-only file system"),
    (
        "damaged",
        r"file signature not found|truncated file|bad object header|wrong B-tree signature"
        r"|not a zip file|DATA_LOSS|Data loss|checksum does not match|Bad CRC|unexpected EOF"
        r"|Unable to (synchronously )?read|addr overflow|Error parsing|Cannot parse",
    ),
    (
        "format",
        r"File format not supported|filename must end in|Keras 3 only supports"
        r"|found 0 saved layers",
    ),
    (
        "shapes",
        r"[Ss]hape mismatch|shapes? .*(must match|incompatible|not compatible)"
        r"|not compatible with provided weight shape|must match\. variable\.shape"
        r"|[Ll]ayer count mismatch|You called `set_weights|with a weight list of length"
        r"|expected \d+ (weights|variables), but received [1-9]|model expects \d+"
        r"|layers into a model with",
    ),
    (
        "generation",
        r"[Uu]nable to (synchronously )?open object|but received 0 variables"
        r"|Unknown (layer|object|config)|Could not locate class|could not be deserialized"
        r"|Unrecognized keyword arguments",
    ),
    ("missing", r"No such file or directory|[Nn]ot found"),
)  # fmt: skip


@dataclass(frozen=True)
class LoadFailure:
    """What failed.

    Attributes:
        kind: `network`, `refused` (an HTTP status), `certificate`, `checksum`, `missing`,
            `forbidden`, `disk`, `damaged`, `shapes`, `generation` (written by another Keras),
            `format` (the file's extension), `package`, `memory` or `unknown`.
        reason: One line for "received: ...", without a full stop.
        advice: What to do, one or two sentences; empty for `unknown`.
    """

    kind: str
    reason: str
    advice: str

    @property
    def is_download(self) -> bool:
        """Whether this can be a download that failed, rather than a file that doesn't fit."""
        return self.kind in _DOWNLOAD


def explain(error: BaseException, *, cache: str = "~/.keras") -> LoadFailure:
    """Finds the actual cause of a failure.

    Args:
        error: What a library raised; its causes and contexts are read too.
        cache: Where the library keeps what it has downloaded, for the advice.

    Returns:
        The first kind that is recognised: exceptions by their type from the innermost outwards,
        then by their messages.

    Example:
        >>> explain(OSError(errno.ENOSPC, "No space left on device")).kind
        'disk'
    """
    chain = list(_chain(error))
    for link in reversed(chain):
        kind = _by_type(link)
        if kind is not None:
            return _failure(kind, link, error, cache)
    for link in reversed(chain):
        said = f"{type(link).__name__} {link}"
        for kind, words in _WORDS:
            if re.search(words, said):
                return _failure(kind, link, error, cache)
    return LoadFailure("unknown", one_line(error), "")


def one_line(error: BaseException, length: int = 200) -> str:
    """Returns an exception's message on one line, without a full stop at its end."""
    said = " ".join(str(error).split())
    # What HDF5 appends: times, addresses and sizes of buffers.
    said = re.sub(r"file read failed: time = .*?(error message = '([^']*)').*", r"\2", said)
    named = f"{type(error).__name__}: {said}" if isinstance(error, KeyError) else said
    shown = named or type(error).__name__
    return (shown if len(shown) <= length else shown[:length].rstrip() + " ...").rstrip(".")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception and what it came from, the outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        reason = getattr(link, "reason", None)  # urllib wraps errors without setting __cause__
        inner = reason if isinstance(reason, BaseException) else None
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__) or inner


def _by_type(error: BaseException) -> str | None:
    if isinstance(error, ImportError):
        return "package"
    if isinstance(error, MemoryError):
        return "memory"
    if _status(error) is not None:
        return "refused"
    if isinstance(error, ssl.SSLError):
        return "certificate" if re.search("(?i)certificate", str(error)) else "network"
    if isinstance(
        error, (socket.gaierror, TimeoutError, ConnectionError, http.client.HTTPException)
    ):
        return "network"
    if isinstance(error, urllib.error.URLError):
        return None if isinstance(error.reason, BaseException) else "network"
    if isinstance(error, zipfile.BadZipFile):
        return "damaged"
    if isinstance(error, IsADirectoryError):
        return "missing"
    if isinstance(error, OSError) and error.errno is not None:
        for kind, numbers in (
            ("disk", _DISK), ("forbidden", _FORBIDDEN), ("missing", _MISSING), ("network", _NETWORK)
        ):  # fmt: skip
            if error.errno in numbers:
                return kind
    return None


def _status(error: BaseException) -> int | None:
    """Returns the HTTP error status that urllib, requests or a library above them received."""
    code = error.code if isinstance(error, urllib.error.HTTPError) else None
    if code is None:
        code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) and code >= 400 else None


def _failure(kind: str, link: BaseException, outer: BaseException, cache: str) -> LoadFailure:
    said = one_line(link)
    address = re.search(r"https?://[^\s'\"<>]+", f"{outer} {getattr(link, 'url', '')}")
    server = f" {address[0].rstrip('.:,)')}" if address else ""
    file = getattr(link, "filename", None)
    if isinstance(file, str) and os.path.isabs(file) and file not in said:
        said = f"{said}: {file}"
    if kind == "refused":
        status = _status(link)
        reason = f"the server answered{server} with HTTP status {status}"
        return LoadFailure(kind, reason, _advice_on_status(status))
    reasons = {
        "network": f"no connection to{server or ' the server'} ({said})",
        "certificate": f"the certificate of{server or ' the server'} is not trusted ({said})",
        "package": f"a package is missing ({said})",
        "memory": f"not enough memory ({said})",
    }
    package = re.search(r"[\w.-]+", getattr(link, "name", None) or "")
    advices = {
        "network": f"Connect to the internet once (the file is kept in {cache}).",
        "certificate": "Let Python know the certificates of this network (SSL_CERT_FILE), or "
        "update the package certifi.",
        "checksum": f"The download was cut off or changed: delete it from {cache} and try again.",
        "missing": "Correct the path.",
        "forbidden": "Correct the permissions, or choose another folder.",
        "disk": f"Make room on the disk of {cache} and of the temporary folder, and try again.",
        "damaged": f"The file is damaged: fetch or save it again; a download lies in {cache}: "
        "delete it there.",
        "shapes": "The file holds another network: pass the file of this very network.",
        "generation": "It was written by another version of Keras or for another network: save it "
        "again with the version that is installed here.",
        "format": "Give the file the ending of its kind: .weights.h5, .h5 or .keras.",
        "package": f"Run `pip install {package[0].partition('.')[0].replace('_', '-')}`."
        if package
        else "Install it.",
        "memory": "Close other programs, or choose a smaller one.",
    }
    return LoadFailure(kind, reasons.get(kind, said), advices[kind])


def _advice_on_status(status: int | None) -> str:
    if status in (401, 403, 407):
        return "It asks for permission: log in, check the proxy, or fetch the file by hand."
    if status in (404, 410):
        return "It no longer lies there: update the library, or fetch the file by hand."
    return "Try again later."
