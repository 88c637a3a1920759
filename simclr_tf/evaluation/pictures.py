"""Pictures of a run: the views that the model learns from."""

from __future__ import annotations

import numpy as np

from simclr_tf.files.atomic_file import new_file
from simclr_tf.images.pixel_values import to_float

_GAP = 2  # pixels of white between pictures
# Of `save_views`, in pixels: side of a picture's cell, height of the line of titles.
_CELL, _TITLE = 140, 24
_DPI = 100


def view_grid(rows: list[np.ndarray]) -> np.ndarray:
    """Lays images out as a grid: one row of the grid per image, one column per kind of picture.

    Args:
        rows: Columns, each float (N, height, width, 1 or 3) in [0, 1]; heights may differ between
            columns (each is enlarged by whole factors to the largest).

    Returns:
        uint8 (height, width, 3).

    Example:
        >>> view_grid([originals, first_views, second_views]).dtype
        dtype('uint8')
    """
    side = max(column.shape[1] for column in rows)
    columns = []
    for column in rows:
        column = np.clip(np.nan_to_num(column), 0, 1)
        if column.shape[-1] != 3:  # other channel counts are shown by their first channel
            column = np.repeat(column[..., :1], 3, axis=-1)
        factor = max(1, side // column.shape[1])
        column = column.repeat(factor, axis=1).repeat(factor, axis=2)
        height, width = column.shape[1:3]
        tall = max(0, side - height)
        padding = ((0, 0), (0, tall + _GAP), (0, _GAP), (0, 0))
        columns.append(np.pad(column, padding, constant_values=1.0))
    height = max(column.shape[1] for column in columns)
    columns = [
        np.pad(c, ((0, 0), (0, height - c.shape[1]), (0, 0), (0, 0)), constant_values=1.0)
        for c in columns
    ]
    lines = np.concatenate(columns, axis=2)
    return (np.concatenate(list(lines), axis=0) * 255 + 0.5).astype(np.uint8)


def save_views(path: str, originals: np.ndarray, views: np.ndarray) -> None:
    """Writes a picture of source images beside their two views.

    Args:
        path: PNG file to write; an existing one is replaced.
        originals: (N, height, width, channels), uint8, uint16 or float in [0, 1].
        views: Float (2N, h, w, channels): N first views, then N second views.
    """
    from matplotlib.figure import Figure  # pyplot would set a backend for the whole process

    originals = to_float(originals).numpy()
    count = len(originals)
    columns = (originals, views[:count], views[count:])
    step = _CELL + 5 * _GAP
    grid = np.full((count * step, len(columns) * step, 3), 255, np.uint8)
    for place, column in enumerate(columns):
        for row, image in enumerate(column):
            cell = _cell(image)
            top, left = row * step + (step - len(cell)) // 2, place * step
            left += (step - cell.shape[1]) // 2
            grid[top : top + len(cell), left : left + cell.shape[1]] = cell
    # One picture and three texts: an axes object for every image would take seconds.
    height, width = len(grid) + _TITLE, grid.shape[1]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    figure.figimage(grid)
    for place, title in enumerate(("source image", "first view", "second view")):
        middle = 1 - _TITLE / 2 / height
        figure.text((place + 0.5) * step / width, middle, title, ha="center", va="center", size=9)
    with new_file(path) as partial:
        figure.savefig(partial, dpi=_DPI)


def _cell(image: np.ndarray) -> np.ndarray:
    """Returns an image (h, w, channels) in [0, 1] as uint8 (height, width, 3) within a cell."""
    from PIL import Image

    if image.shape[-1] != 3:  # other channel counts are shown by their first channel
        image = np.repeat(image[..., :1], 3, axis=-1)
    shown = Image.fromarray((np.clip(np.nan_to_num(image), 0, 1) * 255 + 0.5).astype(np.uint8))
    scale = _CELL / max(shown.size)
    size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    # Enlarged pixels stay visible as squares: what the model sees is not smoothed over.
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return np.asarray(shown.resize(size, kind))
