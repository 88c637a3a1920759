"""The loggers by name, and what must be installed for each; settings are checked with it."""

from __future__ import annotations

import dataclasses

from simclr_tf import errors
from simclr_tf.errors import UserError

NONE = "none"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is known of a logger before it is imported.

    Args:
        title: Its name in messages.
        packages: What must be installed, by the names that are imported; the extra of this package
            that brings them is named as the logger.
    """

    title: str
    packages: tuple[str, ...] = ()


LOGGERS = {
    "tensorboard": Kind("TensorBoard"),
    # The last two read and write the local store, an SQLite file.
    "mlflow": Kind("MLflow", ("mlflow", "sqlalchemy", "alembic")),
    "wandb": Kind("Weights & Biases", ("wandb",)),
}


def chosen(text: str) -> tuple[str, ...]:
    """Returns the names in a list such as 'tensorboard,mlflow'; 'none' is an empty list.

    Raises:
        UserError: A name that does not exist, one that stands twice, or no name.

    Example:
        >>> chosen('tensorboard, mlflow')
        ('tensorboard', 'mlflow')
    """
    names = tuple(name.strip() for name in text.split(","))
    if names == (NONE,):
        return ()
    if any(name not in LOGGERS for name in names):
        raise UserError(
            f"Expected loggers to be names from {', '.join(LOGGERS)}, separated by commas, or "
            f"{NONE}; received: {text!r}."
        )
    if len(set(names)) < len(names):
        raise UserError(f"Expected each of the loggers once; received: {text!r}.")
    return names


def check_installed(names: tuple[str, ...]) -> None:
    """Checks that what the loggers need is installed; it imports nothing.

    Raises:
        UserError: It is not; the line says how to install it.
    """
    for name in names:
        for package in LOGGERS[name].packages:
            errors.check_installed(package, f"with --loggers={name}", extra=name)
