"""What an evaluation is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from simclr_tf.evaluation.protocols import DEFAULT


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """What `evaluate_encoder` is asked for; None stands for what the model's own run says.

    Attributes:
        model: What `tf_hub_export.extractors.open_encoder` opens, or a file of features.
        test_features: File of features to score, with a file of features as `model`; None: a fifth
            of that file is held out.
        dataset: As for `open_source`.
        data_dir: Where prepared TFDS data lie.
        train_split: Images that classifiers are fitted to.
        test_split: Images that are scored.
        eval_fraction: Share of a folder that training held out.
        image_column: A table's column of paths.
        label_column: A table's column of labels.
        transparent: What shows through transparent pixels.
        endpoint: Which output of the model.
        image_size: Side in pixels.
        protocols: Names among `evaluation.protocols.PROTOCOLS`.
        baselines: Whether the untrained encoder and raw pixels stand beside it.
        supervised_dir: Folder of a supervised run of the same length, trained there if it is not
            yet, to stand beside the model; None: none.
        max_images: Most images of a split; more are left out by a draw. 0: all.
        batch_size: Images at a time.
        sgd_epochs: Length of `sgd_probe`.
        sgd_batch_size: Batch of `sgd_probe`.
        seed: Of every draw.
    """

    model: str
    test_features: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    eval_fraction: float | None = None
    image_column: str | None = None
    label_column: str | None = None
    transparent: str | None = None
    endpoint: str = "final_avg_pool"
    image_size: int | None = None
    protocols: Sequence[str] = DEFAULT
    baselines: bool = True
    supervised_dir: str | None = None
    max_images: int = 0
    batch_size: int = 64
    sgd_epochs: int = 90
    sgd_batch_size: int = 256
    seed: int = 0
