"""The SGD probe on a source of images: its split for validation, its views, its scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.datasets import ImageSource
from simclr_tf.datasets.pipeline import training_dataset
from simclr_tf.errors import UserError
from simclr_tf.evaluation.linear import validation_part
from simclr_tf.evaluation.protocols import FeatureSplit
from simclr_tf.evaluation.scores import classification_scores
from simclr_tf.evaluation.sgd_probe import LEARNING_RATE, sgd_probe
from simclr_tf.reports.image_features import embed
from simclr_tf.reports.request import EvaluationRequest
from simclr_tf.typing import Features, Json
from tf_hub_export.extractors import OpenedEncoder


def probe_images(
    opened: OpenedEncoder, train: ImageSource, test: FeatureSplit, request: EvaluationRequest
) -> Json:
    """Trains the SGD probe on a source and scores it on test features.

    Args:
        opened: The encoder.
        train: Labelled images; a fifth chooses the learning rate.
        test: Features of the test images.
        request: Batch, epochs and seed.

    Returns:
        Settings and scores of the chosen head, and the top-1 of each; or `skipped`: why.
    """
    known = test.known()
    if not train.labelled or not len(known.features):
        return {"skipped": "no labels"}
    labels = train.read_labels()
    whose = np.flatnonzero(labels >= 0)  # -1: not known
    if len(np.unique(labels[whose])) < 2:
        return {"skipped": "the training images are not of two classes"}
    fit, held = (whose[part] for part in validation_part(labels[whose], request.seed))
    try:
        fitted, validation = train.subset(fit), train.subset(held)
    except UserError as error:  # too many records of a TFDS data set to choose from
        return {"skipped": str(error)}
    count = len(fit)
    batch = min(request.sgd_batch_size, count)
    extract = opened.extract
    height, width = extract.image_size
    names = str(opened.settings.get("augmentations", "crop,flip")).split(",")
    # Where training left flips out (digits, letters) they would make other images of them.
    augmentations = [name for name in ("crop", "flip") if name in names]
    augment = SimCLRAugment((height, width), augmentations=augmentations, seed=request.seed)
    known_held = embed(validation, extract, request.batch_size, "validation part")
    assert known_held.labels is not None and known.labels is not None
    classes = int(max(labels.max(), known.labels.max())) + 1
    with _progress(request.sgd_epochs) as bar:
        probe = sgd_probe(
            lambda images: pool(extract.features(images)),
            training_dataset(
                fitted, batch_size=batch, image_size=max(height, width), seed=request.seed
            ),
            (known_held.features, known_held.labels),
            known.features,
            num_classes=classes,
            num_examples=count,
            batch_size=batch,
            view=augment,
            epochs=request.sgd_epochs,
            seed=request.seed,
            on_epoch=lambda epoch, loss: bar.update(epoch - bar.n),
        )
    rows = []
    for rate, accuracy, scores in zip(
        probe.learning_rates, probe.validation_accuracy, probe.class_scores, strict=True
    ):
        top_1 = classification_scores(known.labels, scores)["top_1"]
        rows.append({"learning_rate": rate, "validation_accuracy": accuracy, "top_1": top_1})
    settings = {
        "epochs": request.sgd_epochs,
        "batch_size": batch,
        "learning_rate": probe.learning_rates[probe.best],
        "release_learning_rate": LEARNING_RATE,
        "scaled_by": "batch / 256",
        "augmentations": ",".join(augmentations),
        "chosen_by": "a fifth of the training images, which are not trained on",
    }
    best = classification_scores(known.labels, probe.class_scores[probe.best])
    return {"settings": settings, **best, "heads": rows}


def pool(features: Features) -> Features:
    """Returns maps (N, h, w, d) averaged over space; vectors as they are."""
    return tf.reduce_mean(features, axis=(1, 2)) if len(features.shape) == 4 else features


def _progress(epochs: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=epochs, desc="SGD probe", unit=" epochs", delay=2, leave=False)
