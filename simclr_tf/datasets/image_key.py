"""A checksum that tells whether images are still the same, by their files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

_DIGITS = 20  # 80 bits: two sets of images never share them by chance


def image_key(said: Iterable[object], files: Iterable[str]) -> str:
    """Returns a checksum of values and of files' sizes and times.

    Args:
        said: What else decides on the images, the files' names for example; by its `repr`.
        files: Paths; a missing one counts as such.

    Returns:
        20 hexadecimal digits.

    Example:
        >>> image_key([320, "white"], [])
        '8ec83c4f5b5fb6b5b1f4'
    """
    found = hashlib.sha256()
    for value in said:
        found.update(f"{value!r}\n".encode("utf-8", "surrogateescape"))
    for path in files:
        try:
            status = os.stat(path)
            found.update(b"%d %d\n" % (status.st_size, status.st_mtime_ns))
        except OSError:
            found.update(b"none\n")
    return found.hexdigest()[:_DIGITS]
