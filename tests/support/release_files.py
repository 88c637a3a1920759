"""The release's own files, laid down again as it wrote them.

`golden/release_files.npz` holds what is left of three archives when everything that a rule can make
is taken out: names, shapes and the object graphs. Weights are two-valued: `low` or `high` by
`numpy.random.RandomState(zlib.crc32(key)).randint(0, 2, shape)`.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
PREFIXES = {
    "tf2_training_checkpoint": "ckpt-123",
    "tf2_saved_model": "variables/variables",
    "tf1_checkpoint": "model.ckpt-321",
}


def write_release_file(archive: str, folder: Path, recorded: dict[str, np.ndarray]) -> Path:
    """Writes one of `PREFIXES` into a folder, as the release left it; returns the folder."""
    names, values = [], []
    for name, shape, dtype, key, low, high in json.loads(str(recorded[f"{archive}_tensors"])):
        value = np.full(shape, low, dtype)
        if key:
            random = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
            value[random.randint(0, 2, shape) == 1] = high
        names.append(name)
        values.append(tf.constant(value))
    if f"{archive}_graph" in recorded:
        names.append(GRAPH)
        values.append(tf.constant(recorded[f"{archive}_graph"].tobytes()))
    prefix = folder / PREFIXES[archive]
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
    )
    if archive == "tf2_saved_model":
        (folder / "saved_model.pb").touch()  # what is read lies beside it
    else:
        # As downloaded: the state file names the folder of whoever wrote it.
        written = f"/elsewhere/{PREFIXES[archive]}"
        (folder / "checkpoint").write_text(
            f'model_checkpoint_path: "{written}"\nall_model_checkpoint_paths: "{written}"\n'
        )
    return folder
