"""Models to export, loaded from a run, a checkpoint, a `.keras` file or a SavedModel."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from simclr_tf.checkpoints.reader import BEST, StoredWeights
from simclr_tf.checkpoints.release import load_release_weights
from simclr_tf.config import Config
from simclr_tf.config.checks import check_setting
from simclr_tf.errors import UserError
from simclr_tf.files.json_files import read_json
from simclr_tf.files.load_failures import explain
from simclr_tf.models.keras_files import load_keras
from simclr_tf.models.recipe import Recipe
from simclr_tf.runs.folder import FLAGS_FILE, complete, read_settings
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.from_recipe import build_model
from simclr_tf.training.simclr import SimCLR
from tf_hub_export.model_card import CARD_FILE, DETAILS

_HEAD = "supervised_head/linear_layer/dense/kernel"


def load_model(path: str) -> tuple[SimCLR | Classifier, dict[str, Any]]:
    """Loads a model, and what is known of its training.

    Args:
        path: A run's `model_dir` or one of its checkpoints (its `flags.json` says the
            architecture), an export, a `.keras` file (of a `SimCLR`, a `Classifier` or any
            encoder), or a file of the original release.

    Returns:
        The model, and the `details` that `export_saved_model` takes.

    Raises:
        UserError: Nothing there that can be read, or settings and weights do not fit.

    Example:
        >>> model, details = load_model('/path/to/run')
        >>> export_saved_model(model, '/path/to/module', details=details)
    """
    path = os.path.normpath(os.path.expanduser(path)) if "://" not in path else path
    in_export = os.path.join(path, "model.keras")
    if path.endswith(".keras") or os.path.isfile(in_export):
        file = in_export if os.path.isfile(in_export) else path
        details = recorded(path, 0) if os.path.isdir(path) else {}
        return _load_keras(file), details or {"source": os.path.basename(file)}
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    stored = StoredWeights(path)
    details = recorded(folder, stored.step)
    if "encoder" in details.get("settings", {}):
        classes = stored.shapes[_HEAD][-1] if _HEAD in stored.shapes else None
        fresh = build_model(_recipe(details["settings"], classes, folder))
        model = load_release_weights(fresh, path)
    else:
        model = load_release_weights(None, path)
        assert stored.recipe is not None
        source = f"{os.path.basename(path)} ({stored.format})"
        details = {"settings": stored.recipe.release_settings(), "source": source, **details}
    if stored.step:
        details["step"] = stored.step
    return model, details


def _load_keras(path: str) -> SimCLR | Classifier:
    if not os.path.isfile(path):
        raise UserError(f"Expected a file of Keras at {path}; found none. Correct the path.")
    try:
        model = load_keras(path)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes Keras raise
        failure = explain(error)
        advice = (
            failure.advice
            if failure.kind in ("package", "forbidden", "memory")
            else ("Save it again with model.save, on the Keras generation that reads it.")
        )
        raise UserError(
            f"Expected a model of Keras in {path}; it can't be read ({failure.reason}). {advice}"
        ) from error
    if isinstance(model, (SimCLR, Classifier)):
        return model
    return build_model(Recipe(model, proj_head_mode="none"))


def recorded(folder: str, step: int) -> dict[str, Any]:
    """Returns what a run's folder or an export records of its training."""
    settings = read_settings(folder)
    if settings is None and os.path.basename(folder) == BEST:
        return recorded(os.path.dirname(folder), step)
    if settings is None:
        path = os.path.join(folder, CARD_FILE)
        card = read_json(path)
        details = {name: card[name] for name in DETAILS if name in card}
        _check_recorded(details.get("settings", {}), path)
        if not isinstance(details.get("step", 0), (int, type(None))):
            raise UserError(
                f"Expected a whole number for step in {path}; received: {details['step']!r}. "
                "Export the model again."
            )
        # Recorded by a run, not recognised from the shapes in a file.
        if "train_mode" in details.get("settings", {}):
            details["settings"] = complete(details["settings"])
        return details
    _check_recorded(settings, os.path.join(folder, FLAGS_FILE))
    settings = complete(settings)
    details = {"settings": settings}
    if isinstance(settings.get("dataset"), str):
        parts = [part.strip() for part in settings["dataset"].split(",")]
        details["data_set"] = ", ".join(os.path.basename(os.path.normpath(p)) for p in parts if p)
        details["data_set"] += f" ({settings.get('train_split', 'train')})"
    results = read_json(os.path.join(folder, f"result_{step}.json"))
    return {**details, "results": results} if results else details


def _check_recorded(settings: object, path: str) -> None:
    """Checks settings that a file holds, those that it has, each alone."""
    if not isinstance(settings, dict):
        raise UserError(
            f"Expected settings by their names in {path}; received: {settings!r}. "
            "Fix it, or export the model again."
        )
    for field in dataclasses.fields(Config):
        if field.name in settings:
            try:
                check_setting(field, settings[field.name])
            except UserError as error:
                raise UserError(f"{error} It stands in {path}.") from error


def _recipe(settings: Mapping[str, object], classes: int | None, folder: str) -> Recipe:
    """Returns the recipe of a run's settings, for weights that are loaded from a file."""
    try:
        recipe = Recipe.from_settings(settings, classes)
    except KeyError as error:
        raise UserError(
            f"Expected a run's settings beside the weights in {folder}; received: none for "
            f"{error}. Fix its flags.json."
        ) from error
    has_classifier = recipe.train_mode in ("finetune", "distill") and classes is not None
    return dataclasses.replace(
        recipe,
        train_mode="finetune" if has_classifier else "pretrain",  # a student needs no teacher now
        encoder_weights=None,
        # Batch norm before a run's linear head is folded into it when it is loaded.
        lineareval_batch_norm=False,
    )
