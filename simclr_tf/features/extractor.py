"""Features of every image of a source, batch by batch, from any function with endpoints."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from simclr_tf.datasets.canvas import to_uint8
from simclr_tf.datasets.pipeline import evaluation_view
from simclr_tf.datasets.source import ImageSource, Key
from simclr_tf.datasets.tuning import untuned
from simclr_tf.errors import UserError
from simclr_tf.features.exported import ExportedModel
from simclr_tf.files.load_failures import one_line
from simclr_tf.images import transparency
from simclr_tf.images.pixel_values import to_float
from simclr_tf.typing import Images


class Embeds(Protocol):
    """What gives features of images of one size: an `Extractor`, or what stands in for one."""

    image_size: tuple[int, int]
    shape: tuple[int, ...]

    def __call__(self, images: Images) -> np.ndarray: ...


class Extractor:
    """One endpoint of a model, as a function of images of one size.

    Args:
        call: float32 images (N, height, width, channels) in [0, 1] -> {endpoint: (N, ...)}.
        endpoint: The one that is wanted.
        image_size: (height, width) in pixels.
        transparent: What shows through transparent pixels of the images it was trained on.
        variables: All that the model computes with, for who must prove that it stays as it is.
        channels: Channels of the images.
        white_level: The value of 16-bit TIFF files that became white in training; 0: the largest.

    Attributes:
        shape: Shape of the features of one image.

    Raises:
        UserError: No such endpoint, or the model does not take images of that size.

    Example:
        >>> extract = load_extractor('module', 'final_avg_pool')
        >>> extract(images).shape
        (8, 2048)
    """

    def __init__(
        self,
        call: Callable[[tf.Tensor], dict[str, tf.Tensor]],
        endpoint: str,
        image_size: tuple[int, int],
        transparent: str = transparency.DEFAULT,
        variables: Sequence[tf.Variable] = (),
        channels: int = 3,
        white_level: int = 0,
    ) -> None:
        self.endpoint, self.image_size = endpoint, image_size
        self.transparent, self.variables, self.channels = transparent, variables, channels
        self.white_level = white_level
        spec = tf.TensorSpec([None, *image_size, channels], tf.float32)
        colours = "RGB" if channels == 3 else f"{channels} channels"
        form = f"{image_size[0]} x {image_size[1]} pixels, {colours}"
        try:
            outputs = tf.function(call, autograph=False).get_concrete_function(spec)
        except Exception as error:  # a foreign module, an input of another form: many kinds
            raise UserError(
                f"Expected a model of images of {form}; it can't be called so ({one_line(error)}). "
                "Pass the --image_size that it was made for."
            ) from error
        shapes = {name: tuple(v.shape[1:]) for name, v in outputs.structured_outputs.items()}
        if endpoint not in shapes:
            raise UserError(
                f"Expected --endpoint to be one of {', '.join(sorted(shapes))}; "
                f"received: {endpoint!r}."
            )
        self.shape = shapes[endpoint]
        if None in self.shape:
            raise UserError(
                f"Expected an endpoint of one shape; received: {endpoint!r} of {self.shape}."
            )
        # What only other endpoints need is pruned from the graph.
        self._run = tf.function(
            lambda images: call(images)[endpoint], input_signature=[spec], autograph=False
        )

    def __call__(self, images: Images) -> np.ndarray:
        return self.features(images).numpy()

    def features(self, images: Images) -> tf.Tensor:
        """Returns the features of a batch as a float32 tensor, in graphs too."""
        return tf.cast(self._run(to_float(images)), tf.float32)


def as_vectors(features: np.ndarray) -> np.ndarray:
    """Returns maps (N, h, w, d) averaged over space; vectors as they are."""
    return features.mean(axis=(1, 2)) if features.ndim == 4 else features


def load_extractor(path: str, endpoint: str, image_size: int | None = None) -> Extractor:
    """Loads a SavedModel (ours, the release's, or any that is called in the same way).

    Args:
        path: Its folder, or the `model_dir` of the run that wrote it.
        endpoint: Name of the output; `output` of a module that gives a single tensor.
        image_size: Side in pixels; None: the export's.

    Raises:
        UserError: Nothing there that can be loaded; no such endpoint; or the size is unknown.
    """
    exported = ExportedModel(path)
    if len(exported.input_shape) != 4:
        raise UserError(
            f"Expected a model of images; received: {exported.path}, which takes inputs of shape "
            f"{exported.input_shape}. Name an encoder of images."
        )
    size = (image_size, image_size) if image_size else exported.image_size
    if size is None:
        raise UserError(
            f"Expected --image_size, as nothing in {exported.path} says what the model takes; "
            "received: none. The published models of the release take 224."
        )

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        # No resizing: the images have the requested size.
        outputs = exported.module(images, trainable=False)
        return dict(outputs) if isinstance(outputs, dict) else {"output": outputs}

    variables = list(getattr(exported.module, "variables", ()))
    channels = exported.input_shape[-1] or 3
    return Extractor(
        call, endpoint, size, exported.transparent, variables, channels, exported.white_level
    )


def feature_batches(
    source: ImageSource,
    extract: Embeds,
    batch_size: int,
    start: int = 0,
    thumbnail: int | None = None,
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yields the features of every readable image, seen as in an evaluation.

    Args:
        source: The images.
        extract: The model.
        batch_size: Images at a time; memory depends on it.
        start: Number of images to skip at the front of the source.
        thumbnail: Side in pixels of the small pictures to add; None: none.

    Yields:
        Columns of the readable images of a batch: `index` int64 (n,), the position in the source;
        `features` float32 (n, ...); where labelled `label` int64 (n,); with `thumbnail` uint8
        (n, side, side, 3); `flat` bool (n,), whether it is one flat colour.
        And the number of images of the source that have been processed so far.
    """
    height, width = extract.image_size
    wanted, given = getattr(extract, "channels", None), source.image_shape[2]
    if wanted is not None and given is not None and wanted != given:
        raise UserError(
            f"Expected images of {wanted} channels, as the model takes; received: {given} in "
            f"'{source.name}'. Name images of the kind that it was trained on."
        )

    def load(position: tf.Tensor, key: Key) -> dict[str, tf.Tensor]:
        example = source.decode(key)
        image = evaluation_view(example["image"], height, width)
        decoded = example["image"]
        flat = tf.reduce_all(decoded == decoded[:1, :1])
        loaded = {"image": image, "index": position, "ok": example["ok"], "flat": flat}
        if source.labelled:
            loaded["label"] = example["label"]
        if thumbnail is not None:
            shown = image if image.shape[-1] == 3 else tf.repeat(image[..., :1], 3, axis=-1)
            small = tf.image.resize(shown, (thumbnail, thumbnail), antialias=True)
            loaded["thumbnail"] = to_uint8(small)
        return loaded

    data = source.ordered_keys().enumerate().skip(start)
    data = untuned(data.map(load, tf.data.AUTOTUNE, deterministic=True)).batch(batch_size)
    seen = start
    # A fixed number of batches in flight: autotuning would use more memory without any gain.
    for batch in data.prefetch(2):
        features = extract(batch.pop("image"))
        readable = batch.pop("ok").numpy()
        columns = {name: value.numpy()[readable] for name, value in batch.items()}
        seen += len(readable)
        yield {**columns, "features": features[readable]}, seen


def feature_columns(
    source: ImageSource, extract: Extractor, thumbnail: int | None = None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns the (dtype, shape of one row) of the columns that `feature_batches` yields."""
    columns: dict[str, tuple[str, tuple[int, ...]]] = {
        "index": ("int64", ()),
        "features": ("float32", extract.shape),
        "flat": ("bool", ()),
    }
    if source.labelled:
        columns["label"] = ("int64", ())
    if thumbnail is not None:
        columns["thumbnail"] = ("uint8", (thumbnail, thumbnail, 3))
    return columns


def fingerprint(source: ImageSource) -> list[str | int | None]:
    """Returns what identifies a source, with a checksum of its files' paths, sizes and times."""
    check = 0
    for path in source.files_behind():
        status = os.stat(path)
        said = f"{path}\n{status.st_size}\n{status.st_mtime_ns}\n"
        check = zlib.crc32(os.fsencode(said), check)
    return [source.name, source.split, source.num_examples, check]
