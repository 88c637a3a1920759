"""KerasCV's backbones and presets by name; the package is imported only when one is used."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from simclr_tf.errors import UserError
from simclr_tf.files.load_failures import explain, one_line
from simclr_tf.models.library_names import name_key
from simclr_tf.typing import KerasConfig

if TYPE_CHECKING:
    from tensorflow import keras


def _architectures() -> dict[str, tuple[str, KerasConfig]]:
    """Returns short name -> (class of keras_cv.models, arguments), from the networks' papers."""
    found: dict[str, tuple[str, KerasConfig]] = {}
    residual = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
    residual[152] = (3, 8, 36, 3)
    for depth, blocks in residual.items():
        config: KerasConfig = {
            "stackwise_filters": [64, 128, 256, 512],
            "stackwise_blocks": list(blocks),
            "stackwise_strides": [1, 2, 2, 2],
            "block_type": "basic_block" if depth < 50 else "block",
        }
        found[f"resnet{depth}"] = ("ResNetBackbone", config)
        found[f"resnet{depth}v2"] = ("ResNetV2Backbone", config)
    for depth, repeats in {121: (24, 16), 169: (32, 32), 201: (48, 32)}.items():
        config = {"stackwise_num_repeats": [6, 12, *repeats]}
        found[f"densenet{depth}"] = ("DenseNetBackbone", config)
    for size, width, depth in (
        ("tiny", 48, 1),
        ("s", 64, 1),
        ("m", 96, 2),
        ("l", 128, 3),
        ("xl", 170, 4),
    ):
        channels = [width * 2**level for level in range(4)]
        depths = [depth, 3 * depth, 3 * depth, depth]
        config = {"stackwise_channels": channels, "stackwise_depth": depths}
        found[f"cspdarknet{size}"] = ("CSPDarkNetBackbone", config)
    scalings = [(1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2)]
    scalings += [(1.8, 2.6), (2.0, 3.1)]
    for index, (width_coefficient, depth_coefficient) in enumerate(scalings):
        config = {
            "width_coefficient": width_coefficient,
            "depth_coefficient": depth_coefficient,
            "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
            "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
            "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
            "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
            "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
            "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
            "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
        }
        found[f"efficientnetv1b{index}"] = ("EfficientNetV1Backbone", config)
    transformers = [(2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 18, 3), (3, 8, 27, 3)]
    for index, depths_ in enumerate([*transformers, (3, 6, 40, 3)]):
        config = {
            "depths": list(depths_),
            "embedding_dims": [32, 64, 160, 256] if index == 0 else [64, 128, 320, 512],
        }
        found[f"mitb{index}"] = ("MiTBackbone", config)
    found["vgg16"] = ("VGG16Backbone", {"include_top": False})
    found["vitdetb"] = ("ViTDetBackbone", {})
    return found


# Built from these arguments, without the description that KerasCV would download first.
ARCHITECTURES = _architectures()
_FIXED_SIZE = ("MiTBackbone", "ViTDetBackbone")  # transformers build for one image size


def _keras_cv_models() -> ModuleType:
    try:
        import keras_cv
    except ImportError as error:
        raise UserError(
            f"Expected KerasCV for an encoder called keras_cv.*; received: {error}. "
            "Run `pip install keras-cv`, or choose a network of keras.applications."
        ) from error
    return keras_cv.models


def build_backbone(name: str, config: KerasConfig) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns symbolic images in [0, 1] and feature maps of a backbone with fresh weights.

    Raises:
        UserError: KerasCV is missing, or the backbone does not map images to feature maps.
    """
    try:
        backbone = getattr(_keras_cv_models(), name)(**config)
    except UserError:
        raise
    except Exception as error:  # a network that can't be built like this may raise anything
        raise UserError(
            f"Expected a KerasCV backbone that builds for images of {config.get('input_shape')}; "
            f"received: keras_cv.{name}, which failed with: {one_line(error, 160)}. "
            "Choose another image size or backbone, as keras_cv.resnet50."
        ) from error
    if len(backbone.inputs) != 1 or len(backbone.outputs[0].shape) != 4:
        raise UserError(
            f"Expected a backbone from images to feature maps; received: keras_cv.{name}. "
            "Choose a backbone for images, as keras_cv.ResNet50Backbone."
        )
    return backbone.inputs[0], backbone.outputs[0]


def find_backbone(
    name: str, sides: tuple[int, int] | None, channels: int, weights: str | None
) -> tuple[str, KerasConfig, Callable[[str], keras.Model], str | None]:
    """Finds a backbone or preset by name, in any letter case.

    The configuration is returned in full, so that loading a saved encoder downloads nothing:
    KerasCV downloads even the description of a backbone. Those in `ARCHITECTURES` never need that.

    Args:
        name: `ResNet50Backbone`, `resnet50` or `resnet50_imagenet`.
        sides: (height, width) of the images; None: any.
        channels: Channels of the images.
        weights: None, `imagenet` or a file.

    Returns:
        The class's name, its configuration, a function from `imagenet` or a file to a backbone with
        those weights, and `weights`: `imagenet` for a preset that is named after its weights.

    Raises:
        UserError: KerasCV is missing; unknown name; a backbone that does not build for these
            images, or whose description cannot be downloaded; no published weights.
    """
    models = _keras_cv_models()
    preset = _find_preset(models, name)
    trained = preset is not None and preset in _preset_classes(models)[preset].presets_with_weights
    if trained:
        weights = weights or "imagenet"
    elif weights == "imagenet":
        preset, trained = _published(models, name), True
    key = name_key(name)
    config: KerasConfig
    if not trained and key in ARCHITECTURES:
        family, arguments = ARCHITECTURES[key]
        make = _with(getattr(models, family), arguments)
        shape: tuple[int | None, ...] = (None, None, channels)
        if family in _FIXED_SIZE:
            if sides is None:
                raise UserError(f"Expected an image_size for keras_cv.{name}; received: None.")
            shape = (*sides, channels)
        config = {**arguments, "include_rescaling": False, "input_shape": list(shape)}
    else:
        if preset is not None:
            from_preset = _preset_classes(models)[preset].from_preset
            make = _with(from_preset, {"load_weights": False}, preset)
        else:
            make = {name_key(known): cls for known, cls in _classes(models).items()}[key]
        backbone = _build(make, name, sides, channels)
        family, shape = type(backbone).__name__, tuple(backbone.inputs[0].shape[1:])
        config = dict(backbone.get_config())
        config.pop("trainable", None)

    def donor(source: str) -> keras.Model:
        if source == "imagenet" and preset is not None:
            from_preset = _preset_classes(models)[preset].from_preset
            return from_preset(
                preset, load_weights=True, include_rescaling=False, input_shape=shape
            )
        other = make(include_rescaling=False, input_shape=shape)
        other.load_weights(source)
        return other

    return family, config, donor, weights


def _build(
    make: Callable[..., keras.Model], name: str, sides: tuple[int, int] | None, channels: int
) -> keras.Model:
    # Every rescaling in KerasCV's image backbones is 1 / 255: without it they take [0, 1].
    shapes = [(None, None, channels)] + ([(*sides, channels)] if sides else [])
    failed: Exception | None = None
    for shape in shapes:  # transformers need to know the size
        try:
            return make(include_rescaling=False, input_shape=shape)
        except Exception as error:  # a network that can't be built like this may raise anything
            failed = error
    assert failed is not None
    failure = explain(failed, cache="~/.cache/kagglehub")
    if failure.is_download:
        raise UserError(
            f"Expected the description of keras_cv.{name}, which KerasCV downloads; "
            f"received: {failure.reason}. {failure.advice} Or choose a backbone that needs no "
            "download, as resnet50, resnet50v2, densenet121, cspdarknets or efficientnetv1b0."
        ) from failed
    raise UserError(
        f"Expected a KerasCV backbone that builds for images of {sides or 'any size'} with "
        f"{channels} channels; received: keras_cv.{name}, which failed with: {failure.reason}. "
        "Choose another, as keras_cv.resnet50."
    ) from failed


def _with(
    make: Callable[..., keras.Model], config: KerasConfig, *args: str
) -> Callable[..., keras.Model]:
    return lambda **kwargs: make(*args, **config, **kwargs)


def _classes(models: ModuleType) -> dict[str, type[keras.Model]]:
    return {name: value for name, value in vars(models).items() if name.endswith("Backbone")}


def _preset_classes(models: ModuleType) -> dict[str, type[keras.Model]]:
    """Returns preset -> class; of several that list a preset, the one that lists the most."""
    found: dict[str, type[keras.Model]] = {}
    for cls in sorted(_classes(models).values(), key=lambda cls: len(getattr(cls, "presets", {}))):
        found.update(dict.fromkeys(getattr(cls, "presets", {}), cls))
    return found


def _find_preset(models: ModuleType, name: str) -> str | None:
    presets = _preset_classes(models)
    found = next((preset for preset in presets if name_key(preset) == name_key(name)), None)
    known = [*ARCHITECTURES, *map(name_key, _classes(models))]
    if found is None and name_key(name) not in known:
        close = difflib.get_close_matches(name, [*_classes(models), *presets], n=3)
        raise UserError(
            "Expected a backbone or preset of keras_cv.models; "
            f"received: {name!r}. Nearest: {', '.join(close) or 'none'}."
        )
    return found


def _published(models: ModuleType, name: str) -> str:
    """Returns the one preset with ImageNet weights for a backbone named without weights."""
    presets = _preset_classes(models)
    for preset in presets:
        if name_key(preset) == f"{name_key(name)}imagenet":
            return preset
    trained = [key for key, cls in presets.items() if key in cls.presets_with_weights]
    close = difflib.get_close_matches(name, trained, n=3, cutoff=0.3)
    raise UserError(
        "Expected a KerasCV backbone with published ImageNet weights; "
        f"received: {name!r}. Pass weights=None, or name a preset: {', '.join(close) or 'none'}."
    )
