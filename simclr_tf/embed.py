"""`python -m simclr_tf.embed --saved_model=DIR --dataset=... --output=FILE`: images to features."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from simclr_tf.cli import Arguments, add_data_arguments, run_command
from simclr_tf.devices.quiet import start_tensorflow
from simclr_tf.errors import UserError
from simclr_tf.images.transparency import TRANSPARENT, WHAT_IT_DOES

if TYPE_CHECKING:
    from tqdm import tqdm

    from simclr_tf.datasets import ImageSource
    from simclr_tf.features.extractor import Extractor
    from simclr_tf.features.store import FeatureStore


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = Arguments(
        "simclr_tf.embed",
        "Writes the features of every image of a data set, with file names and labels. Typed\n"
        "again after an interruption, the same command goes on where it stopped. Memory does not\n"
        "grow with the number of images.",
    )
    add = arguments.add_argument
    add(
        "--saved_model",
        metavar="DIR",
        help="an export, ours or the original release's, or a run's model_dir",
    )
    add(
        "--checkpoint",
        metavar="PATH",
        help="in its place: a run's model_dir, a checkpoint, a .keras file, a file of the release",
    )
    add_data_arguments(arguments)
    add("--split", default="all", help="which images: train, test, train[:80%%], ...; default: all")
    add(
        "--eval_fraction",
        type=float,
        default=0.1,
        help="share of a folder that training held out as test; default: 0.1",
    )
    add("--on_bad_image", choices=("skip", "fail"), default="skip", help="default: skip")
    add(
        "--transparent",
        choices=TRANSPARENT,
        help=f"{WHAT_IT_DOES[0].lower()}{WHAT_IT_DOES[1:]} Default: as the model was trained",
    )
    add(
        "--white_level",
        type=int,
        help="value of 16-bit TIFF files that becomes white; default: as the model was trained",
    )
    add("--endpoint", default="final_avg_pool", help="which output; default: final_avg_pool")
    add("--image_size", type=int, help="side in pixels; default: what the export says of itself")
    add("--batch_size", type=int, default=64, help="images at a time; default: 64")
    add("--output", metavar="FILE", help="file to write: .npz, .parquet or .tsv")
    add(
        "--projector_dir",
        metavar="DIR",
        help="folder to make for TensorBoard's projector, with thumbnails; with --output or alone",
    )
    add("--overwrite", action="store_true", help="replace what is there once the new is complete")
    return run_command(arguments, _embed, argv)


def _embed(given: argparse.Namespace) -> None:
    targets = _checked_targets(given)
    start_tensorflow()
    _check_apart(given)
    extract, of_model = _load_model(given)
    _check_vectors(given, extract)
    from simclr_tf.datasets.source import flat_line
    from simclr_tf.features.extractor import feature_columns, fingerprint
    from simclr_tf.features.files import Names
    from simclr_tf.features.outputs import write_outputs
    from simclr_tf.features.projector import thumbnail_side
    from simclr_tf.features.store import FeatureStore, as_user_error

    source = _open_images(given, extract)
    total = source.num_examples
    assert total is not None
    unlisted = len(source.bad_images)  # found when the folder was opened: not counted in `total`
    side = thumbnail_side(total, min(extract.image_size)) if given.projector_dir else None
    columns = feature_columns(source, extract, side)
    files = source.file_names()
    if files is not None:
        files = [name.replace(os.sep, "/") for name in files]
    job = {
        "model": of_model,
        "data": fingerprint(source),
        "endpoint": given.endpoint,
        "image_size": list(extract.image_size),
        "transparent": given.transparent or extract.transparent,
        "outputs": targets,
        "columns": {name: [kind, list(shape)] for name, (kind, shape) in columns.items()},
    }
    options = [given.image_column, given.label_column, _white_level(given, extract)]
    if any(options):
        job["options"] = options
    for target in targets:  # before hours of work, not after
        with as_user_error(os.path.dirname(target) or "."):
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    work = f"{targets[0]}.partial"
    store = FeatureStore(work, job, columns, restart=given.overwrite)
    first, began = store.seen, time.monotonic()
    if first:
        print(f"Going on from image {first:,} of {total:,} ({work}).", flush=True)
    try:
        _fill(store, source, extract, given.batch_size, side)
        seconds = time.monotonic() - began
        if not store.rows:
            raise UserError(f"Expected readable images in '{given.dataset}'; received: none.")
        flat = _flat(store)
        names = Names(files, source.class_names)
        with as_user_error(work):
            write_outputs(store, names, given.endpoint, given.output, given.projector_dir, targets)
    except KeyboardInterrupt:
        said = f"{store.seen:,} of {total:,} images are kept in {work}"
        print(f"{said}; the same command goes on from there.", file=sys.stderr)
        raise
    finally:
        store.close() if store.rows else store.remove()
    size = " x ".join(map(str, (f"{store.rows:,}", *extract.shape)))
    speed = f", {(store.seen - first) / max(seconds, 1e-9):,.0f} images/s" if first < total else ""
    lost = unlisted + total - store.rows
    skipped = f", {lost} unreadable left out" if lost else ""
    if flat:
        print(flat_line(len(flat), files[flat[0]] if files else f"number {flat[0]}"))
    print(f"Wrote {' and '.join(targets)}: {size} {given.endpoint}{skipped}{speed}.")


def _check_vectors(given: argparse.Namespace, extract: Extractor) -> None:
    """Checks that features can be written in the format asked for: maps only as .npz."""
    kind = os.path.splitext(given.output or "")[1].lower()
    if len(extract.shape) != 1 and (given.projector_dir or kind != ".npz"):
        raise UserError(
            f"Expected an endpoint of vectors for this output; received: {given.endpoint} of shape "
            f"{extract.shape}. Write it as .npz, or choose final_avg_pool."
        )


def _open_images(given: argparse.Namespace, extract: Extractor) -> ImageSource:
    """Opens the data set; prints which folders were left out of it."""
    from simclr_tf.datasets import open_source
    from simclr_tf.datasets.folder_walk import left_out_line

    source = open_source(
        given.dataset,
        given.split,
        data_dir=given.data_dir,
        eval_fraction=given.eval_fraction,
        on_bad_image=given.on_bad_image,
        transparent=given.transparent or extract.transparent,
        image_column=given.image_column,
        label_column=given.label_column,
        white_level=_white_level(given, extract),
    )
    if source.left_out:
        print(left_out_line(source.name, source.left_out), flush=True)
    return source


def _white_level(given: argparse.Namespace, extract: Extractor) -> int:
    return extract.white_level if given.white_level is None else int(given.white_level)


def _fill(
    store: FeatureStore,
    source: ImageSource,
    extract: Extractor,
    batch_size: int,
    thumbnail: int | None,
) -> None:
    """Adds the rows that the store still lacks, with a progress bar."""
    from simclr_tf.features.extractor import feature_batches

    with _progress(source.num_examples, store.seen) as bar, source.user_errors():
        for batch, seen in feature_batches(source, extract, batch_size, store.seen, thumbnail):
            store.append(batch, seen)
            bar.update(seen - bar.n)


def _checked_targets(given: argparse.Namespace) -> list[str]:
    """Checks the arguments; returns the paths to write."""
    from simclr_tf.features.files import check_output
    from simclr_tf.features.projector import is_projector
    from simclr_tf.files.outputs import check_apart, check_output_path

    if bool(given.saved_model) == bool(given.checkpoint):
        count = "both" if given.saved_model else "neither"
        raise UserError(f"Expected --saved_model or --checkpoint; received: {count}.")
    if given.output is None and given.projector_dir is None:
        raise UserError("Expected --output or --projector_dir; received: neither.")
    for name in ("batch_size", "image_size"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"Expected --{name} of at least 1; received: {value}.")
    if given.white_level is not None and not 0 <= given.white_level < 1 << 16:
        raise UserError(f"Expected --white_level of 0 to 65,535; received: {given.white_level}.")
    outputs = []
    if given.output is not None:
        path = check_output_path("--output", given.output, folder=False, overwrite=given.overwrite)
        check_output(path)
        outputs.append(("--output", path))
    if given.projector_dir is not None:
        path = check_output_path(
            "--projector_dir",
            given.projector_dir,
            folder=True,
            overwrite=given.overwrite,
            ours=is_projector,
        )
        outputs.append(("--projector_dir", path))
    work = f"{outputs[0][1]}.partial"
    if os.path.lexists(work) and (os.path.islink(work) or not os.path.isdir(work)):
        raise UserError(
            f"Expected to keep unfinished work in {work}; received: a file or link of that name. "
            "Move it, or choose another name to write."
        )
    inputs = []
    data = os.path.expanduser(given.dataset)
    if os.path.exists(data):  # a folder, a list or a table
        inputs.append(("--dataset", data))
    check_apart(outputs, inputs)
    check_apart([("the unfinished work", work)], outputs)
    return [path for _, path in outputs]


def _check_apart(given: argparse.Namespace) -> None:
    """Checks that outputs do not become part of the images; prints where they lie among them."""
    from simclr_tf.datasets import folders_of
    from simclr_tf.datasets.apart import check_file_apart, check_folder_apart

    lines = []
    for images in folders_of(given.dataset, given.data_dir):
        if given.output:
            lines.append(check_file_apart(images, given.output, "--output"))
        if given.projector_dir:
            lines.append(check_folder_apart(images, given.projector_dir, "--projector_dir"))
    for line in filter(None, lines):
        print(line, flush=True)


def _flat(store: FeatureStore) -> list[int]:
    """Returns the positions of the images that are one flat colour."""
    blocks = zip(store.blocks("index"), store.blocks("flat"), strict=True)
    return [int(i) for index, flat in blocks for i in index[flat]]


def _load_model(given: argparse.Namespace) -> tuple[Extractor, list[str | int]]:
    """Returns the model, and what identifies it: its kind and a checksum."""
    from simclr_tf.features.exported import checksum, find_export
    from simclr_tf.features.extractor import load_extractor

    if given.saved_model:
        extract = load_extractor(given.saved_model, given.endpoint, given.image_size)
        return extract, ["saved_model", checksum(find_export(given.saved_model))]
    from tf_hub_export.extractors import checksum_of, open_checkpoint

    extract = open_checkpoint(given.checkpoint, given.endpoint, given.image_size).extract
    return extract, ["checkpoint", checksum_of(extract.variables)]


def _progress(total: int | None, first: int) -> tqdm:
    from tqdm import tqdm

    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=first,
        unit=" images",
        unit_scale=True,
        dynamic_ncols=interactive,
        mininterval=0.5 if interactive else 15,  # seconds; few lines in a log file
        desc="Features",
    )


if __name__ == "__main__":
    sys.exit(main())
