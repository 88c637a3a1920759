"""The batches on which a run trains and evaluates, and whose views it draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from simclr_tf.augment.layer import host_views
from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource
from simclr_tf.datasets.disk_cache import OnDisk
from simclr_tf.datasets.pipeline import HostTransform, evaluation_dataset, training_dataset
from simclr_tf.runs.building import view_options
from simclr_tf.runs.data import count_of
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.fit_data import checked_dataset
from simclr_tf.training.simclr import SimCLR

TrainingBatches: TypeAlias = "tf.data.Dataset | tf.distribute.DistributedDataset"
Inputs: TypeAlias = "tf.Tensor | dict[str, tf.Tensor] | tuple[tf.Tensor, ...]"
"""What a model gets of a batch: images, images on a canvas with their sizes, or views."""


def training_batches(
    config: Config,
    source: ImageSource,
    model: SimCLR | Classifier,
    strategy: tf.distribute.Strategy,
    first_step: int,
    say: Callable[[str], None],
) -> TrainingBatches:
    """Returns the batches from a step on, distributed where several replicas share them.

    Args:
        config: The settings.
        source: The images.
        model: The model to train on them; distributed batches are checked by its rules.
        strategy: The strategy that it is trained under.
        first_step: Steps that were taken before.
        say: Gets the lines about a file of decoded images.
    """
    on_disk = OnDisk(config.cache_dir, say, write=not config.dry_run)

    def dataset(context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        return training_dataset(
            source,
            batch_size=config.train_batch_size,
            image_size=config.image_size,
            seed=config.seed,
            start_example=first_step * config.train_batch_size,
            cache=on_disk if config.cache_dataset == "disk" else config.cache_dataset,
            host_transform=_host_transform(config),
            input_context=context,
            balance_classes=config.class_balance == "sample",
        )

    if strategy.num_replicas_in_sync == 1:
        return dataset()

    def checked(context: tf.distribute.InputContext) -> tf.data.Dataset:
        # `fit` checks the batches of a data set, but cannot look into a distributed one.
        return checked_dataset(dataset(context), model.rules("fit"))

    return strategy.distribute_datasets_from_function(checked)


def pictured_batch(config: Config, source: ImageSource, count: int) -> Inputs:
    """Returns the first images of training, at most `count`, as the model gets them."""
    dataset = training_dataset(
        source,
        batch_size=min(count, count_of(source)),
        image_size=config.image_size,
        seed=config.seed,
        host_transform=_host_transform(config),
    )
    batch = next(iter(dataset.take(1)))
    inputs = batch[0] if isinstance(batch, tuple) else batch
    return tf.nest.map_structure(lambda x: x[:count], inputs)


def evaluation_batches(
    config: Config, source: ImageSource, model: SimCLR | Classifier
) -> tf.data.Dataset:
    """Returns the batches of an evaluation, without labels if the model has no head for them."""
    dataset = evaluation_dataset(
        source, batch_size=config.eval_batch_size, image_size=config.image_size
    )
    if model.supervised_head is None and source.num_classes is not None:
        dataset = dataset.map(lambda images, labels: images)
    return dataset


def _host_transform(config: Config) -> HostTransform | None:
    """Returns what makes an image's views in the input pipeline; None if the model makes them."""
    if config.augment_on == "device":
        return None
    options = view_options(config)
    if config.train_mode != "pretrain":
        return lambda image, seed: host_views(image, seed, num_views=1, **options)[0]
    return lambda image, seed: host_views(image, seed, num_views=2, **options)
