"""What commands share: arguments, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from simclr_tf import __version__
from simclr_tf.devices.quiet import quiet_libraries
from simclr_tf.errors import NotFiniteError, UserError


class Arguments(argparse.ArgumentParser):
    """An argument parser with one-line errors, whose flags can't be abbreviated.

    Example:
        >>> arguments = Arguments('simclr_tf.embed', 'Writes features to a file.')
        >>> arguments.add_argument('--output', required=True, help='The file to write.')
    """

    def __init__(self, module: str, description: str) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--version", action="version", version=f"simclr-tf {__version__}")

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError` in place of argparse's own two lines."""
        raise UserError(f"{message[0].upper()}{message[1:]} (--help lists every argument).")


def run_command(
    arguments: Arguments,
    work: Callable[[argparse.Namespace], None],
    argv: list[str] | None = None,
) -> int:
    """Parses the command line and does the work.

    Args:
        arguments: What the command takes.
        work: Gets the parsed arguments; calls `start_tensorflow` once they are checked.
        argv: Arguments with the program's name first; None: those of the process.

    Returns:
        The exit code: 0, 2 after a user's mistake, 3 where numbers became NaN or
        infinite, 130 after an interruption.
    """

    def parse_and_work() -> int:
        given = arguments.parse_args((sys.argv if argv is None else argv)[1:])
        with quiet_libraries():
            work(given)
        return 0

    return exit_code(arguments.prog.removeprefix("python -m "), parse_and_work)


def exit_code(name: str, work: Callable[[], int]) -> int:
    """Returns what `work` returns; or prints its error in one line and returns an exit code.

    Args:
        name: Of the command.
        work: All that the command does.
    """
    try:
        return work()
    except UserError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except NotFiniteError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"{name}: interrupted.", file=sys.stderr)
        return 130
