"""Gradient caching: the gradient of a large batch in little memory, one micro-batch at a time.

1. Embed the batch in micro-batches and keep only the embeddings, no activations.
2. Compute the loss of all embeddings, of all replicas, and its gradient with respect to them.
3. Embed each micro-batch again, now with a tape, and backpropagate its embeddings' gradient.

The sum over step 3 is the gradient of the whole batch, exactly where an image's embedding does not
depend on the other images. Batch norm uses the statistics of a micro-batch on its replica. Dropout
in an encoder is the same in both passes under Keras 3, where the layers' random state is among the
variables that are restored in between; under Keras 2 it differs. The embeddings of `SimCLR` are the
encoder's features: heads and loss see the whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import tensorflow as tf
from absl import logging
from tensorflow import keras

from simclr_tf.augment.layer import SimCLRAugment
from simclr_tf.compat import KERAS_3, random_layers
from simclr_tf.errors import UserError
from simclr_tf.models.blocks import local_batch_statistics
from simclr_tf.training.structures import joined
from simclr_tf.training.view_maker import ViewMaker
from simclr_tf.typing import Logs, Variables

Embed = Callable[[Any], tf.Tensor]
State: TypeAlias = "list[tf.Tensor | tf.TensorArray]"
"""What a loop carries from one micro-batch to the next."""


class FeatureMaker(Protocol):
    """From views to features: an encoder, or several that act as one.

    Attributes:
        output_shape: (None, d), whose last is known.
        trainable_variables: Its own.
        non_trainable_variables: What a pass in training may change.
    """

    @property
    def output_shape(self) -> Any: ...

    @property
    def trainable_variables(self) -> Variables: ...

    @property
    def non_trainable_variables(self) -> Variables: ...

    def __call__(self, views: Any, training: bool) -> tf.Tensor: ...


class MicroBatches:
    """A replica's batch, cut into micro-batches whose views are the same each time they are made.

    The random parameters of the views are drawn once, for the whole batch; only one micro-batch's
    views exist at a time. With an augmentation that cannot be split into drawing and applying, the
    views of the whole batch are made once and kept.

    Args:
        parts: Tensors, or nested structures of them, with N rows each; or with 2N, those of first
            views before those of second views.
        make_views: From one micro-batch's rows of each part to (2m, h, w, c), or a structure of
            such rows: m first views, then m second views.
        doubled: For each of `parts`, whether it has 2N rows.
        images: N; a tensor where it is not known before the step.
        size: m, images in a micro-batch.

    Raises:
        UserError: m does not divide N.
    """

    def __init__(
        self,
        parts: Sequence[tf.Tensor | Mapping[str, tf.Tensor]],
        make_views: Callable[..., tf.Tensor],
        doubled: Sequence[bool],
        images: int | tf.Tensor,
        size: int,
    ) -> None:
        if isinstance(images, int):
            check_micro_batch_size(images, size)
            self.count: int | tf.Tensor = images // size
        else:
            fits = tf.debugging.Assert(
                tf.equal(images % size, 0),
                [
                    f"Expected batches that micro_batch_size={size} divides; received images:",
                    images,
                    "Pass drop_remainder=True where the data set is batched.",
                ],
            )
            with tf.control_dependencies([fits]):
                self.count = images // size
        self.size = size
        self._make_views = make_views
        self._parts = [
            tf.nest.map_structure(self.split_pairs if twice else self._split, part)
            for part, twice in zip(parts, doubled, strict=True)
        ]

    def views(self, index: tf.Tensor) -> Any:
        """Returns the views of one micro-batch, (2m, h, w, c), or a structure of such rows."""
        # A slice, since gathering uint8 has no GPU kernel: the whole batch would go to the host.
        return self._make_views(
            *(tf.nest.map_structure(lambda x: x[index], part) for part in self._parts)
        )

    def _split(self, rows: tf.Tensor) -> tf.Tensor:
        """Reshapes (N, ...) to (count, m, ...)."""
        return tf.reshape(rows, [self.count, self.size, *_rest(rows)])

    def split_pairs(self, rows: tf.Tensor) -> tf.Tensor:
        """Reshapes (2N, ...) to (count, 2m, ...), in both first views before second views."""
        pairs = tf.reshape(rows, [2, self.count, self.size, *_rest(rows)])
        return tf.reshape(_swap(pairs), [self.count, 2 * self.size, *_rest(rows)])

    def join_embeddings(self, blocks: tf.Tensor) -> tf.Tensor:
        """Reshapes (count, 2m, d) to (2N, d): the inverse of `split_pairs`."""
        width = blocks.shape[-1]
        pairs = tf.reshape(blocks, [self.count, 2, self.size, width])
        return tf.reshape(_swap(pairs), [2 * self.count * self.size, width])


def cut(
    inputs: Any,
    view_maker: ViewMaker | None,
    seed: tf.Tensor,
    size: int,
    are_views: bool,
    taken: Callable[[Any], Any],
) -> MicroBatches:
    """Cuts a replica's images into micro-batches.

    Args:
        inputs: Images or other inputs as `SimCLR` takes them, or the tuple (view1, view2).
        view_maker: The model's `ViewMaker`; None where inputs are views.
        seed: int32, shape (2,).
        size: m, images in a micro-batch.
        are_views: Whether inputs are the tuple.
        taken: From given views to what the encoder gets.

    Raises:
        UserError: m does not divide the number of images.
    """
    if are_views:
        views = joined(inputs)
        return MicroBatches([views], taken, [True], _half(views), size)
    assert view_maker is not None  # else `fit` has refused what are no views
    augment = view_maker.augment
    # A subclass that overrides `call` may do more than draw and apply.
    if isinstance(augment, SimCLRAugment) and type(augment).call is SimCLRAugment.call:
        images, params = augment.draw_for(inputs, seed, copies=2)

        def make_views(part: tf.Tensor, drawn: dict[str, tf.Tensor]) -> tf.Tensor:
            return augment.apply_copies(part, drawn, 2)

        count = tf.shape(images)[0] if images.shape[0] is None else images.shape[0]
        return MicroBatches([images, params], make_views, [False, True], count, size)
    views = view_maker(inputs, seed, copies=2)
    return MicroBatches([views], lambda part: part, [True], _half(views), size)


def _half(views: Any) -> int | tf.Tensor:
    rows = tf.nest.flatten(views)[0]
    return (tf.shape(rows)[0] if rows.shape[0] is None else rows.shape[0]) // 2


def check_micro_batch_size(images: int, size: int) -> None:
    """Raises a `UserError` unless `size` divides a replica's `images`."""
    if images % size:
        fitting = max(d for d in range(1, size + 1) if images % d == 0)
        raise UserError(
            f"Expected micro_batch_size to divide the {images} images of a replica; received: "
            f"{size}. Pass {fitting}."
        )


def warn_of_random_layers(encoder: keras.Model) -> None:
    """Warns where an encoder's two passes differ: Keras 2 draws dropout again in the second."""
    if KERAS_3:
        return
    drawing = [layer.name for layer in random_layers(encoder)]
    if drawing:
        logging.warning(
            "Gradient caching runs the encoder twice, and under Keras 2 its %d random layers (as "
            "%s) draw anew each time: the gradient is approximate. Use TensorFlow >= 2.16, or an "
            "encoder without dropout.",
            len(drawing),
            drawing[0],
        )


def gradients(
    micro_batches: MicroBatches,
    encoder: FeatureMaker,
    variables: Variables,
    loss_of: Callable[[tf.Tensor], tuple[tf.Tensor, Logs]],
) -> tuple[list[tf.Tensor | None], Logs]:
    """Returns the gradient for each variable, and what the loss says beside itself.

    Args:
        micro_batches: The batch.
        encoder: From views to features.
        variables: Variables to differentiate by, the encoder's and others that the loss uses.
        loss_of: From the features of the whole batch, float32 (2N, d), to the loss and its logs.
    """

    def encode(views: tf.Tensor) -> tf.Tensor:
        return tf.cast(encoder(views, training=True), tf.float32)

    with restored(encoder.non_trainable_variables):
        features = embed_all(micro_batches, encode, encoder.output_shape[-1])
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss, results = loss_of(features)
    of_features, *direct = tape.gradient(loss, [features, *variables])
    encoder_variables = encoder.trainable_variables
    pulled = pull_back(micro_batches, encode, of_features, encoder_variables)
    through = {id(v): g for v, g in zip(encoder_variables, pulled, strict=True)}
    found = []
    for variable, gradient in zip(variables, direct, strict=True):
        parts = [g for g in (gradient, through.get(id(variable))) if g is not None]
        found.append(tf.add_n(parts) if parts else None)
    return found, results


def embed_all(micro_batches: MicroBatches, embed: Embed, width: int) -> tf.Tensor:
    """Embeds a batch without keeping activations.

    Args:
        micro_batches: The batch.
        embed: From views (2m, h, w, c) to float32 (2m, width).
        width: Size of an embedding.

    Returns:
        (2N, width), first views before second views.
    """
    shape = [2 * micro_batches.size, width]
    array = tf.TensorArray(tf.float32, micro_batches.count, element_shape=shape)

    def body(index: tf.Tensor, written: tf.TensorArray) -> State:
        return [index + 1, written.write(index, embed(micro_batches.views(index)))]

    with local_batch_statistics():
        _, array = _loop(micro_batches, body, [array])
    return micro_batches.join_embeddings(array.stack())


def pull_back(
    micro_batches: MicroBatches,
    embed: Embed,
    gradient: tf.Tensor,
    variables: Variables,
) -> list[tf.Tensor]:
    """Returns the gradient for the variables, given that for all embeddings.

    Args:
        micro_batches: The batch.
        embed: As for `embed_all`.
        gradient: (2N, d), of the loss with respect to the embeddings.
        variables: Variables to differentiate by.

    Returns:
        A float32 sum over micro-batches for each variable; zero where `embed` does not use it.

    Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup" (arXiv 2101.06983), section 3.2.
    """
    shares = micro_batches.split_pairs(gradient)

    def body(index: tf.Tensor, *sums: tf.Tensor) -> State:
        views = micro_batches.views(index)
        with tf.GradientTape() as tape:
            embedding = embed(views)
        found = tape.gradient(
            embedding,
            variables,
            output_gradients=tf.gather(shares, index),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]
        return [index + 1, *(total + g for total, g in zip(sums, dense, strict=True))]

    zeros = [tf.zeros(variable.shape, tf.float32) for variable in variables]
    with local_batch_statistics():
        _, *sums = _loop(micro_batches, body, zeros)
    return sums


@contextlib.contextmanager
def restored(variables: Variables) -> Iterator[None]:
    """Restores variables at the end: of two passes that update them, only one may count."""
    before = [tf.identity(tf.convert_to_tensor(variable)) for variable in variables]
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def _loop(micro_batches: MicroBatches, body: Callable[..., State], state: State) -> State:
    """Runs one micro-batch after another: two at a time would need twice the memory."""
    return tf.while_loop(
        lambda index, *_: index < micro_batches.count,
        body,
        [tf.constant(0), *state],
        parallel_iterations=1,
    )


def _rest(rows: tf.Tensor) -> list[int | tf.Tensor]:
    """Returns the shape below the first axis, static where it is known."""
    dynamic = tf.shape(rows)
    return [dynamic[i] if n is None else n for i, n in enumerate(rows.shape) if i > 0]


def _swap(pairs: tf.Tensor) -> tf.Tensor:
    """Exchanges the first two axes."""
    return tf.transpose(pairs, [1, 0, *range(2, pairs.shape.rank)])
