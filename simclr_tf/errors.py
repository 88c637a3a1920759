"""Errors that commands print as one line: a user's mistake, a run that became NaN."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the user can fix; commands print it as one line and exit with code 2.

    The message says what was expected, what was received and what to do, in one line.

    Example:
        >>> raise UserError('Expected image_size > 0; received: 0. Pass --image_size=32.')
        Traceback (most recent call last):
        simclr_tf.errors.UserError: Expected image_size > 0; received: 0. Pass --image_size=32.
    """


class NotFiniteError(ArithmeticError):
    """A loss, weight or result that became NaN or infinite; commands exit with code 3.

    Example:
        >>> raise NotFiniteError('Stopped at step 3: the loss is nan.')
        Traceback (most recent call last):
        simclr_tf.errors.NotFiniteError: Stopped at step 3: the loss is nan.
    """
