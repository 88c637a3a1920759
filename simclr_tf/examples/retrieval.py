"""Retrieval: nearest neighbours by the cosine of features, a score, a picture."""

from __future__ import annotations

import numpy as np

from simclr_tf.datasets import folders_of, open_source
from simclr_tf.datasets.apart import check_file_apart
from simclr_tf.errors import UserError
from simclr_tf.examples.gallery import Gallery, embed, notices, raw_pixels
from simclr_tf.examples.pictures import save_figure
from simclr_tf.features.extractor import load_extractor


def retrieve(
    saved_model: str,
    dataset: str,
    output: str,
    *,
    split: str = "train",
    data_dir: str | None = None,
    endpoint: str = "final_avg_pool",
    image_size: int | None = None,
    transparent: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    neighbours: int = 5,
    queries: int = 8,
    max_images: int = 10_000,
    batch_size: int = 64,
    seed: int = 0,
) -> list[str]:
    """Embeds a split, finds every image's neighbours and draws some: the whole command.

    Args:
        saved_model: An export, or the `model_dir` of a run.
        dataset: As for `open_source`.
        output: PNG file to write.
        split: A split expression.
        data_dir: Where prepared TFDS data lie.
        endpoint: Which features; maps are averaged over space.
        image_size: Side in pixels; None: that of the export.
        transparent: What shows through transparent pixels; None: as the export was trained.
        image_column: A table's column of paths.
        label_column: A table's column of labels.
        neighbours: k.
        queries: Rows of the picture.
        max_images: How many images are used, from the front of the split.
        batch_size: Images embedded at a time.
        seed: Draws the queries.

    Returns:
        Lines to print.

    Raises:
        UserError: Export, data, endpoint or numbers do not fit.

    Example:
        >>> retrieve("runs/digits", "mnist_5k", "retrieval.png", split="test")
    """
    for images in folders_of(dataset, data_dir):
        check_file_apart(images, output, "--output")
    extract = load_extractor(saved_model, endpoint, image_size)
    source = open_source(
        dataset,
        split,
        data_dir=data_dir,
        transparent=transparent or extract.transparent,
        image_column=image_column,
        label_column=label_column,
        white_level=extract.white_level,
    )
    known = max_images if source.num_examples is None else min(max_images, source.num_examples)
    _check_neighbours(neighbours, known)  # before work begins
    gallery = embed(extract, source, batch_size, max_images)
    count = len(gallery.features)
    _check_neighbours(neighbours, count)  # some images may have been broken
    found = nearest(gallery.features, neighbours)
    lines = notices(source)
    if gallery.labels is not None:
        raw = nearest(raw_pixels(gallery.thumbnails), neighbours)
        lines.append(
            f"precision@{neighbours} over {count} images: "
            f"{precision_at_k(found, gallery.labels):.3f} (raw pixels: "
            f"{precision_at_k(raw, gallery.labels):.3f})."
        )
    rows = np.sort(np.random.RandomState(seed).permutation(count)[:queries])
    save_picture(output, gallery, rows, found[rows], source.class_names)
    return [*lines, f"Wrote {output}: {len(rows)} queries and their nearest images."]


def _check_neighbours(neighbours: int, count: int) -> None:
    if neighbours >= count:
        raise UserError(
            f"Expected fewer neighbours than the {count} images; received: {neighbours}. "
            "Pass a smaller --neighbours."
        )


def nearest(features: np.ndarray, count: int) -> np.ndarray:
    """Returns the positions of each row's nearest other rows, by cosine, nearest first.

    Args:
        features: (N, d).
        count: k, below N.

    Returns:
        int64 (N, k).

    Example:
        >>> nearest(np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]), 1)[0]
        array([1])
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
    return search.fit(features).kneighbors(return_distance=False)


def precision_at_k(neighbours: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean share of neighbours that are of the query's class.

    Args:
        neighbours: int (N, k), positions.
        labels: (N,).

    Returns:
        In [0, 1].

    Example:
        >>> precision_at_k(np.array([[1, 2]]), np.array([3, 3, 5]))
        0.5
    """
    return float(np.mean(labels[neighbours] == labels[: len(neighbours), None]))


def save_picture(
    path: str,
    gallery: Gallery,
    queries: np.ndarray,
    neighbours: np.ndarray,
    class_names: list[str] | None = None,
) -> None:
    """Draws queries, a row each, with their neighbours beside them; other classes are framed red.

    Args:
        path: PNG file; complete or absent at any moment.
        gallery: The images.
        queries: int (Q,), positions.
        neighbours: int (Q, k), positions.
        class_names: Names by class id.

    Raises:
        UserError: The file can't be written.
    """
    from matplotlib.figure import Figure  # pyplot would set a backend for the whole process

    rows, columns = len(queries), 1 + neighbours.shape[1]
    figure = Figure(figsize=(1.1 * columns, 1.25 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, (query, found) in enumerate(zip(queries, neighbours, strict=True)):
        for column, position in enumerate((query, *found)):
            axis = axes[row, column]
            image = gallery.thumbnails[position]
            axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray")
            axis.set_xticks([])
            axis.set_yticks([])
            labels = gallery.labels
            if labels is not None:
                label = labels[position]
                axis.set_xlabel(class_names[label] if class_names else str(label), fontsize=7)
            wrong = labels is not None and labels[position] != labels[query]
            for spine in axis.spines.values():
                spine.set(color="red" if wrong else "black", linewidth=2 if wrong else 0.5)
            if row == 0:
                axis.set_title("query" if column == 0 else str(column), fontsize=8)
    save_figure(figure, path)
