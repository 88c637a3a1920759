"""The original release's checkpoints (TF2 and TF1) and SavedModels as Keras models."""

from __future__ import annotations

import dataclasses

from simclr_tf.checkpoints.loading import LoadReport, load_weights
from simclr_tf.checkpoints.reader import StoredWeights
from simclr_tf.errors import UserError
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.from_recipe import build_model
from simclr_tf.training.simclr import SimCLR

_NAMED = 5


def load_release_weights(
    model: SimCLR | Classifier | None,
    path: str,
    num_classes: int | None = None,
    variable_schema: str | None = None,
) -> SimCLR | Classifier:
    """Loads a whole file of the original release (or of this package), or says what does not fit.

    Format and architecture are recognised from the file. Every variable of the file is used, and
    every variable of the model gets a value, except those that `num_classes` or `variable_schema`
    leave out.

    Args:
        model: The model to fill, built; None builds the one that the file holds (without
            augmentation: pass its `encoder` and `projection_head` on to train it further).
        path: A TF2 training checkpoint (folder or prefix), a TF2 SavedModel folder (the published
            form) or a TF1 checkpoint.
        num_classes: Size of a fresh linear head that replaces the file's; None: the file's head.
        variable_schema: Regular expression; only variables whose names match from the start are
            loaded, heads by the names `head_contrastive/...` and `head_supervised/...`.

    Returns:
        The model.

    Raises:
        UserError: Nothing readable there; not a network of the release; or variables that are
            missing in the file, unused in it or of another shape, each named. The model is
            unchanged.

    Source: the release's TF2 and TF1 code; the proof is tests/checkpoints/test_release_import.py.

    Example:
        >>> model = load_release_weights(None, 'r50_1x_sk0/saved_model')
        >>> classifier = Classifier(model.encoder, num_classes=5, fine_tune_after_block=4)
    """
    stored = StoredWeights(path)
    if model is None:
        model = _model_of(stored, num_classes)
    schema = variable_schema
    if num_classes is not None:
        units = None if model.supervised_head is None else model.supervised_head.units
        if units != num_classes:
            raise UserError(
                f"Expected num_classes to be that of the model, {units}; received: {num_classes}. "
                "Build the model with the classes that it shall tell apart."
            )
        schema = f"(?!head_supervised){schema or ''}"
    report = load_weights(model, stored, schema, whole=True)
    if report.missing or report.unused or report.mismatched:
        raise UserError(_misfit(path, stored, report))
    return model


def _model_of(stored: StoredWeights, num_classes: int | None) -> SimCLR | Classifier:
    """Returns a fresh model of the file's recipe."""
    held = stored.recipe
    if held is None:
        example = f" (as {min(stored.shapes)})" if stored.shapes else ""
        raise UserError(
            f"Expected weights of a ResNet of the release in {stored.prefix}; received: "
            f"{len(stored.shapes)} variables of another network{example}. "
            "Build the model yourself and pass it."
        )
    held = dataclasses.replace(held, num_classes=num_classes or held.num_classes)
    return build_model(held)


def _misfit(path: str, stored: StoredWeights, report: LoadReport) -> str:
    """Returns one line on what does not fit, in the file and in the model."""
    shapes = [f"{p} ({a} there, {b} here)" for p, (a, b) in report.mismatched.items()]
    parts = []
    for what, paths in (
        ("missing in it", report.missing),
        ("unused in it", report.unused),
        ("of another shape", shapes),
    ):
        if paths:
            more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
            parts.append(f"{len(paths)} {what}: {', '.join(paths[:_NAMED])}{more}")
    held = f" It holds {stored.recipe.describe()}." if stored.recipe else ""
    return (
        f"Expected {path} to fit the model variable by variable; received: {'; '.join(parts)}."
        f"{held} Pass num_classes for a fresh linear head, variable_schema to leave variables out, "
        "or model=None to build what the file holds."
    )
