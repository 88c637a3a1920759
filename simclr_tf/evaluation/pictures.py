"""Pictures of a run: the views that the model learns from."""

from __future__ import annotations

import numpy as np

from simclr_tf.files.atomic_file import new_file
from simclr_tf.images.pixel_values import to_float

_GAP = 2  # pixels of white between pictures


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
    titles = ("source image", "first view", "second view")
    columns = (originals, views[:count], views[count:])
    figure = Figure(figsize=(4.5, 1.5 * count + 0.3), layout="constrained")
    axes = figure.subplots(count, 3, squeeze=False)
    for row in range(count):
        for place, (title, column) in enumerate(zip(titles, columns, strict=True)):
            axis = axes[row, place]
            image = np.clip(column[row], 0, 1)
            axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    with new_file(path) as partial:
        figure.savefig(partial, dpi=100)
