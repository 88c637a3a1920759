"""`python -m tf_hub_export --checkpoint=PATH --export_dir=DIR`: a trained model as an export."""

from __future__ import annotations

import argparse
import os
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.files.outputs import check_output_path
from tf_hub_export import FORMATS, check_format
from tf_hub_export.atomic import is_export
from tf_hub_export.onnx_file import require_onnx


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "tf_hub_export",
        "Writes a trained model as a SavedModel (TF-Hub module), a .keras file, weights, TFLite\n"
        "or ONNX, with a model card. The folder is complete or absent at any moment. A converted\n"
        "model is compared with the original; one that deviates too much is not written.",
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
        help=f"default: {FORMATS[0]}; onnx needs pip install 'simclr-tf[onnx]'",
    )
    arguments.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of the stored weights: float16 (saved_model, tflite) is half the size, int8 (tflite) "
        "a quarter; default: float32",
    )
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace an existing export once this is complete"
    )
    return run_command(arguments, _export, argv)


def _export(given: argparse.Namespace) -> None:
    if not given.checkpoint or not given.export_dir:
        raise UserError("Expected --checkpoint and --export_dir; received: nothing after the =.")
    check_format(given.format, given.precision)
    target = check_output_path(
        "--export_dir", given.export_dir, folder=True, overwrite=given.overwrite, ours=is_export
    )
    if given.format == "onnx":
        require_onnx()
    start_tensorflow()
    from simclr_tf.files.json_files import read_json
    from tf_hub_export.comparison import CONVERTED
    from tf_hub_export.formats import export_model
    from tf_hub_export.model_card import CARD_FILE
    from tf_hub_export.sources import load_model

    model, details = load_model(given.checkpoint)
    export_model(model, target, given.format, given.overwrite, details, given.precision)
    name = given.format if given.precision == "float32" else f"{given.format}, {given.precision}"
    print(f"Wrote {given.export_dir} ({name}); its README.md says what it is.")
    card = read_json(os.path.join(target, CARD_FILE))
    if "deviation" in card:
        found = card["deviation"]
        listed = ", ".join(f"{name} {found[name]:.1e}" for name in CONVERTED if name in found)
        print(f"Largest deviation from the model: {listed} (limit {card['deviation_limit']:g}).")


if __name__ == "__main__":
    sys.exit(main())
