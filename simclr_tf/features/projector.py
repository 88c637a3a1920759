"""Files for TensorBoard's projector: vectors, their metadata, a sheet of thumbnails."""

from __future__ import annotations

import math
import os

from simclr_tf.errors import UserError
from simclr_tf.features.files import Names, rows_of, write_lines
from simclr_tf.features.store import FeatureStore

_SHEET = 8192  # pixels a side, the largest that browsers draw
_LARGEST, _SMALLEST = 64, 8  # pixels a thumbnail
_FILES = ("tensors.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt")
_CONFIG = """embeddings {{
  tensor_name: "{name}"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
}}
"""


def thumbnail_side(count: int, image_size: int) -> int:
    """Returns the side of a thumbnail in pixels, such that all of them fit on one sheet.

    Args:
        count: Number of images.
        image_size: Side at which the model sees them.

    Raises:
        UserError: There are too many (above a million).

    Example:
        >>> thumbnail_side(10_000, 224)
        64
    """
    side = min(_LARGEST, image_size, _SHEET // _columns(count))
    if side < min(_SMALLEST, image_size):
        most = (_SHEET // _SMALLEST) ** 2
        raise UserError(
            f"Expected at most {most:,} images for --projector_dir; received: {count:,}. "
            "Pass --split=all[:10000], say."
        )
    return side


def write_projector(store: FeatureStore, names: Names, folder: str, name: str) -> None:
    """Writes `tensors.tsv`, `metadata.tsv`, `sprite.png` and `projector_config.pbtxt`.

    Args:
        store: Columns `index`, `features` (d,), `thumbnail` (side, side, 3) uint8 and, with
            labels, `label`.
        names: Files and classes.
        folder: Existing folder to write into, for `tensorboard --logdir`.
        name: The vectors' name in the projector.

    Example:
        >>> write_projector(store, Names(), '/tmp/projector', 'final_avg_pool')
    """
    tensors = os.path.join(folder, "tensors.tsv")
    metadata = os.path.join(folder, "metadata.tsv")
    with (
        open(tensors, "w", encoding="utf-8", newline="") as vectors,
        open(metadata, "w", encoding="utf-8", errors="backslashreplace", newline="") as table,
    ):
        for number, (known, features) in enumerate(rows_of(store, names, escape=True)):
            # With a single column the projector expects no header.
            if number == 0 and len(known) > 1:
                table.write("\t".join(known) + "\n")
            write_lines(table, [*known.values()])
            write_lines(vectors, [], features)
    side = store.columns["thumbnail"][1][0]
    _write_sheet(store, side, os.path.join(folder, "sprite.png"))
    with open(os.path.join(folder, "projector_config.pbtxt"), "w", encoding="utf-8") as file:
        file.write(_CONFIG.format(name=name, side=side))


def is_projector(folder: str) -> bool:
    """Returns whether a folder holds what `write_projector` writes, and nothing else.

    A log folder of TensorBoard may have such a configuration too, beside a run's event files.
    """
    held = set(os.listdir(folder))
    return "projector_config.pbtxt" in held and held <= set(_FILES)


def _columns(count: int) -> int:
    return max(1, math.isqrt(max(count, 1) - 1) + 1)


def _write_sheet(store: FeatureStore, side: int, path: str) -> None:
    """Writes thumbnails row by row on one sheet, at most `_SHEET` pixels a side (200 MB)."""
    from PIL import Image

    columns = _columns(store.rows)
    lines = -(-store.rows // columns)
    sheet = Image.new("RGB", (columns * side, lines * side))
    for line, block in enumerate(store.blocks("thumbnail", columns)):
        strip = block.transpose(1, 0, 2, 3).reshape(side, len(block) * side, 3)
        sheet.paste(Image.fromarray(strip), (0, line * side))
    sheet.save(path)
