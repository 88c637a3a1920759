"""`python -m tf_hub_export --checkpoint=PATH --export_dir=DIR`: a trained model as an export."""

from __future__ import annotations

import argparse
import os
import sys

from simclr_tf.commands import Arguments, run_command
from simclr_tf.errors import UserError
from tf_hub_export import FORMATS
from tf_hub_export.atomic import check_target


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "tf_hub_export",
        "Writes a trained model as a SavedModel (TF-Hub module), a .keras file or weights, with a\n"
        "model card. The folder is complete or absent at any moment.",
    )
    arguments.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a run's model_dir, a checkpoint's prefix, a .keras file, an export, or a file of the "
        "original release",
    )
    arguments.add_argument("--export_dir", required=True, metavar="DIR", help="folder to make")
    arguments.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help=f"default: {FORMATS[0]}",
    )
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace an existing export once this is complete"
    )
    return run_command(arguments, _export, argv)


def _export(given: argparse.Namespace) -> None:
    if not given.checkpoint or not given.export_dir:
        raise UserError("Expected --checkpoint and --export_dir; received: nothing after the =.")
    target = os.path.expanduser(given.export_dir)
    check_target(target, given.overwrite)
    from tf_hub_export.formats import export_model
    from tf_hub_export.sources import load_model

    model, details = load_model(given.checkpoint)
    export_model(model, target, given.format, given.overwrite, details)
    print(f"Wrote {given.export_dir} ({given.format}); its README.md says what it is.")


if __name__ == "__main__":
    sys.exit(main())
