"""From an image source to batches: order, decoding, common size, cache, sharding, prefetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from simclr_tf.datasets.cache import in_memory
from simclr_tf.datasets.canvas import host_size, squash
from simclr_tf.datasets.disk_cache import OnDisk, on_disk
from simclr_tf.datasets.shuffling import balanced_order
from simclr_tf.datasets.source import ImageSource, IndexedSource, Key
from simclr_tf.datasets.tuning import untuned
from simclr_tf.errors import UserError
from simclr_tf.images import geometry, pixel_values
from simclr_tf.typing import Batch

_EVALUATION_CROP = 0.875  # the release; none at or below 32 pixels
_UNCROPPED_SIZE = 32

Views: TypeAlias = "tf.Tensor | Sequence[tf.Tensor]"
HostTransform: TypeAlias = Callable[[tf.Tensor, tf.Tensor], Views]
"""(image uint8 or float32 (h, w, c), seed int32 (2,)) -> one view or two."""


def training_dataset(
    source: ImageSource,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    start_example: int = 0,
    cache: bool | str | OnDisk = False,
    shuffle: bool = True,
    shuffle_buffer_bytes: int = 1 << 30,
    host_transform: HostTransform | None = None,
    input_context: tf.distribute.InputContext | None = None,
    deterministic: bool = True,
    balance_classes: bool = False,
) -> tf.data.Dataset:
    """Returns endless training batches, a new order in each epoch, all of it fixed by the seed.

    Args:
        source: the images.
        batch_size: examples in a batch, over all replicas.
        image_size: side of the views in pixels.
        seed: draws the order of every epoch, and the seeds of `host_transform`.
        start_example: number of examples (over all workers) to pass over: the batches are those
            that an uninterrupted run has from there on. Costs no decoding.
        cache: decode everything once, now, and keep it (as the canvas where there is one). True or
            'memory': in memory, the whole set for every worker. 'disk', or an `OnDisk` that says
            where: in a file that later runs use too.
        shuffle: False keeps the source's order.
        shuffle_buffer_bytes: memory for undecoded records of sources that can only be read in
            sequence (TFDS, tf.data). Folders and images in memory need none.
        host_transform: makes the views on the host, from the decoded original: `fn(image, seed)`,
            `image` (h, w, c), `seed` int32 (2,), distinct for each example of each epoch.
        input_context: from `strategy.distribute_datasets_from_function`: this worker's share of
            the examples (each belongs to one worker), batches for one replica.
        deterministic: False yields elements as they become ready, not in the seed's order.
            `python -m simclr_tf.benchmark input` measures what that gains.
        balance_classes: draw each image anew, all classes being as frequent, instead of each once
            in an epoch; labelled sources of known length.

    Returns:
        Elements `(x, label)`, or `(x,)` without labels; `label` int64 (B,). `x` is
        - where all images have one size, at most `host_size(image_size)` a side: the images
          (B, h, w, c) themselves, uint8 (float32 in [0, 1] only if the source gives floats);
        - else `{'image': uint8 (B, K, K, c), 'size': int32 (B, 2)}` with K = `host_size`:
          squashed bicubically, antialiased, with the original (height, width);
        - with `host_transform`: what it returns, batched.

    Raises:
        UserError: the batch is larger than the data, does not divide among the replicas, or the
            cache does not fit in memory or on the disk.

    Example:
        >>> data = training_dataset(open_source("mnist_5k", "train"), batch_size=256,
        ...                         image_size=28, seed=0)
        >>> images, labels = next(iter(data))   # uint8 (256, 28, 28, 3), int64 (256,)
    """
    _require_batch(source, batch_size)
    local_batch = _local_batch(batch_size, input_context)
    side = host_size(image_size)
    fits = all(length is not None and length <= side for length in source.image_shape[:2])
    canvas = None if fits or host_transform is not None else side
    source = _kept(source, cache, canvas)

    labels = None
    if balance_classes:
        if not isinstance(source, IndexedSource):
            source = source.subset(np.arange(source.num_examples or 0))  # records by index
        labels = source.read_labels()
    data = _ordered_keys(source, seed, start_example, shuffle, shuffle_buffer_bytes, labels)
    if input_context is not None and input_context.num_input_pipelines > 1:
        data = data.shard(input_context.num_input_pipelines, input_context.input_pipeline_id)

    def load(position: tf.Tensor, key: Key) -> tuple[Batch | Views, ...]:
        # Twice the canvas leaves antialiasing something to do after a JPEG's reduced decoding.
        min_side = None if canvas is None else 2 * canvas
        example = source.decode(key, min_side=min_side, replace_bad=True)
        if host_transform is not None:
            # Decoded once for both views: decoding two crops separately takes 1.5 times as long
            # (measured on JPEG files of 375 x 500 pixels).
            x = host_transform(example["image"], _example_seed(seed, position))
            x = tuple(x) if isinstance(x, list) else x
        elif canvas is not None:
            x = {"image": squash(example["image"], canvas), "size": example["size"]}
        else:
            x = example["image"]
        return (x, example["label"]) if source.labelled else (x,)

    if source.decodes_batches and host_transform is None:
        # One gather a batch instead of one call an image.
        data = data.batch(local_batch, drop_remainder=True)
        data = data.map(load, tf.data.AUTOTUNE, deterministic=deterministic)
    else:
        data = data.map(load, tf.data.AUTOTUNE, deterministic=deterministic)
        data = data.batch(local_batch, drop_remainder=True)
    data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    data = _with_options(data, sharded=input_context is not None, deterministic=deterministic)
    return data.prefetch(tf.data.AUTOTUNE)


def _kept(source: ImageSource, cache: bool | str | OnDisk, canvas: int | None) -> ImageSource:
    """Returns a source whose images are decoded, where that is asked for."""
    if isinstance(cache, OnDisk) or cache == "disk":
        return on_disk(source, canvas, cache if isinstance(cache, OnDisk) else None)
    if isinstance(cache, str) and cache != "memory":
        raise UserError(
            f"Expected cache to be True, False, 'memory', 'disk' or an OnDisk; received: {cache!r}."
        )
    return in_memory(source, canvas) if cache else source


def evaluation_dataset(
    source: ImageSource, *, batch_size: int, image_size: int, cache: bool = False
) -> tf.data.Dataset:
    """Returns every image once, in a fixed order, as the release evaluates.

    Above 32 pixels: the central crop of 0.875, resized bicubically. At 32 and below: the image
    as it is, resized if it has another size (the release fails there); never cropped.

    Args:
        source: the images. Unreadable ones are left out.
        batch_size: examples in a batch; the last batch may be smaller.
        image_size: side of the result in pixels.
        cache: keep the decoded images in memory after the first pass.

    Returns:
        Elements `(image, label)`, or `(image,)` without labels: float32 (B, s, s, c) in [0, 1],
        int64 (B,).

    Example:
        >>> evaluation_dataset(open_source("mnist_5k", "test"), batch_size=256, image_size=28)
    """
    data = source.ordered_keys().map(
        lambda key: source.decode(key), tf.data.AUTOTUNE, deterministic=True
    )
    data = data.filter(lambda example: example["ok"])
    if cache:
        data = data.cache()

    def finish(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        image = evaluation_view(example["image"], image_size, image_size)
        return (image, example["label"]) if source.labelled else (image,)

    data = data.map(finish, tf.data.AUTOTUNE, deterministic=True).batch(batch_size)
    return _with_options(data, sharded=False).prefetch(tf.data.AUTOTUNE)


def _ordered_keys(
    source: ImageSource,
    seed: int,
    start: int,
    shuffle: bool,
    buffer_bytes: int,
    labels: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Returns endless (position in the run, key), from position `start` on.

    With labels, (N,) of an `IndexedSource`, classes are equally frequent.
    """
    # The order is a function of the epoch's number, so that a resumed run can start anywhere.
    length = source.num_examples
    epoch, offset = divmod(start, length) if length else (0, start)

    def keys_of(number: tf.Tensor) -> tf.data.Dataset:
        if labels is not None:
            return tf.data.Dataset.from_tensor_slices(balanced_order(labels, seed, number))
        return (
            source.shuffled_keys(number, seed, buffer_bytes) if shuffle else source.ordered_keys()
        )

    keys = tf.data.Dataset.range(epoch, tf.int64.max).flat_map(keys_of)
    return keys.skip(offset).enumerate(start)


def _example_seed(seed: int, position: tf.Tensor) -> tf.Tensor:
    """Returns a stateless seed, int32 (2,), distinct for every example of every epoch."""
    position = tf.cast(position, tf.int64)
    wraps, low = position // 2**31, position % 2**31  # 2**31 examples: 1,676 epochs of ImageNet
    return tf.cast(tf.stack([(seed % 2**31 + wraps) % 2**31, low]), tf.int32)


def evaluation_view(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns what an evaluation sees of an image: centre crop (above 32 pixels) and resize.

    Args:
        image: (h, w, c), uint8, uint16 or float in [0, 1].
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        float32 (height, width, c) in [0, 1].

    Source: the release's evaluation preprocessing; resized without crop at or below 32 pixels.

    Example:
        >>> evaluation_view(tf.zeros([300, 200, 3]), 112, 112).shape
        TensorShape([112, 112, 3])
    """
    # Checked before clipping, which would turn floats in 0..255 white.
    image = pixel_values.checked(image)
    if max(height, width) > _UNCROPPED_SIZE:
        return geometry.central_crop_and_resize(image, height, width, _EVALUATION_CROP)
    image = geometry.to_float(image)
    if image.shape[:2] != (height, width):
        image = tf.image.resize(image, (height, width), method="bicubic", antialias=True)
    return geometry.clip(image)


def _require_batch(source: ImageSource, batch_size: int) -> None:
    if source.num_examples is not None and batch_size > source.num_examples:
        raise UserError(
            f"Expected a batch size of at most {source.num_examples}, the number of images in "
            f"split {source.split} of '{source.name}'; received: {batch_size}. "
            "Pass a smaller --train_batch_size."
        )


def _local_batch(batch_size: int, context: tf.distribute.InputContext | None) -> int:
    if context is None:
        return batch_size
    replicas = context.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"Expected a batch size that {replicas} replicas can share equally; "
            f"received: {batch_size}. Pass --train_batch_size={batch_size // replicas * replicas}."
        )
    return context.get_per_replica_batch_size(batch_size)


def _with_options(
    data: tf.data.Dataset, *, sharded: bool, deterministic: bool = True
) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = deterministic
    # There are no file names in the graph, so TensorFlow can only shard by element. It must not do
    # so where this worker reads only its share already.
    policy = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policy.OFF if sharded else policy.DATA
    return untuned(data.with_options(options))
