"""Views without an accelerator: compiled by XLA as a loop over views, a part of a batch per core.

The batched form (`SimCLRAugment.apply` in one graph) suits GPUs. On a processor it is slow for
three reasons: a dense resize multiplies mostly by zeros (all but four along each side); each image
goes through every stage, also those that its draws leave out; and XLA runs a compiled function on
one core. Here each view is cropped by itself, and coloured and blurred only where its parameters
say so, while other cores work on other views. The loop is within the compiled function: views of
224 pixels launched one by one, or stage by stage, take half as long again.

A view is kept as (height, channels, width): its planes are contiguous for the colour operations and
for blurring along either side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import control_flow_util

from simclr_tf.augment import color
from simclr_tf.augment.operations import OPERATIONS
from simclr_tf.augment.options import Options, blur_kernel_size
from simclr_tf.devices.strategy import accelerated
from simclr_tf.images import geometry, resizing

# Up to this many pixels, views are compiled where that is asked for alone: it takes seconds, which
# few steps do not win back.
_SMALL = 64 * 64
# Columns of a crop that are computed at a time: the matrix of such a band is narrow, as the whole
# one is zero far from its diagonal.
_TILE = 16

Params = Mapping[str, tf.Tensor]


def applies(options: Options, images: tf.Tensor, jit_compile: bool | None) -> bool:
    """Returns whether views are made by the compiled loop in the current context.

    Args:
        options: of the augmentation, as `check_options` returns them.
        images: (N, H, W, C).
        jit_compile: True, False, or None: where it is faster.
    """
    if jit_compile is False or tf.executing_eagerly() or None in images.shape[1:]:
        return False
    # Only TensorFlow's own control flow asks this; there is no public question.
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return False  # it is compiled as a whole already
    if jit_compile is None:
        return not _is_small(options) and not accelerated()
    return True


def _is_small(options: Options) -> bool:
    height, width = options["size"]
    return height * width <= _SMALL


class ViewStages:
    """Makes the views of a batch one by one, several such loops side by side.

    Args:
        options: Of the augmentation, as `check_options` returns them.

    Example:
        >>> stages = ViewStages(augment.options)
        >>> stages(images, augment.draw(8, 320, 320, seed)).shape
        TensorShape([8, 224, 224, 3])
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.names = [name for name in options["names"] if name != "crop"]
        self.crops = "crop" in options["names"]
        self.flips_in_crop = self.crops and self.names[:1] == ["flip"]
        if self.flips_in_crop:
            self.names = self.names[1:]
        special = {"flip": self._flipped, "color": self._colored, "blur": self._sometimes_blurred}
        self._stages = [special.get(name) or self._planar(name) for name in self.names]
        self._part = _compiled(self._part_of)

    def __call__(self, images: tf.Tensor, params: Params, copies: int = 1) -> tf.Tensor:
        """Returns float32 (copies * N, height, width, C) in [0, 1], copy after copy.

        Args:
            images: (N, H, W, C) of known height and width, uint8, uint16 or float in [0, 1].
            params: From `SimCLRAugment.draw`, copies * N on the first axis.
            copies: Views per image.
        """
        count = images.shape[0] and copies * images.shape[0]
        # Views differ in what they take: two parts for each core even that out.
        parts = min(2 * (os.cpu_count() or 1), count or 1 << 30)
        # All parts are of one shape, so that one compilation serves them: the last may be too long.
        views = tf.concat(
            [
                self._part(images, dict(params), tf.constant(part), parts, copies)
                for part in range(parts)
            ],
            axis=0,
        )
        if count is None or count % parts:
            views = views[: copies * tf.shape(images)[0]]
        return tf.ensure_shape(views, [count, *self.options["size"], images.shape[-1]])

    def _part_of(
        self, images: tf.Tensor, params: Params, part: tf.Tensor, parts: int, copies: int
    ) -> tf.Tensor:
        """Returns the views of one part of a batch: the first of `parts` is 0."""
        height, width = self.options["size"]
        different = tf.shape(images)[0]
        count = copies * different
        size = -(-count // parts)

        def add(number: tf.Tensor, views: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            at = tf.minimum(part * size + number, count - 1)
            image = _row(images, at % different)
            view = self._one(image, {name: _row(x, at) for name, x in params.items()})
            start = [number, 0, 0, 0]
            return number + 1, gen_xla_ops.xla_dynamic_update_slice(views, view[tf.newaxis], start)

        start = (tf.constant(0), tf.zeros(tf.stack([size, height, width, images.shape[-1]])))
        return tf.while_loop(lambda number, views: number < size, add, start)[1]

    def _one(self, image: tf.Tensor, params: Params) -> tf.Tensor:
        view = self._start(image, params)
        for stage in self._stages:
            # Fused into one, early stages would be computed repeatedly by the later ones
            # (measured: 2 to 30 times slower).
            (view,) = gen_xla_ops.xla_optimization_barrier([view])
            view = stage(view, params)
        return geometry.clip(tf.transpose(view, [0, 2, 1]))

    def _start(self, image: tf.Tensor, params: Params) -> tf.Tensor:
        """Returns the crop of an image, or the whole of it, in the size of the views."""
        rows, columns = image.shape[0], image.shape[1]
        canvas = tf.constant([rows, columns] * 2, tf.float32)
        if self.crops:
            box = params["box"] * (canvas / tf.tile(params["size"], [2]))
            flip = params["flip"] if self.flips_in_crop else tf.constant(False)
            return self._cropped(image, box, flip)
        if (rows, columns) == self.options["size"]:
            return tf.transpose(geometry.to_float(image), [0, 2, 1])
        whole = canvas * tf.constant([0.0, 0.0, 1.0, 1.0])
        return self._cropped(image, whole, tf.constant(False))

    def _flipped(self, view: tf.Tensor, params: Params) -> tf.Tensor:
        return tf.cond(params["flip"], lambda: view[:, :, ::-1], lambda: view)

    def _colored(self, view: tf.Tensor, params: Params) -> tf.Tensor:
        view = tf.cond(params["jitter"], lambda: self._jittered(view, params), lambda: view)
        return tf.cond(params["gray"], lambda: _gray(view), lambda: view)

    def _sometimes_blurred(self, view: tf.Tensor, params: Params) -> tf.Tensor:
        return tf.cond(params["blur"], lambda: self._blurred(view, params["sigma"]), lambda: view)

    def _planar(self, name: str) -> Callable[[tf.Tensor, Params], tf.Tensor]:
        """Returns the stage of an augmentation without a special form here."""
        operation = OPERATIONS[name]

        def planar(view: tf.Tensor, params: Params) -> tf.Tensor:
            image = tf.transpose(view, [0, 2, 1])[tf.newaxis]
            image = geometry.clip(image) if operation.clips else image
            batch = {key: value[tf.newaxis] for key, value in params.items()}
            return tf.transpose(operation.apply(image, batch, self.options)[0], [0, 2, 1])

        return planar

    def _jittered(self, view: tf.Tensor, params: Params) -> tf.Tensor:
        def step(k: tf.Tensor, view: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            steps = [lambda i=i: self._jitter_step(view, i, params["color"][i]) for i in range(4)]
            return k + 1, tf.switch_case(_row(params["order"], k), steps)

        # A loop: four times four steps would take four times as long to compile.
        return tf.while_loop(lambda k, view: k < 4, step, (tf.constant(0), view))[1]

    def _jitter_step(self, view: tf.Tensor, operation: int, amount: tf.Tensor) -> tf.Tensor:
        done = color.jitter_planes(_planes(view), operation, amount, self.options["brightness"])
        return tf.stack([plane[0] for plane in done], axis=1)

    def _cropped(self, image: tf.Tensor, box: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
        """Returns the crop `box` (y, x, height, width) of (H, W, C), resized: a view."""
        height, width = self.options["size"]
        rows, columns, channels = image.shape
        # Rows first, each from the four that it lies between: they are contiguous.
        first, weights = resizing.resize_bands(
            box[0], box[2], rows, height, tf.constant(False), tile=1
        )
        whole = tf.reduce_sum(weights, axis=2)  # one, up to rounding
        x = tf.reshape(image, [rows, columns * channels])
        x = tf.add_n(
            [weights[:, :, k] * tf.cast(tf.gather(x, first + k), tf.float32)
             for k in range(weights.shape[2])]
        )  # fmt: skip
        # XLA computes a quotient once, but would compute a product again in each band below.
        x = x / (whole if image.dtype.is_floating else whole * image.dtype.max)
        # Columns lie apart: products with narrow matrices are faster than their pixels one by one.
        x = tf.transpose(tf.reshape(x, [height, columns, channels]), [0, 2, 1])
        x = tf.reshape(x, [height * channels, columns])
        first, matrix = resizing.resize_bands(box[1], box[3], columns, width, flip, _TILE)
        read = [height * channels, matrix.shape[2]]
        x = [
            tf.matmul(_read(x, [0, first[t]], read), matrix[t], transpose_b=True)
            for t in range(matrix.shape[0])
        ]
        return tf.reshape(tf.concat(x, 1)[:, :width], [height, channels, width])

    def _blurred(self, view: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
        reach = blur_kernel_size(view.shape[0]) // 2
        taps = tf.exp(-0.5 * tf.square(tf.range(reach + 1, dtype=tf.float32) / sigma))
        total = 2.0 * tf.reduce_sum(taps) - 1.0  # of all taps: the first, 1, stands alone
        # The views' margin is zero, also after the first sum. Both quotients are there for
        # the reason of the one in `_cropped`.
        x = tf.pad(geometry.clip(view), [[reach, reach], [0, 0], [reach, reach]]) / total
        return _sum_of_shifted(_sum_of_shifted(x, taps, 0) / total, taps, 2)


def _compiled(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    return tf.function(function, jit_compile=True, autograph=False)


def _planes(view: tf.Tensor) -> list[tf.Tensor]:
    """Returns R, G and B, each (1, height, width)."""
    return [view[tf.newaxis, :, channel] for channel in range(3)]


def _gray(view: tf.Tensor) -> tf.Tensor:
    return tf.stack([color.luminance(_planes(view))[0]] * 3, axis=1)


def _row(x: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Returns x[number], where the number is a tensor."""
    rest = x.shape[1:]
    return _read(x, [number] + [0] * rest.rank, [1, *rest])[0]


def _read(x: tf.Tensor, start: list[int | tf.Tensor], size: list[int]) -> tf.Tensor:
    """Returns a slice whose start may be a tensor.

    With `tf.slice` XLA would compile again for every start, which it treats as a constant. The op
    that takes a tensor has no public name.
    """
    return gen_xla_ops.xla_dynamic_slice(x, start, size)


def _sum_of_shifted(x: tf.Tensor, taps: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns the symmetric convolution along an axis of three, shorter by a margin on both sides.

    Adding what is contiguous is faster than multiplying by the narrow matrices of a blur.

    Args:
        x: Of rank 3.
        taps: Half of them, (reach + 1,): the first, of the middle, is 1.
        axis: Along which.
    """
    reach = taps.shape[0] - 1
    begin, size = [0, 0, 0], x.shape.as_list()
    size[axis] -= 2 * reach

    def shifted(by: int) -> tf.Tensor:
        begin[axis] = reach + by
        return tf.slice(x, begin, size)

    sides = [taps[k] * (shifted(-k) + shifted(k)) for k in range(1, reach + 1)]
    return tf.add_n([shifted(0), *sides])
