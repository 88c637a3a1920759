"""Loading weights into a model, in whole or in part, and reporting what differs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tensorflow import keras

from simclr_tf.checkpoints.reader import StoredWeights
from simclr_tf.checkpoints.variables import (
    ENCODER,
    LINEAR,
    LINEAR_NORM,
    model_variables,
    schema_name,
)
from simclr_tf.errors import UserError
from simclr_tf.models.heads import without_batch_norm
from simclr_tf.models.recipe import Recipe
from simclr_tf.training.finite import not_finite


@dataclass
class LoadReport:
    """What loading weights did, variable by variable.

    Attributes:
        loaded: Paths that were loaded.
        missing: Paths that only the model has.
        unused: Paths that only the checkpoint has.
        mismatched: Path -> (shape in the checkpoint, shape in the model).
        filtered: Paths that `variable_schema` left out.
        recipe: The network that the checkpoint holds; None if it is not one of the release's.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    filtered: list[str] = field(default_factory=list)
    recipe: Recipe | None = None

    def encoder_fits(self) -> bool:
        """Returns whether the whole encoder was loaded, and all that the checkpoint has of it."""
        encoders = (ENCODER, "encoder/")
        rest = [*self.missing, *self.unused, *self.mismatched]
        return any(p.startswith(encoders) for p in self.loaded) and not any(
            p.startswith(encoders) for p in rest
        )

    def describe(self) -> str:
        """Returns one line on what was loaded and what was not, with an example of each."""
        parts = [f"{len(self.loaded)} variables loaded"]
        for what, paths in (
            ("missing in the checkpoint", self.missing),
            ("unused in it", self.unused),
            ("left out by variable_schema", self.filtered),
        ):
            if paths:
                parts.append(f"{len(paths)} {what} (as {paths[0]})")
        if self.mismatched:
            path, (theirs, ours) = next(iter(self.mismatched.items()))
            parts.append(
                f"{len(self.mismatched)} of another shape (as {path}: {theirs} there, {ours} here)"
            )
        return "; ".join(parts) + "."


def load_weights(
    model: keras.Model,
    path: str | StoredWeights,
    variable_schema: str | None = None,
    whole: bool = False,
) -> LoadReport:
    """Loads the weights (not the optimizer) of a checkpoint, as far as names and shapes agree.

    Args:
        model: A `SimCLR` or `Classifier`.
        path: A folder, a checkpoint prefix or a SavedModel folder, ours or the release's (TF2 or
            TF1); or such a file, opened.
        variable_schema: Regular expression; only variables whose `schema_name` matches from the
            start are loaded.
        whole: Whether nothing is assigned unless everything fits.

    Returns:
        The report. A variable whose name is missing or whose shape differs is not assigned: the
        caller decides. Where the checkpoint has batch norm before the linear head and the model
        has none, it is folded into the head.

    Raises:
        UserError: No readable checkpoint there, or one that holds NaN or infinity.
    """
    stored = path if isinstance(path, StoredWeights) else StoredWeights(path)
    variables = model_variables(model)
    report = LoadReport(recipe=stored.recipe)
    folds = set(LINEAR_NORM) <= set(stored.shapes) and not set(LINEAR_NORM) & set(variables)
    others = set(stored.shapes) - set(variables) - set(LINEAR_NORM if folds else ())
    for name in (*variables, *sorted(others)):
        theirs = stored.shapes.get(name)
        ours = tuple(variables[name].shape) if name in variables else None
        if variable_schema and not re.match(variable_schema, schema_name(name)):
            report.filtered.append(name)
        elif theirs is None:
            report.missing.append(name)
        elif ours is None:
            report.unused.append(name)
        elif theirs != ours:
            report.mismatched[name] = (theirs, ours)
        else:
            report.loaded.append(name)
    if whole and (report.missing or report.unused or report.mismatched):
        return report
    tensors = {name: stored.read(name) for name in report.loaded}
    if folds and set(LINEAR) <= set(tensors):
        whole_head = (stored.read(name) for name in (*LINEAR, *LINEAR_NORM))
        tensors |= dict(zip(LINEAR, without_batch_norm(*whole_head), strict=True))
    bad = not_finite(tensors)
    if bad is not None:
        raise UserError(
            f"Expected finite weights; received: NaN or infinity in {bad} of {path}. "
            "Take an earlier checkpoint."
        )
    for name, tensor in tensors.items():
        variables[name].assign(tensor)
    return report
