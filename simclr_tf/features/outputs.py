"""What becomes of a complete store: a file of features, files for the projector, or both."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from simclr_tf.features.files import Names, write_features
from simclr_tf.features.projector import write_projector
from simclr_tf.features.store import FeatureStore
from simclr_tf.files.outputs import replace_all


def write_outputs(
    store: FeatureStore,
    names: Names,
    endpoint: str,
    output: str | None,
    projector_dir: str | None,
    targets: Sequence[str],
) -> None:
    """Writes files in the store's folder, moves them to their targets and removes the store.

    Args:
        store: The features; columns as `write_features` and `write_projector` need them.
        names: Files and classes.
        endpoint: The vectors' name in the projector.
        output: File of features, of which the extension counts here; None: none.
        projector_dir: Folder for the projector; None: none.
        targets: Paths to replace: that of `output`, then that of `projector_dir`.

    Raises:
        OSError: They can't be written; every target is as it was.
    """
    made_of = []
    if output:
        kind = os.path.splitext(output)[1].lower()
        made = os.path.join(store.folder, "output")
        write_features(store, names, made, kind)
        made_of.append(made)
    if projector_dir:
        made = os.path.join(store.folder, "projector")
        shutil.rmtree(made, ignore_errors=True)
        os.makedirs(made)
        write_projector(store, names, made, endpoint)
        made_of.append(made)
    replace_all(list(zip(made_of, targets, strict=True)))
    store.remove()
