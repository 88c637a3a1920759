"""Classifiers as TFLite files: what each file takes on disk, how often it is right, how fast."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from simclr_tf.datasets import ImageSource, open_source
from simclr_tf.datasets.pipeline import evaluation_view
from simclr_tf.datasets.tuning import untuned
from simclr_tf.errors import UserError
from simclr_tf.files.atomic_file import new_file
from simclr_tf.files.json_files import write_json
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR
from tf_hub_export import export_model, tflite
from tf_hub_export.input_contract import InputContract, input_contract
from tf_hub_export.sources import load_model

_LOGITS = "logits_sup"
_CALLS = 10  # of a file in a round: the first finds another file's weights in the cache


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one file.

    Attributes:
        model: Its name.
        precision: Of the stored weights.
        parameters: Weights of the model, batch norm's statistics included.
        zeros: Share of its kernels' weights that is exactly zero.
        bytes: Size of the file.
        gzip_bytes: Size of the file compressed by gzip.
        accuracy: Share of the images whose class has the largest logit.
        images: Their number.
        milliseconds: Median time of one image on one thread.
        milliseconds_low: Its lower quartile over the rounds.
        milliseconds_high: Its upper quartile.
    """

    model: str
    precision: str
    parameters: int
    zeros: float
    bytes: int
    gzip_bytes: int
    accuracy: float
    images: int
    milliseconds: float
    milliseconds_low: float
    milliseconds_high: float


class Comparison(NamedTuple):
    """What `compare` found.

    Attributes:
        rows: One for each file, by model.
        notices: Lines on files that could not be made, and images that could not be read.
    """

    rows: list[Row]
    notices: list[str]


class _Images(NamedTuple):
    """float32 (N, height, width, channels) in [0, 1], and their classes, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray
    num_classes: int | None


class _File(NamedTuple):
    """A file that was written: where, of what, and the images that it takes."""

    path: str
    model: str
    precision: str
    parameters: int
    zeros: float
    shown: _Images


def compare(
    models: Mapping[str, str],
    dataset: str,
    *,
    split: str = "test",
    data_dir: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    precisions: Sequence[str] = ("float32", "float16", "int8"),
    max_images: int = 10_000,
    batch_size: int = 64,
    rounds: int = 50,
    seed: int = 0,
) -> Comparison:
    """Converts models and measures their files: the whole command.

    Args:
        models: Name -> what `tf_hub_export.load_model` reads; classifiers of the same classes.
        dataset: Labelled images, as for `open_source`.
        split: A split expression.
        data_dir: Where prepared TFDS data lie.
        image_column: A table's column of paths.
        label_column: A table's column of labels.
        precisions: Of the files.
        max_images: How many images are used, from the front of the split.
        batch_size: Images at a time for the accuracy; speed is that of single images.
        rounds: How often all files are timed in turn.
        seed: Draws their order in each round.

    Returns:
        A `Comparison`.

    Raises:
        UserError: A model is no classifier of the images' classes, the images have no labels, or
            no file can be made.

    Example:
        >>> compare({"teacher": "runs/teacher", "student": "runs/student"}, "mnist_5k").rows
    """
    seen: dict[object, _Images] = {}
    notices: list[str] = []

    def shown_to(name: str, model: SimCLR | Classifier, settings: Mapping[str, Any]) -> _Images:
        contract = input_contract(model, settings.get("image_size"), settings.get("transparent"))
        white = int(settings.get("white_level") or 0)
        if model.supervised_head is None or contract.image_size is None:
            raise UserError(
                f"Expected a classifier of images; received: {name}, which takes "
                f"{contract.describe()}, "
                f"with{'out' if model.supervised_head is None else ''} a linear head. Fine-tune "
                "it first (--train_mode=finetune)."
            )
        # Held out of a folder as in training: no image that the model has learned from.
        held_out = {"eval_fraction": settings.get("eval_fraction", 0.1),
                    "seed": settings.get("seed", 0)}  # fmt: skip
        key = (contract, white, *held_out.values())
        if key not in seen:
            source = open_source(
                dataset,
                split,
                **held_out,
                data_dir=data_dir,
                transparent=contract.transparent,
                image_column=image_column,
                label_column=label_column,
                white_level=white,
            )
            seen[key] = _read(source, contract, max_images)
            notices.extend(line for line in source.notices() if line not in notices)
        units, classes = int(model.supervised_head.units), seen[key].num_classes
        if classes != units:
            raise UserError(
                f"Expected images of the {units} classes of {name}; received: {classes} classes in "
                f"{dataset}. Name the data set that it was trained on."
            )
        return seen[key]

    with tempfile.TemporaryDirectory() as folder:
        files: list[_File] = []
        for name, path in models.items():
            model, details = load_model(path)
            shown = shown_to(name, model, details.get("settings", {}))
            parameters, zeros = count_weights(model)
            for precision in precisions:
                target = os.path.join(folder, str(len(files)))
                try:
                    export_model(model, target, "tflite", details=details, precision=precision)
                except UserError as error:
                    notices.append(f"No {precision} file of {name}: {error}")
                    continue
                written = os.path.join(target, tflite.FILE)
                files.append(_File(written, name, precision, parameters, zeros, shown))
        if not files:
            raise UserError(
                f"Expected a classifier that TFLite can express; received: none. {notices[-1]}"
            )
        accuracies = [_accuracy(file, batch_size) for file in files]
        times = 1e3 * time_in_turn(
            [tflite.prepare_tflite(file.path, file.shown.images[:1]) for file in files],
            rounds,
            seed,
        )
        rows = []
        for file, accuracy, (low, median, high) in zip(files, accuracies, times, strict=True):
            with open(file.path, "rb") as opened:
                content = opened.read()
            rows.append(
                Row(
                    model=file.model,
                    precision=file.precision,
                    parameters=file.parameters,
                    zeros=file.zeros,
                    bytes=len(content),
                    gzip_bytes=len(gzip.compress(content, mtime=0)),
                    accuracy=accuracy,
                    images=len(file.shown.labels),
                    milliseconds=float(median),
                    milliseconds_low=float(low),
                    milliseconds_high=float(high),
                )
            )
    return Comparison(rows, notices)


def count_weights(model: SimCLR | Classifier) -> tuple[int, float]:
    """Returns the number of a model's weights, and the share of zeros among those of kernels."""
    values = [np.asarray(weight) for weight in model.weights]
    kernels = [value for value in values if value.ndim > 1]
    zeros = sum(int((value == 0).sum()) for value in kernels)
    return sum(value.size for value in values), zeros / sum(value.size for value in kernels)


def _read(source: ImageSource, contract: InputContract, max_images: int) -> _Images:
    """Returns the images as an evaluation sees them; unreadable ones are left out."""
    if not source.labelled:
        raise UserError(
            f"Expected labelled images, for the accuracy; received: none with labels in "
            f"'{source.name}'. Name others with --dataset."
        )
    height, width = contract.image_size or (0, 0)
    data = source.ordered_keys().map(source.decode, tf.data.AUTOTUNE, deterministic=True)
    data = data.filter(lambda example: example["ok"]).take(max_images)
    data = data.map(
        lambda example: (evaluation_view(example["image"], height, width), example["label"]),
        tf.data.AUTOTUNE,
        deterministic=True,
    )
    with source.user_errors():
        pairs = [(image.numpy(), int(label)) for image, label in untuned(data).prefetch(2)]
    known = [(image, label) for image, label in pairs if label >= 0]
    if not known:
        raise UserError(
            f"Expected readable images with labels in '{source.name}'; received: none. Name others "
            "with --dataset."
        )
    images = np.stack([image for image, _ in known])
    if images.shape[-1] != contract.channels:
        raise UserError(
            f"Expected images of {contract.channels} channels; received: {images.shape[-1]} in "
            f"'{source.name}'. Name images of the kind that the models were trained on."
        )
    return _Images(images, np.array([label for _, label in known]), source.num_classes)


def _accuracy(file: _File, batch_size: int) -> float:
    run = tflite.open_tflite(file.path)
    images, labels, _ = file.shown
    hits = 0
    for start in range(0, len(labels), batch_size):
        logits = run(images[start : start + batch_size])[_LOGITS]
        hits += int((logits.argmax(-1) == labels[start : start + batch_size]).sum())
    return hits / len(labels)


def time_in_turn(calls: Sequence[Callable[[], None]], rounds: int, seed: int) -> np.ndarray:
    """Times functions in turn, in a new order each round, so that a busy machine slows all alike.

    Args:
        calls: The functions.
        rounds: At least 1.
        seed: Draws the orders.

    Returns:
        (functions, 3): quartiles over the rounds of the seconds of one call, where a round is the
        mean of ten calls after one that is not counted.

    Example:
        >>> time_in_turn([lambda: sum(range(1000))], rounds=5, seed=0).shape
        (1, 3)
    """
    times = np.zeros((len(calls), rounds))
    random = np.random.RandomState(seed)
    for place in range(rounds):
        for index in random.permutation(len(calls)):
            call = calls[index]
            call()
            start = time.perf_counter()
            for _ in range(_CALLS):
                call()
            times[index, place] = (time.perf_counter() - start) / _CALLS
    return np.quantile(times, [0.25, 0.5, 0.75], axis=1).T


def table(rows: Sequence[Row]) -> list[str]:
    """Returns the table for a terminal, in Markdown."""
    header = ["model", "precision", "parameters", "zeros", "bytes", "gzip", "accuracy",
              "ms an image [quartiles]"]  # fmt: skip
    cells = [
        [
            row.model,
            row.precision,
            f"{row.parameters:,}",
            f"{row.zeros:.3f}",
            f"{row.bytes:,}",
            f"{row.gzip_bytes:,}",
            f"{row.accuracy:.4f}",
            f"{row.milliseconds:.3f} [{row.milliseconds_low:.3f}, {row.milliseconds_high:.3f}]",
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    rule = ["-" * width for width in widths]

    def line(texts: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    return [line(header), line(rule), *map(line, cells)]


def write_table(path: str, rows: Sequence[Row]) -> None:
    """Writes the rows to a .csv or .json file, complete or not at all.

    Args:
        path: File to make or to replace; its ending says the format.
        rows: What to write.
    """
    found = [dataclasses.asdict(row) for row in rows]
    if path.endswith(".json"):
        write_json(path, {"tensorflow": tf.__version__, "files": found})
        return
    with new_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(found)
