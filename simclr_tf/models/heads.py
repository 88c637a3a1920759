"""Projection head and linear head."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import register
from simclr_tf.errors import UserError
from simclr_tf.models.blocks import BATCH_NORM_EPSILON, BatchNorm, Shape
from simclr_tf.typing import KerasConfig

MODES = ("none", "linear", "nonlinear")


@register
class ProjectionHead(keras.layers.Layer):
    """Maps features h to the vectors z = g(h) that the contrastive loss compares.

    Every layer is a bias-free dense layer followed by batch normalisation; all but the last add an
    offset and a ReLU.

    Args:
        mode: `nonlinear` (num_layers layers), `linear` (one layer) or `none` (z = h).
        out_dim: Size of z.
        num_layers: Layers of the nonlinear head: 2 in SimCLRv1, 3 in SimCLRv2.
        batch_norm_momentum: Decay of the moving statistics.
        synchronized: Whether batch norm statistics are taken over all replicas.
        hidden_dim: Width of all layers but the last; None: that of the features, as in the release.
        **kwargs: As for `keras.layers.Layer`.

    Input: (N, d) features. Output: (N, out_dim), or (N, d) with mode `none`.

    Raises:
        UserError: Unknown mode, or a size below 1.

    Source: SimCLR section 2.1 and figure 8; SimCLRv2 section 2.

    Example:
        >>> ProjectionHead(out_dim=128)(tf.ones([4, 512])).shape
        TensorShape([4, 128])
    """

    def __init__(
        self,
        mode: str = "nonlinear",
        out_dim: int = 128,
        num_layers: int = 3,
        batch_norm_momentum: float = 0.9,
        synchronized: bool = True,
        name: str = "projection_head",
        hidden_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if mode not in MODES:
            raise UserError(f"Expected a projection head mode among {MODES}; received: {mode!r}.")
        if out_dim < 1 or num_layers < 1:
            raise UserError(
                "Expected out_dim and num_layers of at least 1; "
                f"received: out_dim={out_dim}, num_layers={num_layers}."
            )
        if hidden_dim is not None and hidden_dim < 1:
            raise UserError(f"Expected hidden_dim of at least 1, or None; received: {hidden_dim}.")
        self.mode = mode
        self.hidden_dim = hidden_dim
        self.out_dim = out_dim
        self.num_layers = num_layers
        self.batch_norm_momentum = batch_norm_momentum
        self.synchronized = synchronized
        self.dense_layers: list[keras.layers.Dense] = []
        self.batch_norms: list[BatchNorm] = []

    @property
    def depth(self) -> int:
        """Number of layers: 0, 1 or num_layers."""
        return {"none": 0, "linear": 1, "nonlinear": self.num_layers}[self.mode]

    def build(self, input_shape: Shape) -> None:
        width = int(input_shape[-1])
        for index in range(self.depth):
            last = index == self.depth - 1
            units = self.out_dim if last else self.hidden_dim or width
            dense = keras.layers.Dense(
                units,
                use_bias=False,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                name=f"dense{index}",
            )
            batch_norm = BatchNorm(
                momentum=self.batch_norm_momentum,
                synchronized=self.synchronized,
                center=not last,
                name=f"bn{index}",
            )
            dense.build((None, width))
            batch_norm.build((None, units))
            width = units
            self.dense_layers.append(dense)
            self.batch_norms.append(batch_norm)
        self.built = True

    def hidden_layers(self, features: tf.Tensor, training: bool | None = None) -> list[tf.Tensor]:
        """Returns [h, hidden vectors after each layer, ..., z].

        Args:
            features: (N, d).
            training: Whether batch norm uses and moves batch statistics.

        Returns:
            depth + 1 tensors. Fine-tuning from the k-th layer reads entry k
            (SimCLRv2 section 2, `ft_proj_selector`).
        """
        outputs = [features]
        for index, (dense, norm) in enumerate(
            zip(self.dense_layers, self.batch_norms, strict=True)
        ):
            hidden = norm(dense(outputs[-1]), training=training)
            outputs.append(hidden if index == self.depth - 1 else tf.nn.relu(hidden))
        return outputs

    def selected_width(self, input_width: int, selector: int) -> int:
        """Returns the size of entry `selector` of `hidden_layers`.

        Raises:
            UserError: No such entry.
        """
        if not -(self.depth + 1) <= selector <= self.depth:
            raise UserError(
                f"Expected a projection selector in [{-self.depth - 1}, {self.depth}] for a "
                f"projection head of {self.depth} layers; received: {selector}."
            )
        place = selector % (self.depth + 1)
        if place == 0:
            return input_width
        return self.out_dim if place == self.depth else self.hidden_dim or input_width

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.hidden_layers(inputs, training)[-1]

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, int]:
        return (input_shape[0], self.out_dim if self.depth else input_shape[-1])

    def get_config(self) -> KerasConfig:
        return {
            **super().get_config(),
            "mode": self.mode,
            "out_dim": self.out_dim,
            "num_layers": self.num_layers,
            "batch_norm_momentum": self.batch_norm_momentum,
            "synchronized": self.synchronized,
            "hidden_dim": self.hidden_dim,
        }


@register
class LinearHead(keras.layers.Dense):
    """The linear classifier on the features, optionally behind batch normalisation.

    The batch norm has neither scale nor offset: classifying features that are centred and of unit
    variance is still linear in the features, and learns in a fraction of the steps.

    Args:
        units: Classes, at least 1.
        batch_norm: Whether the features are normalised first.
        batch_norm_momentum: Decay of its moving statistics.
        synchronized: Whether its statistics are taken over all replicas.
        **kwargs: As for `keras.layers.Dense`.

    Input: (N, d) features. Output: (N, units) logits.

    Source: SimCLR section 4.2 ("linear evaluation"); batch norm before a linear classifier: MAE
    (arXiv:2111.06377) appendix A.1.

    Example:
        >>> LinearHead(10, batch_norm=True)(tf.ones([4, 512]), training=True).shape
        TensorShape([4, 10])
    """

    def __init__(
        self,
        units: int,
        batch_norm: bool = False,
        batch_norm_momentum: float = 0.9,
        synchronized: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, **kwargs)
        self.batch_norm_momentum = batch_norm_momentum
        self.synchronized = synchronized
        self.batch_norm = None
        if batch_norm:
            self.batch_norm = BatchNorm(
                momentum=batch_norm_momentum,
                synchronized=synchronized,
                center=False,
                scale=False,
                dtype=kwargs.get("dtype"),
                name="bn",
            )

    def build(self, input_shape: Shape) -> None:
        if self.batch_norm is not None:
            self.batch_norm.build(tuple(input_shape))
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if self.batch_norm is not None:
            inputs = self.batch_norm(inputs, training=training)
        return super().call(inputs)

    def get_config(self) -> KerasConfig:
        return {
            **super().get_config(),
            "batch_norm": self.batch_norm is not None,
            "batch_norm_momentum": self.batch_norm_momentum,
            "synchronized": self.synchronized,
        }


def linear_head(
    num_classes: int,
    name: str = "head_supervised",
    batch_norm: bool = False,
    batch_norm_momentum: float = 0.9,
    synchronized: bool = True,
) -> LinearHead:
    """Returns the linear classifier that reads the features.

    Args:
        num_classes: Number of classes, at least 1.
        name: Name of the layer.
        batch_norm: Whether the features are normalised first; see `LinearHead`.
        batch_norm_momentum: Decay of its moving statistics.
        synchronized: Whether its statistics are taken over all replicas.

    Returns:
        A layer of float32 logits, (N, d) to (N, num_classes).

    Raises:
        UserError: num_classes below 1.

    Source: SimCLR section 4.2 ("linear evaluation"); initialised as the release does.

    Example:
        >>> linear_head(10)(tf.ones([4, 512])).shape
        TensorShape([4, 10])
    """
    if num_classes < 1:
        raise UserError(f"Expected num_classes of at least 1; received: {num_classes}.")
    return LinearHead(
        num_classes,
        batch_norm=batch_norm,
        batch_norm_momentum=batch_norm_momentum,
        synchronized=synchronized,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype="float32",  # logits enter a softmax: full precision under mixed precision too
        name=name,
    )


def without_batch_norm(
    kernel: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the plain linear head that equals one behind batch norm, in inference.

    Args:
        kernel: (d, num_classes), of the head behind batch norm.
        bias: (num_classes,).
        mean: (d,), batch norm's moving mean.
        variance: (d,), its moving variance.

    Returns:
        kernel and bias that give the same logits from the features themselves.

    Example:
        >>> kernel, bias = without_batch_norm(kernel, bias, mean, variance)
    """
    plain = kernel / np.sqrt(variance + BATCH_NORM_EPSILON)[:, np.newaxis]
    return plain, bias - mean @ plain
