"""What ends a command in one line: mistakes, damaged files, disks, lost workers, NaN, signals.

Each class says with which `exit_code`.
"""

from __future__ import annotations

import importlib.util
import signal


class UserError(ValueError):
    """A mistake that the user can fix; commands print it as one line and exit with code 2.

    The message says what was expected, what was received and what to do, in one line.

    Example:
        >>> raise UserError('Expected image_size > 0; received: 0. Pass --image_size=32.')
        Traceback (most recent call last):
        simclr_tf.errors.UserError: Expected image_size > 0; received: 0. Pass --image_size=32.
    """

    exit_code = 2


def check_installed(package: str, use: str, extra: str) -> None:
    """Checks that an optional package is installed, without importing it.

    Args:
        package: As it is imported.
        use: What needs it, with its preposition.
        extra: Of this package, which installs it.

    Raises:
        UserError: It is not; the line says how to install it.

    Example:
        >>> check_installed("optuna", "for a sweep", extra="sweep")
    """
    found = importlib.util.find_spec(package)
    # A folder of that name in the working directory, as W&B makes one, has no file of its own.
    if found is None or found.origin is None:
        raise UserError(
            f"Expected the package {package} {use}; it is not installed. "
            f"Install it with: pip install 'simclr-tf[{extra}]'."
        )


class NotFiniteError(ArithmeticError):
    """A loss, weight or result that became NaN or infinite; commands exit with code 3.

    Example:
        >>> raise NotFiniteError('Stopped at step 3: the loss is nan.')
        Traceback (most recent call last):
        simclr_tf.errors.NotFiniteError: Stopped at step 3: the loss is nan.
    """

    exit_code = 3


class DamagedFileError(UserError):
    """A file that can't be read as what it claims to be: another one may serve in its place.

    Example:
        >>> raise DamagedFileError('Expected a readable checkpoint at ckpt-2; it is damaged.')
        Traceback (most recent call last):
        simclr_tf.errors.DamagedFileError: Expected a readable checkpoint at ckpt-2; it is damaged.
    """


class StorageError(OSError):
    """A run's folder that can no longer be written; commands exit with code 4.

    Example:
        >>> raise StorageError('Stopped at step 3: no space is left on the disk of runs/a.')
        Traceback (most recent call last):
        simclr_tf.errors.StorageError: Stopped at step 3: no space is left on the disk of runs/a.
    """

    exit_code = 4


class LostWorkerError(RuntimeError):
    """Another worker of the run ended; commands exit with code 5.

    Example:
        >>> raise LostWorkerError('Stopped: another worker ended.')
        Traceback (most recent call last):
        simclr_tf.errors.LostWorkerError: Stopped: another worker ended.
    """

    exit_code = 5


class Interruption(KeyboardInterrupt):
    """A signal that ends a command; its exit code is 128 and the signal's number, as of shells.

    Args:
        number: SIGINT (130) or SIGTERM (143).
        message: What is left, in one line.

    Example:
        >>> raise Interruption(signal.SIGTERM, 'ckpt-7 is written')
        Traceback (most recent call last):
        simclr_tf.errors.Interruption: ckpt-7 is written
    """

    def __init__(self, number: int = signal.SIGINT, message: str = "") -> None:
        super().__init__(message)
        self.number = int(number)
        self.exit_code = 128 + self.number
