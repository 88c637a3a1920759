"""The signatures of a SavedModel, for servers, command lines and `TFSMLayer`."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from simclr_tf.datasets.pipeline import evaluation_view
from simclr_tf.images.transparency_ops import decode_encoded
from simclr_tf.models.endpoints import POOLED
from tf_hub_export.input_contract import InputContract, assert_range

Endpoints = Callable[[tf.Tensor, bool], dict[str, tf.Tensor]]


def make_signatures(
    forward: Endpoints, contract: InputContract
) -> dict[str, tf.types.experimental.GenericFunction]:
    """Returns the signatures by name.

    | name | takes | gives |
    |---|---|---|
    | `serving_default` | `images` | every endpoint |
    | `features` | `images` | `features` (N, d) |
    | `features_training` | `images` | the same, batch norm in training mode |
    | `serving_bytes` | `image_bytes`: (N,) encoded JPEG or PNG | `features` (N, d) |

    Those that take `images` check that values lie in the contract's range. `serving_bytes` decodes,
    crops the centre and resizes as an evaluation does (at most 32 pixels: without crop); it exists
    for images of one or three channels. A PNG's opacity is treated as in training
    (`contract.transparent`), before resizing. TensorFlow's operations do not apply an EXIF
    orientation, decode no WebP, and ignore the transparent index of a GIF.

    Args:
        forward: `(images, training) -> {endpoint: tensor}`.
        contract: The images that it takes.

    Example:
        >>> tf.saved_model.save(module, path, signatures=make_signatures(forward, contract))
    """
    spec = tf.TensorSpec(contract.shape, tf.float32, "images")

    def features_of(images: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        # An identity, because the endpoint's tensor would keep its name.
        return {"features": tf.identity(forward(images, training)[POOLED], "features")}

    @tf.function(input_signature=[spec], autograph=False)
    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = assert_range(images, contract)
        return dict(forward(images, False))

    @tf.function(input_signature=[spec], autograph=False)
    def features(images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = assert_range(images, contract)
        return features_of(images, False)

    @tf.function(input_signature=[spec], autograph=False)
    def features_training(images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = assert_range(images, contract)
        return features_of(images, True)

    signatures = {
        "serving_default": serving_default,
        "features": features,
        "features_training": features_training,
    }
    if contract.image_size is None or contract.channels not in (1, 3):
        return signatures
    shape = [*contract.image_size, contract.channels]

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = decode_encoded(encoded, contract.channels, contract.transparent)
        return tf.ensure_shape(evaluation_view(image, shape[0], shape[1]), shape)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")], autograph=False)
    def serving_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        decoded = tf.TensorSpec(shape, tf.float32)
        images = tf.map_fn(decode, image_bytes, fn_output_signature=decoded)
        return features_of(images, False)

    return {**signatures, "serving_bytes": serving_bytes}
