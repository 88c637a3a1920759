"""Following a run that trains in another process: each new checkpoint is evaluated."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from simclr_tf.checkpoints.loading import load_weights
from simclr_tf.checkpoints.reader import read_step
from simclr_tf.errors import UserError
from simclr_tf.files.writers import Writer
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

POLL_SECONDS = 15  # the release's


def follow(
    model_dir: str,
    model: SimCLR | Classifier,
    evaluate: Callable[[int], dict[str, float]],
    train_steps: int,
    writer: Writer,
    has_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Evaluates each new checkpoint until the last step's.

    Args:
        model_dir: The run's folder.
        model: The run's model; the weights of each checkpoint are loaded into it.
        evaluate: Called with a checkpoint's step; returns the results.
        train_steps: The last step of the run.
        writer: Who prints.
        has_stopped: Whether the run has ended before its last step (early stopping).

    Returns:
        The last evaluation's results.

    Raises:
        UserError: A checkpoint is of another model.
    """
    results: dict[str, float] = {}
    writer.say(f"Waiting for checkpoints in {model_dir}.")
    checkpoints = tf.train.checkpoints_iterator(
        model_dir,
        min_interval_secs=POLL_SECONDS,
        timeout=POLL_SECONDS,
        timeout_fn=has_stopped,  # True ends the waiting
    )
    for prefix in checkpoints:
        report = load_weights(model, prefix)
        if report.missing or report.mismatched:
            raise UserError(
                f"Expected a checkpoint of this model at {prefix}; {report.describe()} "
                "Evaluate with the settings it was trained with."
            )
        step = read_step(prefix)
        results = evaluate(step)
        if step >= train_steps:
            writer.say(f"Step {step} is the last of {train_steps}: evaluation complete.")
            break
    return results
