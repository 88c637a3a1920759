"""KerasHub's image backbones and presets by name (Keras 3); imported only when one is used.

KerasHub is where KerasCV's networks went. Its backbones take images that its preprocessor has
scaled, so that a preset brings two things: the backbone, and the scale and offset it was trained
with. Both are kept in the encoder's configuration.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from simclr_tf.compat import KERAS_3
from simclr_tf.errors import UserError
from simclr_tf.files.load_failures import explain, one_line
from simclr_tf.models.library_names import name_key
from simclr_tf.typing import KerasConfig

if TYPE_CHECKING:
    from tensorflow import keras

# Beside the arguments of the class in an encoder's configuration.
_RESCALING = "rescaling"


def _architectures() -> dict[str, tuple[str, KerasConfig]]:
    """Returns short name -> (class of keras_hub.models, arguments), from the networks' papers."""
    found: dict[str, tuple[str, KerasConfig]] = {}
    blocks_of_resnet: dict[int, tuple[int, ...]] = {
        18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }  # fmt: skip
    numbers: tuple[int, ...]
    for depth, numbers in blocks_of_resnet.items():
        for version in ("", "v2"):
            found[f"resnet{version}{depth}"] = (
                "ResNetBackbone",
                {
                    "input_conv_filters": [64],
                    "input_conv_kernel_sizes": [7],
                    "stackwise_num_filters": [64, 128, 256, 512],
                    "stackwise_num_blocks": list(numbers),
                    "stackwise_num_strides": [1, 2, 2, 2],
                    "block_type": "basic_block" if depth < 50 else "bottleneck_block",
                    "use_pre_activation": version == "v2",
                },
            )
    for depth, repeats in {121: (24, 16), 169: (32, 32), 201: (48, 32)}.items():
        found[f"densenet{depth}"] = (
            "DenseNetBackbone",
            {"stackwise_num_repeats": [6, 12, *repeats]},
        )
    repeats_of_vgg = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
    for depth, numbers in repeats_of_vgg.items():
        config: KerasConfig = {
            "stackwise_num_repeats": list(numbers),
            "stackwise_num_filters": [64, 128, 256, 512, 512],
        }
        found[f"vgg{depth}"] = ("VGGBackbone", config)
    for size, width, layers, heads in (
        ("tiny", 192, 12, 3),
        ("small", 384, 12, 6),
        ("base", 768, 12, 12),
        ("large", 1024, 24, 16),
    ):
        config = {
            "patch_size": 16,
            "num_layers": layers,
            "num_heads": heads,
            "hidden_dim": width,
            "mlp_dim": 4 * width,
        }
        found[f"vit{size}patch16"] = ("ViTBackbone", config)
    return found


# Built from these arguments, without the description that KerasHub would download first.
ARCHITECTURES = _architectures()
_FIXED_SIZE = ("ViTBackbone",)  # transformers build for one image size


def _models() -> ModuleType:
    if not KERAS_3:
        raise UserError(
            "Expected Keras 3 (TensorFlow 2.16 or newer) for an encoder called keras_hub.*; "
            "received: Keras 2. Choose another, as keras_cv.resnet18, or ResNet50 of Keras itself."
        )
    try:
        import keras_hub
    except ImportError as error:
        raise UserError(
            f"Expected KerasHub for an encoder called keras_hub.*; received: {error}. "
            "Run `pip install 'simclr-tf[keras-hub]'`, or choose a network of keras.applications."
        ) from error
    return keras_hub.models


def build_backbone(name: str, config: KerasConfig) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns symbolic images in [0, 1] and features of a backbone with fresh weights.

    Args:
        name: A class of keras_hub.models.
        config: Its arguments; `rescaling`: (scale, offset) of images in [0, 1] before it.

    Raises:
        UserError: KerasHub is missing, or the backbone is none from images to one kind of features.
    """
    from tensorflow import keras

    arguments = {key: value for key, value in config.items() if key != _RESCALING}
    try:
        backbone = getattr(_models(), name)(**arguments)
    except UserError:
        raise
    except Exception as error:  # a network that can't be built like this may raise anything
        raise UserError(
            f"Expected a KerasHub backbone that builds for images of {_shape(arguments)}; "
            f"received: keras_hub.{name}, which failed with: {one_line(error, 160)}. "
            "Choose another image size or backbone, as keras_hub.resnet_50."
        ) from error
    network = _graph(backbone, name)
    if config.get(_RESCALING) is None:
        return network.inputs[0], network.outputs[0]
    inputs = keras.Input(network.inputs[0].shape[1:], name="images")
    scale, offset = config[_RESCALING]
    # Always in float32: 255 levels do not fit bfloat16's 8 bits.
    scaled = keras.layers.Rescaling(scale, offset, name="input_scaling", dtype="float32")(inputs)
    return inputs, network.call(scaled)


def find_backbone(
    name: str, sides: tuple[int, int] | None, channels: int, weights: str | None
) -> tuple[str, KerasConfig, Callable[[str], keras.Model], str | None]:
    """Finds a backbone or preset by name, in any letter case, with or without underscores.

    The configuration is returned in full, so that loading a saved encoder downloads nothing. Those
    in `ARCHITECTURES` never need a download, but for published weights.

    Args:
        name: `resnet_50`, or a preset as `resnet_50_imagenet`, `dinov2_small`.
        sides: (height, width) of the images; None: any.
        channels: Channels of the images.
        weights: None, `imagenet` or a file.

    Returns:
        The class's name; its configuration; a function from `imagenet` or a file to a network with
        those weights; and `weights`: `imagenet` for a preset, which brings its own.

    Raises:
        UserError: KerasHub is missing; unknown name; a backbone that does not build for these
            images, or whose description cannot be downloaded; no published weights.
    """
    presets = _presets(_models())
    key = name_key(name)
    preset = next((known for known in presets if name_key(known) == key), None)
    if preset is not None:
        weights = weights or "imagenet"
    elif key not in ARCHITECTURES:
        close = difflib.get_close_matches(name, [*presets, *ARCHITECTURES], n=3)
        raise UserError(
            "Expected a backbone or preset of keras_hub.models for images; "
            f"received: {name!r}. Nearest: {', '.join(close) or 'none'}."
        )
    elif weights == "imagenet":
        preset = next((known for known in presets if name_key(known) == f"{key}imagenet"), None)
        if preset is None:
            close = difflib.get_close_matches(name, presets, n=3, cutoff=0.3)
            raise UserError(
                "Expected a KerasHub backbone with published ImageNet weights; "
                f"received: {name!r}. Pass weights=None, or name a preset: "
                f"{', '.join(close) or 'none'}."
            )
    if preset is None:
        family, arguments = ARCHITECTURES[key]
        config = {**arguments, "image_shape": _image_shape(family in _FIXED_SIZE, sides, channels)}
    else:
        family, config = _describe(presets[preset], preset, sides, channels)

    def donor(source: str) -> keras.Model:
        if source == "imagenet" and preset is not None:
            cls = presets[preset]
            backbone = cls.from_preset(preset, load_weights=True, **_sized(cls, _shape(config)))
        else:
            arguments = {key: value for key, value in config.items() if key != _RESCALING}
            backbone = getattr(_models(), family)(**arguments)
            backbone.load_weights(source)
        return _graph(backbone, family)

    return family, config, donor, weights


def _describe(
    cls: Any, preset: str, sides: tuple[int, int] | None, channels: int
) -> tuple[str, KerasConfig]:
    """Returns a preset's class and arguments for these images, and how they are scaled."""
    failed: Exception | None = None
    shapes = [(None, None, channels)] + ([(*sides, channels)] if sides else [])
    for shape in shapes:  # transformers need to know the size
        try:
            backbone = cls.from_preset(preset, load_weights=False, **_sized(cls, shape))
            config = dict(backbone.get_config())
            for key in ("name", "trainable", "dtype"):  # the encoder's own
                config.pop(key, None)
            return type(backbone).__name__, {**config, _RESCALING: _rescaling(preset)}
        except Exception as error:  # of a download or a network: `explain` tells which
            failed, failure = error, explain(error, cache="~/.cache/kagglehub")
            if failure.is_download:
                raise UserError(
                    f"Expected the description of keras_hub.{preset}, which KerasHub downloads; "
                    f"received: {failure.reason}. {failure.advice} Or choose a backbone that needs "
                    "no download, as keras_hub.resnet_50 or keras_hub.vit_tiny_patch16."
                ) from error
    raise UserError(
        f"Expected a KerasHub backbone that builds for images of {sides or 'any size'} with "
        f"{channels} channels; received: keras_hub.{preset}, which failed with: {failure.reason}. "
        "Choose another, as keras_hub.resnet_50."
    ) from failed


def _rescaling(preset: str) -> tuple[Any, Any]:
    """Returns scale and offset, of images in [0, 1], of the preset's own preprocessing."""
    import keras_hub

    converter = keras_hub.layers.ImageConverter.from_preset(preset)
    scale = 1.0 if converter.scale is None else np.asarray(converter.scale, np.float64)
    offset = 0.0 if converter.offset is None else np.asarray(converter.offset, np.float64)
    return np.ravel(scale * 255.0).tolist(), np.ravel(offset).tolist()


def _graph(backbone: Any, name: str) -> keras.Model:
    """Returns a backbone as a plain graph; raises a `UserError` unless it maps images to features.

    A plain graph orders its weights by its layers, whatever the class keeps beside them.
    """
    from tensorflow import keras

    outputs = backbone.outputs if isinstance(backbone.output, (list, dict)) else [backbone.output]
    shapes = [tensor.shape for tensor in backbone.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or len(outputs) != 1:
        raise UserError(
            f"Expected a backbone from images to features; received: keras_hub.{name}, from "
            f"{len(shapes)} inputs to {len(outputs)} outputs. Choose another, as "
            "keras_hub.resnet_50."
        )
    return keras.Model(backbone.inputs[0], outputs[0])


def _image_shape(
    fixed: bool, sides: tuple[int, int] | None, channels: int
) -> tuple[int | None, ...]:
    if not fixed:
        return None, None, channels
    if sides is None:
        raise UserError(
            "Expected an image_size for a transformer of keras_hub; received: None. Pass one."
        )
    return *sides, channels


def _presets(models: ModuleType) -> dict[str, Any]:
    """Returns preset -> class, of the backbones that take images."""
    classes = [cls for name, cls in vars(models).items() if name.endswith("Backbone")]
    return {preset: cls for cls in classes if _shape_name(cls) for preset in cls.presets}


def _shape_name(cls: Any) -> str | None:
    """Returns what a class calls the shape of an image, or None if it takes none."""
    parameters = inspect.signature(cls.__init__).parameters
    return next((name for name in ("image_shape", "input_shape") if name in parameters), None)


def _sized(cls: Any, shape: Any) -> dict[str, Any]:
    """Returns the argument of a class in `_presets` that is an image's shape."""
    return {_shape_name(cls) or "image_shape": shape}


def _shape(config: KerasConfig) -> Any:
    return config.get("image_shape", config.get("input_shape"))
