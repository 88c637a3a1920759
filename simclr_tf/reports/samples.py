"""Images of a report: their places on a map of the features, and their nearest neighbours."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import numpy as np

from simclr_tf.datasets import open_source
from simclr_tf.evaluation.neighbours import nearest_by_cosine, unit_rows
from simclr_tf.features.extractor import as_vectors, feature_batches
from simclr_tf.reports.image_features import drawn
from simclr_tf.typing import Json
from tf_hub_export.extractors import open_encoder

MOST_IMAGES = 1000
_THUMBNAIL = 32  # pixels
_QUERIES, _NEIGHBOURS = 8, 6
_SOURCE_SETTINGS = (
    "data_dir", "eval_fraction", "on_bad_image", "transparent", "image_column", "label_column",
    "white_level",
)  # fmt: skip


class Samples(NamedTuple):
    """Some test images of a run.

    Attributes:
        pictures: PNG of each as a data URI.
        labels: Name of each one's class; None without labels.
        names: File, or number in the split, of each.
        places: float (N, 2), where each stands on the map; None of fewer than 5 images.
        queries: Positions of images whose neighbours are shown.
        neighbours: Positions of the nearest others of each query.
        split: The split they are of.
    """

    pictures: list[str]
    labels: list[str] | None
    names: list[str]
    places: np.ndarray | None
    queries: list[int]
    neighbours: list[list[int]]
    split: str


def read_samples(folder: str, settings: Json, seed: int = 0) -> Samples:
    """Embeds some test images of a run with its newest weights.

    Args:
        folder: The run's `model_dir`.
        settings: Its settings.
        seed: Draws the images, the queries and the map's start.

    Raises:
        UserError: The run has no checkpoint, or its images are gone.
    """
    opened = open_encoder(folder)
    given = {n: settings[n] for n in _SOURCE_SETTINGS if settings.get(n) is not None}
    split = settings.get("eval_split") or "test"
    source = open_source(str(settings["dataset"]), split, **given)
    chosen = drawn(source.num_examples or 0, MOST_IMAGES, seed)
    some = source if chosen is None else source.subset(chosen)
    parts = list(_batches(some, opened.extract))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    features = as_vectors(joined["features"])
    names = source.class_names
    labels = None
    if "label" in joined:
        known = joined["label"].tolist()
        labels = ["no label" if i < 0 else names[i] if names else str(i) for i in known]
    queries, neighbours = _neighbours(features, joined.get("label"), seed)
    files = some.file_names()
    return Samples(
        pictures=[_png(picture) for picture in joined["thumbnail"]],
        labels=labels,
        names=[
            files[i] if files is not None else f"number {i if chosen is None else chosen[i]}"
            for i in joined["index"].tolist()
        ],
        places=_map(features, seed),
        queries=queries,
        neighbours=neighbours,
        split=split,
    )


def _batches(source: Any, extract: Any) -> Any:
    with source.user_errors():
        for columns, _ in feature_batches(source, extract, 64, thumbnail=_THUMBNAIL):
            yield columns


def _map(features: np.ndarray, seed: int) -> np.ndarray | None:
    """Returns places by t-SNE of the cosines, in [0, 1]."""
    from sklearn.manifold import TSNE

    if len(features) < 5:
        return None
    perplexity = min(30.0, (len(features) - 1) / 3)
    mapper = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    rows = unit_rows(features)
    if np.ptp(rows, axis=0).max() == 0:  # all one point
        return np.full((len(rows), 2), 0.5)
    places = mapper.fit_transform(rows)
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, 1e-12)


def _neighbours(
    features: np.ndarray, labels: np.ndarray | None, seed: int
) -> tuple[list[int], list[list[int]]]:
    """Returns queries, of as many classes as possible, and the nearest others of each."""
    count = min(_NEIGHBOURS, len(features) - 1)
    if count < 1:
        return [], []
    order = np.random.default_rng(seed).permutation(len(features))
    if labels is not None:  # one of each class first
        rank = np.zeros(len(order), int)
        seen: dict[int, int] = {}
        for place, position in enumerate(order):
            rank[place] = seen.setdefault(int(labels[position]), 0)
            seen[int(labels[position])] += 1
        order = order[np.argsort(rank, kind="stable")]
    queries = sorted(order[:_QUERIES].tolist())
    _, nearest = nearest_by_cosine(features, features[queries], count + 1)
    found = [
        [i for i in row if i != q][:count] for q, row in zip(queries, nearest.tolist(), strict=True)
    ]
    return queries, found


def _png(picture: np.ndarray) -> str:
    from PIL import Image

    kept = picture[..., 0] if picture.shape[-1] == 1 or _is_grey(picture) else picture
    buffer = io.BytesIO()
    Image.fromarray(kept).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _is_grey(picture: np.ndarray) -> bool:
    return bool((picture == picture[..., :1]).all())
