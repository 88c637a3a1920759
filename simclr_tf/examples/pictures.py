"""The picture files that the examples write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import new_file
from simclr_tf.files.outputs import check_output_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_picture(given: str, overwrite: bool) -> str:
    """Returns the path of a picture that may be written.

    Args:
        given: What the user typed as --output.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UserError: It does not end in .png, or exists and may not be replaced.
    """
    if not given.endswith(".png"):
        raise UserError(f"Expected --output to end in .png; received: {given!r}.")
    return check_output_path("--output", given, folder=False, overwrite=overwrite)


def save_figure(figure: Figure, path: str) -> None:
    """Writes a matplotlib figure, complete or not at all.

    Args:
        figure: What to draw.
        path: A .png file; its folder is made.

    Raises:
        UserError: It can't be written.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with new_file(path) as partial:
            figure.savefig(partial, dpi=100)
    except OSError as error:
        raise UserError(
            f"Expected an --output that can be written; received: {path!r} ({error.strerror}). "
            "Choose another."
        ) from error
