"""Whether a command's output would change the folder of images that it reads."""

from __future__ import annotations

import os

from simclr_tf.datasets.decoding import IMAGE_EXTENSIONS
from simclr_tf.datasets.folder_walk import own_images, visited_folders
from simclr_tf.errors import UserError


def check_folder_apart(images: str, target: str, flag: str) -> str | None:
    """Checks that a folder to write into holds no images of a data set.

    Folders of runs, exports and features are left out of data sets, so one that lies among the
    images is harmless, unless it holds images of the data set itself.

    Args:
        images: the folder of images.
        target: the folder to write into; it need not exist.
        flag: the flag that named it, for messages.

    Returns:
        A line that says that it lies among the images; None where it does not.

    Raises:
        UserError: it is the folder of images, or images of it lie in there.

    Example:
        >>> check_folder_apart("photos", "photos/runs/first", "--model_dir")
        'photos/runs/first lies in the folder of images photos: it is left out of the data.'
    """
    root, folder = _real(images), _real(target)
    if root == folder:
        raise UserError(
            f"Expected {flag} to be a folder of its own; received: {target}, the folder of images "
            f"itself. Pass another {flag}."
        )
    exports = os.path.join(folder, "saved_model")
    if flag == "--model_dir" and _is_below(root, exports):
        raise UserError(
            f"Expected images outside {exports}, where old exports are deleted; received: "
            f"{images}. Pass another {flag}."
        )
    if _is_below(root, folder):
        return None  # the output folder contains the images, not the reverse
    held = own_images(folder) if os.path.isdir(folder) else None
    if held is not None and any(
        _is_below(real, folder) for real in visited_folders(os.path.expanduser(images))
    ):
        raise UserError(
            f"Expected {flag} to be a folder without images of the data set; received: {target}, "
            f"which holds {held}. Move the images, or pass another {flag}."
        )
    if not _is_below(folder, root):
        return None
    return f"{target} lies in the folder of images {images}: it is left out of the data."


def check_file_apart(images: str, target: str, flag: str) -> str | None:
    """Checks that a file to write would not be an image of a data set.

    Args:
        images: the folder of images.
        target: the file to write.
        flag: the flag that named it, for messages.

    Returns:
        A line that says that it lies among the images; None where it does not.

    Raises:
        UserError: it would be read as one of the images from then on.

    Example:
        >>> check_file_apart("photos", "photos/features.npz", "--output")
        'photos/features.npz lies in the folder of images photos: it is no part of the data.'
    """
    root, file = _real(images), _real(target)
    name = os.path.basename(file)
    if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith("."):
        # A folder that does not exist yet would become part of the data with its first image.
        parent = os.path.dirname(file)
        hidden = False
        while not os.path.isdir(parent):
            hidden = hidden or os.path.basename(parent).startswith(".")
            parent = os.path.dirname(parent)
        if not hidden and parent in visited_folders(os.path.expanduser(images)):
            raise UserError(
                f"Expected {flag} outside the folder of images {images}, of which it would be one "
                f"from then on; received: {target}. Choose another place."
            )
    if not _is_below(file, root):
        return None
    return f"{target} lies in the folder of images {images}: it is no part of the data."


def _real(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


def _is_below(path: str, folder: str) -> bool:
    """Returns whether a path is a folder or lies in it; both have their links resolved."""
    return path == folder or path.startswith(os.path.join(folder, ""))
