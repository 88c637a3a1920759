"""Verification: same class or not, by the cosine of features; scores, ROC curves, two pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from simclr_tf.datasets import folders_of, open_source
from simclr_tf.datasets.apart import check_file_apart
from simclr_tf.datasets.folder import open_layout
from simclr_tf.datasets.path_list import lay_out_paths
from simclr_tf.devices.process_state import isolated
from simclr_tf.errors import UserError
from simclr_tf.evaluation.pairs import (
    FALSE_ACCEPT_RATE,
    MOST_PAIRS,
    Pairs,
    Verification,
    draw_pairs,
    verification_scores,
)
from simclr_tf.examples.gallery import embed, notices, raw_pixels
from simclr_tf.examples.pictures import save_figure
from simclr_tf.features.extractor import Extractor
from tf_hub_export.extractors import OpenedEncoder, open_encoder, untrained_like

_ENCODER, _UNTRAINED, _PIXELS = "this encoder", "the same, untrained", "raw pixels"
_COLOURS = {_ENCODER: "tab:blue", _UNTRAINED: "tab:gray", _PIXELS: "tab:orange"}
_BINS = 50


class Verified(NamedTuple):
    """How one kind of features tells pairs apart.

    Attributes:
        pairs: The pairs, the same of every kind of features.
        scores: Their scores.
    """

    pairs: Pairs
    scores: Verification


def verify(
    model: str,
    dataset: str,
    output: str | None = None,
    *,
    two: tuple[str, str] | None = None,
    split: str = "test",
    data_dir: str | None = None,
    endpoint: str = "final_avg_pool",
    image_size: int | None = None,
    transparent: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    most_pairs: int = MOST_PAIRS,
    max_images: int = 10_000,
    batch_size: int = 64,
    seed: int = 0,
) -> list[str]:
    """Embeds a labelled split, draws pairs and scores their cosines: the whole command.

    Args:
        model: As for `open_encoder`.
        dataset: As for `open_source`.
        output: PNG file to write; None: none.
        two: Two image files to compare; None: none.
        split: A split expression.
        data_dir: Where prepared TFDS data lie.
        endpoint: Which features; maps are averaged over space.
        image_size: Side in pixels; None: what the model says of itself.
        transparent: What shows through transparent pixels; None: as the model was trained.
        image_column: A table's column of paths.
        label_column: A table's column of labels.
        most_pairs: Pairs at most, half of each kind.
        max_images: How many images are used, from the front of the split.
        batch_size: Images embedded at a time.
        seed: Draws the pairs and the untrained weights.

    Returns:
        Lines to print.

    Raises:
        UserError: Model, data, endpoint or numbers do not fit, or no two images are of one class.

    Example:
        >>> verify("runs/digits", "mnist_5k", "roc.png")
    """
    if output is not None:
        for images in folders_of(dataset, data_dir):
            check_file_apart(images, output, "--output")
    opened = open_encoder(model, endpoint, image_size)
    extract = opened.extract
    source = open_source(
        dataset,
        split,
        data_dir=data_dir,
        transparent=transparent or extract.transparent,
        image_column=image_column,
        label_column=label_column,
        white_level=extract.white_level,
    )
    if not source.labelled:
        raise UserError(
            f"Expected images with labels; received: '{dataset}', which has none. Sort its images "
            "into one folder per class, or name another --dataset."
        )
    given = {} if two is None else {path: _feature(extract, path, transparent) for path in two}
    gallery = embed(extract, source, batch_size, max_images)
    assert gallery.labels is not None
    kinds = {_ENCODER: gallery.features}
    untrained = _untrained(opened, seed)
    if untrained is not None:
        kinds[_UNTRAINED] = embed(untrained, source, batch_size, max_images).features
    kinds[_PIXELS] = raw_pixels(gallery.thumbnails)
    known = gallery.labels >= 0
    try:
        found = {
            name: _verified(features[known], gallery.labels[known], seed, most_pairs)
            for name, features in kinds.items()
        }
    except ValueError as error:
        raise UserError(
            f"{error} Pass another --split of '{dataset}', or more --max_images."
        ) from error
    lines = [*notices(source)]
    if untrained is None:
        lines.append("No untrained encoder beside it: nothing says how this one was built.")
    lines += _table(found, int(known.sum()), f"{dataset}, {split}")
    threshold = found[_ENCODER].scores["threshold"]
    if two is not None:
        cosine = _cosine(*(given[path] for path in two))
        verdict = "the same" if cosine >= threshold else "different"
        lines.append(
            f"{two[0]} and {two[1]}: cosine {cosine:.3f}, {verdict} (threshold {threshold:.3f})."
        )
    if output is not None:
        save_picture(output, found)
        lines.append(f"Wrote {output}.")
    return lines


def _untrained(opened: OpenedEncoder, seed: int) -> Extractor | None:
    with isolated():
        return untrained_like(opened, seed)


def _verified(features: np.ndarray, labels: np.ndarray, seed: int, most: int) -> Verified:
    pairs = draw_pairs(features, labels, seed, most)
    return Verified(pairs, verification_scores(pairs))


def _table(found: Mapping[str, Verified], images: int, of: str) -> list[str]:
    pairs = found[_ENCODER].scores["pairs"]
    at = f"TAR@{FALSE_ACCEPT_RATE:.0%}"
    lines = [
        f"{pairs:,} pairs of {images:,} images of {of}, half of them of one class.",
        f"{'':<20} {'AUC':>7} {'EER':>7} {'accuracy':>9} {at:>7} {'threshold':>10}",
    ]
    for name, (_, scores) in found.items():
        lines.append(
            f"{name:<20} {scores['area_under_curve']:7.3f} {scores['equal_error_rate']:7.3f} "
            f"{scores['accuracy']:9.3f} {scores['true_accept_rate']:7.3f} "
            f"{scores['threshold']:10.3f}"
        )
    return lines


def _feature(extract: Extractor, path: str, transparent: str | None) -> np.ndarray:
    """Returns the features (d,) of one image file."""
    source = open_layout(
        lay_out_paths([path], path, 0.1, seed=0),
        path,
        "all",
        on_bad_image="fail",
        transparent=transparent or extract.transparent,
        white_level=extract.white_level,
    )
    return embed(extract, source, 1, 1).features[0]


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / max(lengths, np.finfo(np.float32).tiny))


def save_picture(path: str, found: Mapping[str, Verified]) -> None:
    """Draws the ROC curves, and how the encoder's cosines of same and different pairs lie.

    Args:
        path: PNG file; complete or absent at any moment.
        found: By the name of the features, the encoder's first.

    Raises:
        UserError: The file can't be written.
    """
    from matplotlib.figure import Figure  # pyplot would set a backend for the whole process

    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    curves, lying = figure.subplots(1, 2)
    for name, (pairs, scores) in found.items():
        label = (
            f"{name}: AUC {scores['area_under_curve']:.3f}, EER {scores['equal_error_rate']:.3f}"
        )
        curves.plot(*pairs.roc(), color=_COLOURS[name], label=label)
        error = scores["equal_error_rate"]
        curves.plot(error, 1 - error, "o", color=_COLOURS[name], markersize=5)
    curves.plot([0, 1], [1, 0], color="black", linewidth=0.6, linestyle=":")  # equal errors
    curves.set(
        xlabel="different pairs accepted",
        ylabel="same pairs accepted",
        xlim=(0, 1),
        ylim=(0, 1.005),
        aspect="equal",
        title="ROC; dots: equal error rate",
    )
    curves.legend(fontsize=8, loc="lower right")
    pairs, scores = found[_ENCODER]
    bins = np.linspace(pairs.cosine.min(), pairs.cosine.max(), _BINS)
    for same, colour in ((True, "tab:blue"), (False, "tab:red")):
        label = "same class" if same else "different classes"
        lying.hist(pairs.cosine[pairs.same == same], bins, color=colour, alpha=0.55, label=label)
    threshold = scores["threshold"]
    lying.axvline(threshold, color="black", linewidth=1, label=f"threshold {threshold:.3f}")
    lying.set(xlabel="cosine", ylabel="pairs", title=f"pairs by {_ENCODER}")
    lying.legend(fontsize=8, loc="upper left")
    save_figure(figure, path)
