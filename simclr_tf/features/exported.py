"""An exported SavedModel as a frozen function: images in, named endpoints out."""

from __future__ import annotations

import os
import zlib
from typing import Any

import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.files.csv_files import is_number
from simclr_tf.files.json_files import read_json
from simclr_tf.files.load_failures import explain
from simclr_tf.images import transparency
from simclr_tf.images.pixel_values import check_values, to_float

_CARD = "model.json"
_LARGEST_SIDE = 1 << 16  # pixels


def find_export(path: str) -> str:
    """Returns the folder of a SavedModel: the path itself, or the newest in a run's `model_dir`.

    Args:
        path: A folder; `~` is the home folder.

    Raises:
        UserError: It is neither.

    Example:
        >>> find_export("runs/digits")
        'runs/digits/saved_model/1251'
    """
    path = os.path.expanduser(path)
    if _is_export(path):
        return path
    exports = os.path.join(path, "saved_model")
    names = os.listdir(exports) if os.path.isdir(exports) else []
    steps = [int(n) for n in names if is_number(n) and _is_export(os.path.join(exports, n))]
    if not steps:
        raise UserError(
            f"Expected a SavedModel, or a run's model_dir that holds one; received: {path!r}, "
            "which is neither. Export one with python -m tf_hub_export, or correct the path."
        )
    return os.path.join(exports, str(max(steps)))


def checksum(folder: str) -> int:
    """Returns a checksum of a SavedModel's files, without its card: it identifies the weights."""
    check = 0
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith((".json", ".md")):
                continue
            with open(os.path.join(base, name), "rb") as file:
                while piece := file.read(1 << 20):
                    check = zlib.crc32(piece, check)
    return check


def _is_export(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "saved_model.pb"))


class ExportedModel:
    """A SavedModel that maps images to named endpoints: ours, or one of the original release.

    Inference only: batch norm uses its moving statistics. Under a distribution strategy, load it in
    the strategy's scope.

    Args:
        path: As for `find_export`.

    Attributes:
        path: The SavedModel's folder.
        module: The loaded object.
        input_shape: (N, height, width, channels), None where any size is taken.
        image_size: (height, width) in pixels that the network was made for, or None where neither
            its card nor its input says so.
        transparent: what its training showed through transparent pixels: white, black, keep or
            mean. Exports of ours from before there was a choice kept the colours; for foreign
            ones white, the default, is assumed.

    Raises:
        UserError: There is nothing that can be read and called.

    Example:
        >>> ExportedModel("runs/digits")(images)["final_avg_pool"].shape
        TensorShape([8, 128])
    """

    def __init__(self, path: str) -> None:
        self.path = find_export(path)
        try:
            self.module = tf.saved_model.load(self.path)
        except Exception as error:  # whatever a damaged file makes TensorFlow raise
            failure = explain(error)
            raise _unreadable(self.path, failure.reason, failure.advice) from error
        if not callable(self.module):
            raise _unreadable(self.path, "it can't be called")
        self.input_shape = _input_shape(self.module.__call__)
        self.image_size = _image_size(self.path, self.input_shape)
        self.transparent = _transparent(self.path)
        self.white_level = _white_level(self.path)

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the endpoints, float32.

        Args:
            images: (N, height, width, channels), uint8, uint16 or float in [0, 1]; they are resized
                (bilinear) where the network was made for another size.

        Raises:
            UserError: Images of another type; outside of graphs, floats out of range too.
        """
        images = to_float(images)
        if tf.executing_eagerly():
            check_values(images)
        if self.image_size is not None and tuple(images.shape[1:3]) != self.image_size:
            images = tf.image.resize(images, self.image_size)
        outputs = self.module(images, trainable=False)
        if not isinstance(outputs, dict):
            raise _unreadable(self.path, "it gives no named endpoints")
        return {name: tf.cast(value, tf.float32) for name, value in outputs.items()}

    def endpoints(self, image_size: int) -> dict[str, tuple[int | None, ...]]:
        """Returns endpoint -> shape for a batch of images of one size.

        Args:
            image_size: Side in pixels.

        Raises:
            UserError: The module does not take such images.
        """
        shape = (None, image_size, image_size, self.input_shape[-1] or 3)
        call = tf.function(self.__call__, autograph=False)
        try:
            outputs = call.get_concrete_function(tf.TensorSpec(shape)).structured_outputs
        except (ValueError, TypeError, tf.errors.OpError) as error:
            reason = f"it takes images of shape {self.input_shape}, not {shape}"
            raise _unreadable(self.path, reason) from error
        return {name: tuple(value.shape) for name, value in outputs.items()}


def _input_shape(call: object) -> tuple[int | None, ...]:
    """Returns the shape of images that a restored function takes, if it was traced."""
    traced = getattr(call, "concrete_functions", None) or []
    for function in traced:
        for spec in tf.nest.flatten(function.structured_input_signature):
            if isinstance(spec, tf.TensorSpec) and spec.shape.rank:
                return tuple(spec.shape)
    return (None, None, None, 3)


def _image_size(path: str, shape: tuple[int | None, ...]) -> tuple[int, int] | None:
    if len(shape) != 4:  # vectors, or volumes
        return None
    sides: object = list(shape[1:3])
    if None in shape[1:3]:
        sides = _card_input(path).get("image_size") or sides
    if sides == [None, None] or (isinstance(sides, list) and None in sides):
        return None
    if not isinstance(sides, list) or [type(side) for side in sides] != [int, int]:
        raise _unreadable(path, f"its {_CARD} says image_size {sides!r}, not [height, width]")
    if not all(0 < side <= _LARGEST_SIDE for side in sides):
        raise _unreadable(path, f"its {_CARD} says image_size {sides!r}, which no image has")
    return sides[0], sides[1]


def _transparent(path: str) -> str:
    if not os.path.isfile(os.path.join(path, _CARD)):
        return transparency.DEFAULT
    said = _card_input(path).get("transparent", transparency.BEFORE)
    if not isinstance(said, str):
        raise _unreadable(path, f"its {_CARD} says transparent {said!r}, no name")
    transparency.check_transparent(said)
    return said


def _white_level(path: str) -> int:
    card = os.path.join(path, _CARD)
    settings = read_json(card).get("settings") if os.path.isfile(card) else None
    said = settings.get("white_level", 0) if isinstance(settings, dict) else 0
    return said if isinstance(said, int) and 0 <= said < 1 << 16 else 0


def _card_input(path: str) -> dict[str, Any]:
    """Returns what an export's card says of its input; an empty dict without a card."""
    card = os.path.join(path, _CARD)
    if not os.path.isfile(card):
        return {}
    try:
        given = read_json(card).get("input")
    except UserError as error:
        raise _unreadable(path, f"its {_CARD} is damaged ({error})") from error
    if not isinstance(given, dict):
        raise _unreadable(path, f"its {_CARD} is damaged (no input in it)")
    return given


def _unreadable(path: str, reason: str, advice: str = "") -> UserError:
    line = " ".join(reason.split())[:300]
    return UserError(
        f"Expected a SavedModel from images to named endpoints in {path}; received: {line}. "
        f"{advice or 'Export it again with python -m tf_hub_export.'}"
    )
