"""SimCLR's random augmentation as a Keras layer that runs on the model's device.

| name in `augmentations` | what it does | compiles under XLA | needs |
|---|---|---|---|
| crop | random resized crop (area 0.08-1, aspect 3/4-4/3), bicubic | yes | |
| flip | left to right, probability 0.5 | yes | |
| color | colour jitter (0.8), then grey (`gray_probability`) | yes | RGB |
| blur | Gaussian blur (0.5), sigma 0.1-2.0 drawn per image | yes | |
| cutout | a black square of half the shorter side (0.5) | yes | keras-cv |
| solarize | values above a half inverted (0.2) | yes | keras-cv |
| noise | Gaussian noise of standard deviation 0.1 | yes | |
| sobel | length of the Sobel gradient (0.2) | yes | |
| rotate | 0, 90, 180 or 270 degrees; 0 or 180 if not square | yes | |
| affine | turned and slanted by up to 15 degrees each | yes | |
| padded_crop | padded with black by an eighth of each side, then cut at random | yes | |

`host.host_views` does the same for one image in `tf.data`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment import compiled, draws, extras
from simclr_tf.augment.batches import images_and_sizes
from simclr_tf.augment.host import host_views
from simclr_tf.augment.operations import OPERATIONS, own_seed
from simclr_tf.augment.options import DEFAULT_AUGMENTATIONS, KNOWN_AUGMENTATIONS, check_options
from simclr_tf.compat import register
from simclr_tf.images import geometry, pixel_values
from simclr_tf.typing import Batch, Images, KerasConfig

__all__ = ["DEFAULT_AUGMENTATIONS", "KNOWN_AUGMENTATIONS", "SimCLRAugment", "host_views"]


@register
class SimCLRAugment(keras.layers.Layer):
    """Draws one random view of every image of a batch.

    `call` is `apply(images, draw(...))`: all randomness is in `draw`, which is stateless (one seed,
    one result, the same under XLA), and `apply` is deterministic. Each row of the batch gets its
    own parameters, so two views are made by passing the batch twice, concatenated.

    Crop and resize happen in one step from the image as given. Images that the host has squashed
    onto a common square canvas come with their original size: boxes are then drawn in the original
    geometry (area, aspect ratio and whole pixels as the release draws them) and mapped onto the
    canvas. The canvas changes sharpness alone: a small crop is interpolated from pixels of the
    canvas, which may be fewer than those of the original.

    Args:
        image_size: side of the views in pixels, or (height, width).
        color_jitter_strength: s of the paper; 1.0 for ImageNet, 0.5 for CIFAR-10.
        use_blur: False removes 'blur' from the augmentations.
        brightness: 'v2' multiplies brightness by a factor, 'v1' adds a shift.
        augmentations: names in order of application, or one comma-separated string; 'crop' always
            comes first. The table of this module lists them. 'crop,flip' is for fine-tuning.
        crop_area: range of the crop's share of the image. The release's 0.08 stands for 0.1 in
            effect (`options.min_covered`); other lower ends are used as given.
        crop_aspect_ratio: range of the crop's width / height, times that of the view.
        seed: first seed of `call` where it is not given one.
        jit_compile: True makes views with XLA, in the form for processors (`compiled.py`); False
            never does; None does so where there is no accelerator and views are large enough to
            gain by it. Without effect outside of a `tf.function`. The views are the same up to
            rounding.
        gray_probability: share of views that 'color' leaves without colour.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        UserError: for an unknown name, a size below one, an impossible range, or 'cutout' or
            'solarize' without keras-cv.

    Source: SimCLR (arXiv:2002.05709) section 3 and appendix A; the release. The release draws one
    sigma per view and batch, this layer one per image.

    Example:
        >>> augment = SimCLRAugment(image_size=32, color_jitter_strength=0.5, use_blur=False)
        >>> augment(tf.zeros([8, 40, 60, 3], tf.uint8), seed=tf.constant([0, 1])).shape
        TensorShape([8, 32, 32, 3])
    """

    # `SimCLR` passes canvases and raw bytes, not float images.
    takes_source_images = True

    def __init__(
        self,
        image_size: int | Sequence[int],
        color_jitter_strength: float = 1.0,
        use_blur: bool = True,
        brightness: str = "v2",
        augmentations: str | Sequence[str] = DEFAULT_AUGMENTATIONS,
        crop_area: Sequence[float] = (0.08, 1.0),
        crop_aspect_ratio: Sequence[float] = (3 / 4, 4 / 3),
        seed: int = 0,
        jit_compile: bool | None = None,
        gray_probability: float = 0.2,
        **kwargs: Any,
    ) -> None:
        # Views stay float32 under a mixed-precision policy: the encoder casts its inputs.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.options = check_options(
            image_size,
            color_jitter_strength,
            use_blur,
            brightness,
            augmentations,
            crop_area,
            crop_aspect_ratio,
            gray_probability,
        )
        self.seed = int(seed)
        self.jit_compile = jit_compile
        self._compiled: Callable[..., tf.Tensor] | None = None
        # One counter per replica, each folded with the replica's number. A plain variable: the API
        # for such a weight of a layer differs between Keras 2 and Keras 3.
        self._calls = tf.Variable(
            0,
            trainable=False,
            dtype=tf.int64,
            name="calls",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.built = True

    def __call__(self, inputs: Batch, *args: Any, **kwargs: Any) -> tf.Tensor:
        """Calls the layer; see `call`. Checks here, as Keras would wrap an error from `call`."""
        # Values are checked outside of graphs only: in a step the data set has checked them.
        pixel_values.check_call(inputs.get("image") if isinstance(inputs, Mapping) else inputs)
        return super().__call__(inputs, *args, **kwargs)

    def call(
        self,
        inputs: Batch,
        seed: draws.Seed | None = None,
        training: bool = True,
        copies: int = 1,
    ) -> tf.Tensor:
        """Returns views of images.

        Args:
            inputs: (N, H, W, C) uint8, uint16, or float in [0, 1]; or a dict of 'image', uint8
                (N, K, K, C), and 'size', integer (N, 2): original height and width.
            seed: integer tensor (2,); None counts calls from the layer's own seed.
            training: False only resizes and converts.
            copies: views per image, in training: those of the batch repeated so often.

        Returns:
            float32 (copies * N, height, width, C) in [0, 1], copy after copy.

        Raises:
            UserError: for inputs of another form or type, floats out of range (outside of graphs),
                or 'color' on images that are not RGB.
        """
        if not training:
            return self.apply(images_and_sizes(inputs)[0], {})
        seed = self._next_seed() if seed is None else seed
        images, params = self.draw_for(inputs, seed, copies)
        return self.apply_copies(images, params, copies)

    def draw_for(
        self, inputs: Batch, seed: draws.Seed, copies: int = 1
    ) -> tuple[tf.Tensor, extras.Params]:
        """Draws what `call` would for the batch repeated `copies` times.

        Args:
            inputs: as for `call`.
            seed: integer tensor (2,).
            copies: views per image.

        Returns:
            The images, (N, H, W, C), and parameters for `apply_copies`, copies * N on their first
            axis.
        """
        images, heights, widths = images_and_sizes(inputs)
        heights, widths = (
            size if tf.convert_to_tensor(size).shape.rank == 0 else tf.tile(size, [copies])
            for size in (heights, widths)
        )
        count = copies * tf.shape(images)[0]
        return images, self.draw(count, heights, widths, seed, channels=images.shape[-1])

    def draw(
        self,
        batch_size: int | tf.Tensor,
        heights: int | tf.Tensor,
        widths: int | tf.Tensor,
        seed: draws.Seed,
        channels: int = 3,
    ) -> extras.Params:
        """Draws the parameters of one batch.

        Args:
            batch_size: N.
            heights: original rows of each image, (N,) or a scalar, integers.
            widths: original columns.
            seed: integer tensor (2,).
            channels: of the images (only noise depends on it).

        Returns:
            dict of tensors with N on the first axis (so that a micro-batch is a slice of each):
            'box' (N, 4) y, x, height, width in original pixels, 'size' (N, 2) original height and
            width, 'flip', 'jitter', 'color', 'order', 'gray', 'blur', 'sigma', and those of the
            extras: each where its augmentation is on.
        """
        options = self.options
        height, width = options["size"]
        heights = tf.broadcast_to(tf.cast(heights, tf.int32), [batch_size])
        widths = tf.broadcast_to(tf.cast(widths, tf.int32), [batch_size])
        params = {}
        for name in options["names"]:
            folded = own_seed(seed, name)
            if name == "crop":
                low, high = options["crop_aspect_ratio"]
                aspect = (low * width / height, high * width / height)
                params["box"] = draws.crop_boxes(
                    folded, heights, widths, options["crop_area"], aspect, options["min_covered"]
                )
                params["size"] = tf.cast(tf.stack([heights, widths], axis=1), tf.float32)
            else:
                params.update(OPERATIONS[name].draw(folded, batch_size, channels, options))
        return params

    def apply(self, images: Images, params: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Makes the views that `params` describe.

        Args:
            images: (N, H, W, C) uint8, or float in [0, 1].
            params: from `draw`; {} only resizes and converts.

        Returns:
            float32 (N, height, width, C) in [0, 1].
        """
        return self._views(tf.convert_to_tensor(images), params, 1)

    def apply_copies(
        self, images: Images, params: Mapping[str, tf.Tensor], copies: int
    ) -> tf.Tensor:
        """Makes several views per image: `apply` of the batch repeated, which it needs not hold.

        Args:
            images: (N, H, W, C) uint8, or float in [0, 1].
            params: from `draw_for`, copies * N on the first axis.
            copies: views per image.

        Returns:
            float32 (copies * N, height, width, C) in [0, 1], copy after copy.

        Example:
            >>> images, params = augment.draw_for(images, seed=[0, 1], copies=2)
            >>> views = augment.apply_copies(images, params, 2)
        """
        images = tf.convert_to_tensor(images)
        if type(self).apply is SimCLRAugment.apply:
            return self._views(images, params, copies)
        return self.apply(tf.concat([images] * copies, 0), params)  # a subclass has its own

    def _views(self, images: tf.Tensor, params: Mapping[str, tf.Tensor], copies: int) -> tf.Tensor:
        if params and compiled.applies(self.options, images, self.jit_compile):
            if self._compiled is None:
                self._compiled = compiled.ViewStages(self.options)
            return self._compiled(images, params, copies)
        return self._apply_to_all(tf.concat([images] * copies, 0), params)

    def _apply_to_all(self, images: tf.Tensor, params: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Makes all views at once: the form for GPUs."""
        height, width = self.options["size"]
        names = [name for name in self.options["names"] if name != "crop"] if params else []
        # The crop's resampling flips at no extra cost.
        flip = params["flip"] if names[:1] == ["flip"] else None
        if flip is not None:
            names = names[1:]
        images = geometry.to_float(images)
        rows, columns = tf.shape(images)[1], tf.shape(images)[2]
        canvas = tf.cast(tf.stack([rows, columns, rows, columns]), tf.float32)
        if "box" in params:
            scale = canvas / tf.tile(params["size"], [1, 2])  # exactly 1 without a canvas
            views = geometry.crop_and_resize(
                images, params["box"] * scale, height, width, flip=flip
            )
        elif tuple(images.shape[1:3]) != (height, width):
            whole = canvas * tf.constant([0.0, 0.0, 1.0, 1.0])
            boxes = tf.tile(whole[tf.newaxis], [tf.shape(images)[0], 1])
            views = geometry.crop_and_resize(images, boxes, height, width, flip=flip)
        else:
            views = images if flip is None else geometry.flip_left_right(images, flip)
        for name in names:
            operation = OPERATIONS[name]
            views = geometry.clip(views) if operation.clips else views
            views = operation.apply(views, params, self.options)
        return geometry.clip(tf.ensure_shape(views, [None, height, width, images.shape[-1]]))

    def _next_seed(self) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else context.replica_id_in_sync_group
        calls = tf.identity(self._calls)
        self._calls.assign_add(1)
        start = tf.constant([self.seed & 0x7FFFFFFF, 0x51C], tf.int32)
        return draws.fold_in(draws.fold_in(start, calls), replica)

    def compute_output_shape(
        self, input_shape: tf.TensorShape | Mapping[str, tf.TensorShape]
    ) -> tuple[int | None, ...]:
        """Returns (N, height, width, C)."""
        shape = tuple(input_shape["image"] if isinstance(input_shape, Mapping) else input_shape)
        return (shape[0], *self.options["size"], shape[-1])

    def get_config(self) -> KerasConfig:
        """Returns the arguments of `__init__`."""
        options = self.options
        return {
            **super().get_config(),
            "image_size": options["image_size"],
            "color_jitter_strength": options["color_jitter_strength"],
            "use_blur": options["use_blur"],
            "brightness": options["brightness"],
            "augmentations": list(options["augmentations"]),
            "crop_area": list(options["crop_area"]),
            "crop_aspect_ratio": list(options["crop_aspect_ratio"]),
            "gray_probability": options["gray_probability"],
            "seed": self.seed,
            "jit_compile": self.jit_compile,
        }
