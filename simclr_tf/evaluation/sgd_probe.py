"""The linear probe by SGD on augmented images, the encoder frozen; many learning rates at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.optim.schedules import WarmUpCosine, get_train_steps
from simclr_tf.typing import Features, Images

EPOCHS = 90
# The release's and lightly's: 0.1 * batch / 256. The others stand beside it, as in DINOv2.
LEARNING_RATE = 0.1
LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)


class SGDProbe(NamedTuple):
    """What `sgd_probe` returns; heads in the order of the learning rates.

    Attributes:
        learning_rates: Before the scaling by batch / 256.
        class_scores: (heads, M, classes) logits of the test images.
        validation_accuracy: In [0, 1], of each head.
        best: The head of largest validation accuracy; of equals the smallest rate.
    """

    learning_rates: list[float]
    class_scores: np.ndarray
    validation_accuracy: list[float]
    best: int


def sgd_probe(
    encoder: Callable[[Images], Features],
    train_batches: tf.data.Dataset,
    validation: tuple[np.ndarray, np.ndarray],
    test_features: np.ndarray,
    *,
    num_classes: int,
    num_examples: int,
    batch_size: int,
    view: Callable[..., tf.Tensor] | None = None,
    epochs: int = EPOCHS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    momentum: float = 0.9,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> SGDProbe:
    """Trains linear heads on the features of augmented images; the encoder is only called.

    Each head has its own learning rate, and they never meet: one pass over the data trains all of
    them, as if each were trained alone. Nesterov momentum, no weight decay, cosine decay to zero
    without warm-up, weights from zero. A validation part chooses the head.

    Args:
        encoder: Images (B, h, w, c) -> features (B, d), without state that changes.
        train_batches: Endless batches of (images, labels) of `batch_size`.
        validation: Features (V, d) of unaugmented images outside of `train_batches`, and labels.
        test_features: (M, d), of unaugmented images.
        num_classes: Number of classes.
        num_examples: Images in an epoch.
        batch_size: Of `train_batches`; learning rates are multiplied by a 256th of it.
        view: Called as `view(images, seed=(2,) int32)`, draws a view of each;
            None: no augmentation.
        epochs: 90 in the papers.
        learning_rates: Above 0; the release's is 0.1.
        momentum: In [0, 1).
        seed: Of the views.
        on_epoch: Called with the number of epochs done and the mean loss of the heads.

    Returns:
        An `SGDProbe`.

    Source: the release's linear evaluation (README: `--learning_rate=0.1`, 90 epochs, crop and
    flip); lightly's ImageNet benchmark; DINOv2's `eval/linear.py` for the parallel heads.

    Example:
        >>> probe = sgd_probe(encoder, batches, (features, labels), test_features, num_classes=10,
        ...                   num_examples=4000, batch_size=256)
        >>> probe.class_scores[probe.best].argmax(axis=1)
    """
    rates = tf.constant(learning_rates, tf.float32)
    steps = get_train_steps(num_examples, epochs, batch_size)
    width = int(test_features.shape[1])
    schedule = WarmUpCosine(
        1.0, batch_size=batch_size, num_examples=num_examples, train_steps=steps, warmup_epochs=0
    )
    kernels = tf.Variable(tf.zeros([len(rates), width, num_classes]), name="kernels")
    biases = tf.Variable(tf.zeros([len(rates), 1, num_classes]), name="biases")
    # Momentum is linear in the gradients: a head's gradient times its rate is its own optimizer.
    optimizer = keras.optimizers.SGD(schedule, momentum=momentum, nesterov=True)
    optimizer.build([kernels, biases])

    @tf.function(autograph=False, reduce_retracing=True)
    def train_step(inputs: Images, labels: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        if view is not None:
            inputs = view(inputs, seed=tf.stack([tf.constant(seed, tf.int32), step]))
        features = tf.stop_gradient(tf.cast(encoder(inputs), tf.float32))
        with tf.GradientTape() as tape:
            logits = tf.einsum("nd,kdc->knc", features, kernels) + biases
            target = tf.repeat(labels[None], len(learning_rates), axis=0)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
            loss = tf.reduce_mean(each, axis=1)
            total = tf.reduce_sum(loss)
        scale = rates[:, None, None]
        gradients = tape.gradient(total, [kernels, biases])
        optimizer.apply_gradients(
            zip([scale * g for g in gradients], [kernels, biases], strict=True)
        )
        return tf.reduce_mean(loss)

    losses: list[float] = []
    per_epoch = max(1, num_examples // batch_size)
    for step, (inputs, labels) in enumerate(train_batches.take(steps)):
        losses.append(float(train_step(inputs, labels, tf.constant(step, tf.int32))))
        if on_epoch is not None and ((step + 1) % per_epoch == 0 or step + 1 == steps):
            on_epoch((step + 1) // per_epoch, float(np.mean(losses)))
            losses = []
    held_features, held_labels = validation
    held = _logits(held_features, kernels, biases).argmax(axis=2)
    accuracy = [float(np.mean(row == held_labels)) for row in held]
    order = np.argsort(learning_rates, kind="stable")
    best = int(order[int(np.argmax(np.asarray(accuracy)[order]))])
    scores = _logits(test_features, kernels, biases)
    return SGDProbe(list(learning_rates), scores, accuracy, best)


def _logits(features: np.ndarray, kernels: tf.Variable, biases: tf.Variable) -> np.ndarray:
    """Returns (heads, N, classes), block by block."""
    weights, offsets = kernels.numpy(), biases.numpy()
    blocks = [
        np.einsum("nd,kdc->knc", features[i : i + 4096].astype(np.float32), weights) + offsets
        for i in range(0, len(features), 4096)
    ]
    return np.concatenate(blocks, axis=1)
