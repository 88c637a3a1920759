"""`python -m simclr_tf.import_release PATH --output DIR`: the release's files as ours."""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from simclr_tf.cli import Arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import partial_path
from simclr_tf.files.outputs import check_output_path


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.import_release",
        "Reads a TF2 training checkpoint, a TF2 SavedModel or a TF1 checkpoint of the original\n"
        "SimCLR release; writes a checkpoint that --checkpoint takes, and a SavedModel with\n"
        "gradients, under DIR/saved_model.",
    )
    arguments.add_argument("path", help="folder of the files, or a checkpoint's prefix")
    arguments.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    arguments.add_argument(
        "--num_classes", type=int, help="size of a fresh linear head in place of the file's"
    )
    arguments.add_argument(
        "--variable_schema", help="regular expression: only variables whose names match are taken"
    )
    return run_command(arguments, _import, argv)


def _import(given: argparse.Namespace) -> None:
    output = os.path.abspath(
        check_output_path("--output", given.output, folder=True, overwrite=False, overwrite_hint="")
    )
    if given.num_classes is not None and given.num_classes < 1:
        raise UserError(f"Expected --num_classes of at least 1; received: {given.num_classes}.")
    start_tensorflow()
    from simclr_tf.checkpoints.reader import StoredWeights
    from simclr_tf.checkpoints.release import load_release_weights
    from simclr_tf.checkpoints.store import save_weights
    from tf_hub_export import export_saved_model

    stored = StoredWeights(given.path)
    model = load_release_weights(None, given.path, given.num_classes, given.variable_schema)
    # A SavedModel does not record its step; an evaluation only ends at a step above 0.
    step = max(1, stored.step)
    held = stored.recipe
    assert held is not None
    name = os.path.basename(os.path.normpath(given.path))
    settings, source = held.release_settings(), f"{name} ({stored.format})"
    details = {"settings": settings, "source": source, "step": step}
    try:
        os.makedirs(os.path.dirname(output), exist_ok=True)
        partial = partial_path(output)
        os.mkdir(partial)
    except OSError as error:
        raise UserError(
            f"Expected --output to be a folder that can be made; received: {given.output} "
            f"({error.strerror})."
        ) from error
    try:
        save_weights(model, partial, step)
        folder = os.path.join(partial, "saved_model", str(step))
        export_saved_model(model, folder, details=details)
        os.rename(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    flags = " ".join(
        f"--{name}={f'{value:g}' if isinstance(value, float) else value}"
        for name, value in settings.items()
    )
    print(f"Read {len(stored.shapes)} variables ({stored.format}): {held.describe()}.")
    print(f"Wrote {given.output}/ckpt-{step} and {given.output}/saved_model/{step}.")
    print(f"Fine-tune: simclr-tf --train_mode=finetune --checkpoint={given.output} {flags} ...")
    if held.num_classes:
        print(
            f"Evaluate: simclr-tf --mode=eval --model_dir={given.output} --train_steps={step} "
            f"{flags} --dataset=DATA_SET --eval_split=SPLIT"
        )


if __name__ == "__main__":
    sys.exit(main())
