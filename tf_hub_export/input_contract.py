"""The images that an exported module takes, checked by a helper and by the signatures."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.images import transparency
from simclr_tf.images.pixel_values import UNIT_RANGE, Range, check_values, checked
from simclr_tf.typing import Images


@dataclasses.dataclass(frozen=True)
class InputContract:
    """The images that a module takes.

    Attributes:
        shape: Shape of a batch; None where any size is taken.
        image_size: Height and width in pixels that the network was made for; encoded images are
            resized to it. None for inputs that are not two-dimensional images.
        transparent: What shows through transparent pixels of encoded images: white, black, keep
            or mean, as in training.
        value_range: Lowest and highest value; None: any.
    """

    shape: tuple[int | None, ...]
    image_size: tuple[int, int] | None
    transparent: str = transparency.DEFAULT
    value_range: Range | None = UNIT_RANGE

    @property
    def channels(self) -> int:
        """Size of the last axis."""
        return int(self.shape[-1] or 0)

    def describe(self) -> str:
        """Returns the contract in words."""
        colours = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels} channels")
        shape = ", ".join("any" if side is None else str(side) for side in self.shape)
        size = ""
        if self.image_size is not None:
            height, width = self.image_size
            others = "are" if None in self.shape[1:-1] else "are not"
            size = f"; made for {height} x {width} pixels, other sizes {others} taken"
        values = "any values"
        if self.value_range is not None:
            low, high = self.value_range
            values = f"values in [{low:g}, {high:g}]"
        return f"float32, {colours}, {values}, shape ({shape}){size}"


def input_contract(
    model: keras.Model,
    image_size: int | tuple[int, int] | None = None,
    transparent: str | None = None,
) -> InputContract:
    """Returns the contract of a `SimCLR` or `Classifier`.

    Args:
        model: The model.
        image_size: Side or (height, width) in pixels that it was trained with; None: that of its
            encoder where it is fixed, else of its augmentation, else 224 (32 with the small-image
            stem).
        transparent: What shows through transparent pixels; None: the default, white.

    Raises:
        UserError: The model takes no images.
    """
    if getattr(model, "input_kind", "images") != "images":
        raise UserError(
            f"Expected a model of images; received: a {type(model).__name__} with "
            f"input_kind={model.input_kind!r}. Keep it with model.save('model.keras'), or save "
            "its encoder with tf.saved_model.save(model.encoder, ...)."
        )
    transparent = transparent or transparency.DEFAULT
    transparency.check_transparent(transparent)
    shape = tuple(model.encoder.input_shape)
    value_range = getattr(model, "value_range", UNIT_RANGE)
    if len(shape) != 4:
        return InputContract(shape, None, transparent, value_range)
    sides = image_size or getattr(model.augment, "options", {}).get("image_size")
    if sides is None:
        first = next((w for w in model.encoder.weights if len(w.shape) == 4), None)
        is_ours = hasattr(model.encoder, "release_paths")
        sides = 32 if is_ours and first is not None and first.shape[0] == 3 else 224
    height, width = (sides, sides) if isinstance(sides, int) else sides
    size = (int(shape[1] or height), int(shape[2] or width))
    return InputContract(shape, size, transparent, value_range)


def check_images(
    images: Images, image_size: int | tuple[int, int] | None = None, channels: int = 3
) -> tf.Tensor:
    """Checks images against the contract of an exported module, which its `__call__` does not.

    Args:
        images: (N, height, width, channels), float, in [0, 1].
        image_size: Side or (height, width) that they must have; None: any.
        channels: Size of their last axis.

    Returns:
        The images as a float32 tensor.

    Raises:
        UserError: Another type, shape or range.

    Example:
        >>> features = module(check_images(images, 32))['final_avg_pool']
    """
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        raise UserError(
            f"Expected float images in [0, 1]; received: {images.dtype.name}. "
            "Cast them to float32 and divide them by 255."
        )
    if images.shape.rank != 4 or images.shape[-1] != channels:
        raise UserError(
            f"Expected images of shape (N, height, width, {channels}); "
            f"received: {images.shape}. Pass a batch, channels last."
        )
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if sides is not None and tuple(images.shape[1:3]) != tuple(sides):
        raise UserError(
            f"Expected images of {sides[0]} x {sides[1]} pixels; received: {images.shape[1]} x "
            f"{images.shape[2]}. Resize them."
        )
    if images.shape.num_elements():
        check_values(images)
    return tf.cast(images, tf.float32)


def assert_range(images: tf.Tensor, contract: InputContract) -> tf.Tensor:
    """Returns images, with an assertion in a graph that they lie in the contract's range."""
    return checked(images, contract.value_range)
