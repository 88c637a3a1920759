"""The export after an evaluation: what its card says of the run, and how many exports are kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.files.writers import Writer
from simclr_tf.runs import folder as run_folder
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

# `export_fn(model, path, overwrite=True, details=...)`, as `tf_hub_export.export_saved_model`.
ExportFunction = Callable[..., object]


def export(
    config: Config,
    model: SimCLR | Classifier,
    details: Mapping[str, object],
    export_fn: ExportFunction,
    writer: Writer,
) -> str:
    """Exports the model to `saved_model/STEP` of the run's folder, and deletes the oldest exports.

    Every worker takes part; `export_fn` writes on one.

    Args:
        config: The settings.
        model: The model to export.
        details: As `details_of` returns them.
        export_fn: The function that exports.
        writer: Who deletes old exports.

    Returns:
        The folder of the export.
    """
    exports = os.path.join(str(config.model_dir), "saved_model")
    path = os.path.join(exports, str(details["step"]))
    export_fn(model, path, overwrite=True, details=details)
    if writer.is_chief:
        run_folder.prune_exports(exports, config.keep_hub_module_max)
    return path


def details_of(
    config: Config, source: ImageSource, results: Mapping[str, float], step: int
) -> dict[str, object]:
    """Returns what an export's card says of the run.

    Args:
        config: The settings.
        source: The images trained on.
        results: The evaluation's at this step.
        step: Steps taken.
    """
    name = os.path.basename(os.path.normpath(source.name))
    return {
        "data_set": f"{name} ({source.split}, {source.num_examples} images)",
        "settings": config.to_dict(),
        "step": step,
        "results": dict(results),
    }
