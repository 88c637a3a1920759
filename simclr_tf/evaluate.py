"""`python -m simclr_tf.evaluate MODEL`: frozen features by the field's protocols."""

from __future__ import annotations

import argparse
import os
import sys

from simclr_tf.cli import Arguments, add_data_arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.images.transparency import DEFAULT, TRANSPARENT, WHAT_IT_DOES

_FILE = "evaluation.json"


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    from simclr_tf.evaluation.protocols import DEFAULT as DEFAULT_PROTOCOLS
    from simclr_tf.evaluation.protocols import PROTOCOLS

    arguments = Arguments(
        "simclr_tf.evaluate",
        "Evaluates frozen features by the field's protocols, beside the untrained encoder and raw\n"
        "pixels. Protocols: "
        + "".join(f"\n  {name:<20} {text}" for name, text in PROTOCOLS.items()),
    )
    add = arguments.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a run's model_dir, a checkpoint, an export (ours or the release's), a TF-Hub handle, "
        "a .keras file, or a file of features from simclr_tf.embed",
    )
    add("--test_features", metavar="FILE", help="features to score, where MODEL is such a file")
    add_data_arguments(arguments, required=False, default="the run's own")
    add("--train_split", help="images to fit classifiers to; default: the run's, else train")
    add("--test_split", help="images to score; default: the run's eval_split, else test")
    add(
        "--eval_fraction", type=float, help="share of a folder held out; default: the run's, or 0.1"
    )
    add(
        "--transparent",
        choices=TRANSPARENT,
        help=f"{WHAT_IT_DOES[0].lower()}{WHAT_IT_DOES[1:]} Default: as trained, else {DEFAULT}",
    )
    add("--protocols", default=",".join(DEFAULT_PROTOCOLS), help="default: %(default)s")
    add("--baselines", choices=("on", "off"), default="on", help="default: on")
    add(
        "--supervised_dir",
        metavar="DIR",
        help="train a supervised run of the same length there, and evaluate it beside the model",
    )
    add("--endpoint", default="final_avg_pool", help="which output; default: final_avg_pool")
    add("--image_size", type=int, help="side in pixels; default: what the model says of itself")
    add("--max_images", type=int, default=0, help="most of a split, drawn by the seed; 0: all")
    add("--batch_size", type=int, default=64, help="images at a time; default: 64")
    add("--sgd_epochs", type=int, default=90, help="of sgd_probe; default: 90")
    add("--sgd_batch_size", type=int, default=256, help="of sgd_probe; default: 256")
    add("--seed", type=int, default=0, help="of every draw; default: 0")
    add(
        "--output",
        metavar="FILE",
        help=f"default: {_FILE} in MODEL if it is a run's folder, or here",
    )
    add("--overwrite", action="store_true", help="replace an evaluation that is there")
    return run_command(arguments, _evaluate, argv)


def _evaluate(given: argparse.Namespace) -> None:
    from simclr_tf.evaluation.protocols import parse_protocols
    from simclr_tf.files.outputs import check_output_path

    names = parse_protocols(given.protocols)
    for name in ("batch_size", "image_size", "sgd_epochs", "sgd_batch_size"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"Expected --{name} of at least 1; received: {value}.")
    for name in ("max_images", "seed"):
        if getattr(given, name) < 0:
            raise UserError(f"Expected --{name} of at least 0; received: {getattr(given, name)}.")
    if given.seed >= 2**31:
        raise UserError(f"Expected --seed below {2**31}; received: {given.seed}.")
    output = check_output_path("--output", _output(given), folder=False, overwrite=given.overwrite)
    start_tensorflow()
    from simclr_tf.files.json_files import write_json
    from simclr_tf.reports.evaluating import evaluate_encoder
    from simclr_tf.reports.request import EvaluationRequest
    from simclr_tf.reports.tables import results_table

    found = evaluate_encoder(
        EvaluationRequest(
            model=given.model,
            test_features=given.test_features,
            dataset=given.dataset,
            data_dir=given.data_dir,
            train_split=given.train_split,
            test_split=given.test_split,
            eval_fraction=given.eval_fraction,
            image_column=given.image_column,
            label_column=given.label_column,
            transparent=given.transparent,
            endpoint=given.endpoint,
            image_size=given.image_size,
            protocols=names,
            baselines=given.baselines == "on",
            supervised_dir=given.supervised_dir,
            max_images=given.max_images,
            batch_size=given.batch_size,
            sgd_epochs=given.sgd_epochs,
            sgd_batch_size=given.sgd_batch_size,
            seed=given.seed,
        ),
        say=lambda line: print(line, flush=True),
    )
    print(results_table(found["results"]))
    write_json(output, found)
    print(f"Wrote {output}.")
    if given.output is None and output != _FILE:
        print(f"python -m simclr_tf.report {given.model} makes a page of it.")


def _output(given: argparse.Namespace) -> str:
    if given.output is not None:
        return str(given.output)
    folder = os.path.expanduser(given.model)
    return os.path.join(folder, _FILE) if os.path.isfile(f"{folder}/flags.json") else _FILE


if __name__ == "__main__":
    sys.exit(main())
