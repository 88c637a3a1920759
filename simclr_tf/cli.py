"""What commands share: arguments, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from simclr_tf import __version__
from simclr_tf.devices.interruption import raising
from simclr_tf.devices.quiet import quiet_libraries
from simclr_tf.errors import (
    LostWorkerError,
    NotFiniteError,
    StorageError,
    UserError,
)
from simclr_tf.files.load_failures import explain


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


def add_data_arguments(
    arguments: argparse.ArgumentParser, *, required: bool = True, default: str = ""
) -> None:
    """Adds what names a data set: --dataset, --data_dir, --image_column and --label_column.

    Args:
        arguments: Of the command.
        required: Whether there must be a --dataset.
        default: Which images are taken without one, for the help; empty: nothing is said.
    """
    add = arguments.add_argument
    add(
        "--dataset",
        required=required,
        help="mnist_5k, a folder of images, folders and files separated by commas, a list (.txt), "
        "a table (.csv, .tsv, .parquet), TFRecord files (a folder, file or pattern), or a TFDS "
        f"name{default and f'; default: {default}'}",
    )
    add("--data_dir", metavar="DIR", help="where prepared TFDS data, or a table's images, are kept")
    add(
        "--image_column",
        metavar="NAME",
        help="a table's column of paths, or TFRecord files' feature; default: path, image, ...",
    )
    add(
        "--label_column",
        metavar="NAME",
        help="a table's column of labels, or TFRecord files' feature, or none; default: label, "
        "class or target",
    )


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
        infinite, 4 where the disk is full, 5 where another worker was lost, 130 or 143 after an
        interruption.
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
        with raising():
            return work()
    except (UserError, NotFiniteError, StorageError, LostWorkerError) as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"{name}: interrupted{f'; {error}' if str(error) else ''}.", file=sys.stderr)
        return getattr(error, "exit_code", 130)
    except Exception as error:
        failure = explain(error)
        if failure.kind != "disk":
            raise
        print(f"{name}: error: {failure.reason}. Make room and try again.", file=sys.stderr)
        return StorageError.exit_code
