"""Output paths of commands: checked before work begins, replaced when it is done."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence

from simclr_tf.errors import UserError

_LONGEST_SUFFIX = 24  # of the temporary names beside a target


def check_output_path(
    flag: str,
    given: str,
    *,
    folder: bool,
    overwrite: bool,
    ours: Callable[[str], bool] | None = None,
    overwrite_hint: str = "pass --overwrite",
) -> str:
    """Returns the path of an output after checking that it can be written.

    Args:
        flag: The flag that names it, with its dashes, for errors.
        given: What the user typed; `~` is the home folder.
        folder: Whether a folder is to be made, not a file.
        overwrite: Whether a file, or a folder that `ours` accepts, may be replaced.
        ours: Returns whether an existing, non-empty folder is of the kind that is to be made.
        overwrite_hint: What an error recommends beside another path; empty: nothing.

    Raises:
        UserError: Something exists there that may not be replaced, or nothing can be made there.

    Example:
        >>> check_output_path("--output", "~/features.npz", folder=False, overwrite=False)
        '/home/me/features.npz'
    """
    kind = "a folder" if folder else "a file"

    def refuse(found: str, advice: str = "Choose another path") -> UserError:
        return UserError(
            f"Expected {flag} to be {kind} to make; received: {given!r}{found}. {advice}."
        )

    if not given.strip():
        raise refuse("", "Name one")
    path = os.path.expanduser(given)
    if path.startswith("~"):
        raise refuse(", the home folder of nobody here", "Write it out, or begin with ./")
    if not folder and path.endswith(os.sep):
        raise refuse(", which names a folder", "Leave the last / away or add a file's name")
    path = path.rstrip(os.sep) or os.sep
    try:
        parent = _existing_parent(path)
        longest = os.pathconf(parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        *above, name = (len(os.fsencode(part)) for part in os.path.abspath(path).split(os.sep))
        if max([name + _LONGEST_SUFFIX, *above]) > longest:
            raise refuse(", a name that is too long", "Shorten it")
        mode = os.lstat(path).st_mode if os.path.lexists(path) else None
        if mode is None:
            pass
        elif stat.S_ISLNK(mode):
            there = os.readlink(path)
            raise refuse(f", a link to {there}", "Remove the link, or name what it points to")
        elif stat.S_ISDIR(mode) != folder or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            what = "a folder" if stat.S_ISDIR(mode) else "a file"
            what = what if stat.S_ISDIR(mode) or stat.S_ISREG(mode) else "a device"
            raise refuse(f", which is {what}")
        elif not overwrite:
            hint = f", or {overwrite_hint}" if overwrite_hint else ""
            raise UserError(
                f"Expected {flag} to be a path that does not exist; received: {given!r}. "
                f"Choose another one{hint}."
            )
        elif folder and os.listdir(path) and not (ours and ours(path)):
            raise refuse(", which is something else than what is to be replaced")
        _probe(parent)
    except OSError as error:
        raise refuse(
            f" ({error.strerror or error})", "Choose a place that can be written"
        ) from error
    return path


def check_apart(outputs: Sequence[tuple[str, str]], inputs: Sequence[tuple[str, str]] = ()) -> None:
    """Checks that no output overlaps another one or an input: same path, or one inside the other.

    Args:
        outputs: (flag, path) of what is to be written.
        inputs: (flag, path) of what is read and must stay as it is.

    Raises:
        UserError: Two of them overlap.

    Example:
        >>> check_apart([("--output", "a.npz"), ("--projector_dir", "b")])
    """
    places = [(flag, os.path.realpath(path), path) for flag, path in [*outputs, *inputs]]
    for index, (flag, real, path) in enumerate(places[: len(outputs)]):
        for other_flag, other_real, other in places[index + 1 :]:
            if _holds(real, other_real) or _holds(other_real, real):
                raise UserError(
                    f"Expected {flag} and {other_flag} to lie apart; received: {path!r} and "
                    f"{other!r}. Choose another {flag}."
                )


def replace_all(moves: Sequence[tuple[str, str]]) -> None:
    """Moves finished files and folders to their targets: all of them, or none.

    Args:
        moves: (finished file or folder, target); what exists at a target is deleted at the end.

    Raises:
        OSError: One of them could not be moved; every target is restored.

    Example:
        >>> replace_all([("work/features", "features.npz")])
    """
    done: list[tuple[str, str, str]] = []  # (made, target, folder that keeps the old target)
    staged: list[str] = []
    complete = False
    try:
        for made, target in moves:
            parent, name = os.path.split(os.path.abspath(target))
            aside = tempfile.mkdtemp(prefix=f".{name}-"[:40], dir=parent)
            staged.append(aside)
            new, old = os.path.join(aside, "new"), os.path.join(aside, "old")
            # It may be on another disk: copy it beside the target first, so it appears complete.
            shutil.move(made, new)
            done.append((made, target, aside))
            if os.path.lexists(target):
                os.rename(target, old)
            os.rename(new, target)
        complete = True
    except BaseException:
        for made, target, aside in reversed(done):
            new, old = os.path.join(aside, "new"), os.path.join(aside, "old")
            with contextlib.suppress(OSError):
                if os.path.lexists(target) and not os.path.lexists(new):
                    os.rename(target, new)
                if os.path.lexists(old):
                    os.rename(old, target)
                shutil.move(new, made)
        raise
    finally:
        for aside in staged:
            # If restoring failed too, the old target stays in there: nothing is lost.
            if complete or not os.path.lexists(os.path.join(aside, "old")):
                shutil.rmtree(aside, ignore_errors=True)


def _existing_parent(path: str) -> str:
    """Returns the nearest existing folder above a path; raises OSError if it can't be read."""
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    os.listdir(parent)  # raises for a file, a broken link or an unreadable folder
    return parent


def _probe(folder: str) -> None:
    """Raises OSError if no file can be made in a folder."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
