"""What network a file of weights holds, read off the names and shapes of its variables.

Paths are those of the TF2 release's checkpoints below `model/`, as
`resnet_model/block_groups/0/layers/0/conv2d_bn_layers/0/conv2d/kernel`. The TF1 release numbered
its layers in the order in which they were made (`base_model/conv2d_7/kernel`); our `ResNet` makes
its layers in the same order, which turns the numbers into paths.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Mapping

import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.models.named_networks import CIFAR_STEM_SIDE
from simclr_tf.models.recipe import Recipe
from simclr_tf.models.resnet import BLOCKS_PER_GROUP, ResNet

Shapes = Mapping[str, tuple[int, ...]]

_STEM = "resnet_model/initial_conv_relu_max_pool"
_GROUPS = "resnet_model/block_groups"
_HEADS = "_projection_head/linear_layers"
_TF1_STEM = "base_model/conv2d/kernel"


def recognise(shapes: Shapes) -> Recipe | None:
    """Returns the recipe of the network that has these variables, under the release's paths.

    Args:
        shapes: Path -> shape of every variable that the file holds.

    Returns:
        None where the encoder is not one of the release's networks. Shapes tell only which stem the
        network has, so `image_size` is 32 or 224.

    Example:
        >>> recognise(StoredWeights('/models/r50_1x_sk1/saved_model').shapes).sk_ratio
        0.0625
    """
    first_kernel = f"{_STEM}/0/conv2d/kernel"
    blocks = tuple(_count(shapes, f"{_GROUPS}/{group}/layers") for group in range(4))
    bottleneck = any("/conv_relu_dropblock_layers/" in path for path in shapes)
    depth = _depth(blocks, bottleneck)
    if first_kernel not in shapes or depth is None:
        return None
    main = "conv_relu_dropblock_layers" if bottleneck else "conv2d_bn_layers"
    deepest = f"{_GROUPS}/3/layers/0"
    filters = shapes[f"{deepest}/{main}/0/conv2d/kernel"][-1]
    sk_hidden = shapes.get(f"{deepest}/{main}/3/conv2d_0/kernel")
    se_kernels = [p for p in shapes if p.startswith(deepest) and p.endswith("/se_reduce/kernel")]
    se_hidden = shapes[se_kernels[0]] if se_kernels else None
    layers = _count(shapes, _HEADS)
    width, hidden = shapes[f"{_HEADS}/0/dense/kernel"] if layers > 1 else (0, 0)
    head = shapes.get("supervised_head/linear_layer/dense/kernel")
    # The small stem is a single 3 x 3 convolution; with selective kernels the stem has three.
    small = shapes[first_kernel][0] == 3 and f"{_STEM}/2/conv2d/kernel" not in shapes
    return Recipe(
        resnet_depth=depth,
        image_size=CIFAR_STEM_SIDE if small else 224,
        width_multiplier=_number(filters / 512),
        sk_ratio=sk_hidden[-1] / filters if sk_hidden else 0,
        se_ratio=se_hidden[-1] / filters if se_hidden else 0,
        channels=shapes[first_kernel][2],
        proj_head_mode={0: "none", 1: "linear"}.get(layers, "nonlinear"),
        num_proj_layers=layers or 3,
        proj_hidden_dim=0 if hidden == width else hidden,
        proj_out_dim=shapes[f"{_HEADS}/{layers - 1}/dense/kernel"][-1] if layers else 128,
        num_classes=head[-1] if head else None,
    )


def is_tf1(names: Container[str]) -> bool:
    """Whether variable names are those of the TF1 release."""
    return _TF1_STEM in names


def tf1_names(shapes: Shapes) -> dict[str, str]:
    """Returns path -> name for the variables of a TF1 checkpoint.

    Args:
        shapes: Name -> shape of every variable in the file.

    Raises:
        UserError: The names are not those of a network that the release makes.

    Source: the TF1 release's checkpoints; tests/checkpoints/test_release_import compares outputs.
    """
    depth, sk_ratio, cifar_stem = _tf1_network(shapes)
    counts = {"conv2d": 0, "batch_normalization": 0}
    names: dict[str, str] = {}
    for path in _layer_paths(depth, sk_ratio, cifar_stem):
        kind = "batch_normalization" if path.endswith("/bn") else "conv2d"
        number = f"_{counts[kind]}" if counts[kind] else ""
        counts[kind] += 1
        names |= _below(shapes, f"base_model/{kind}{number}", f"resnet_model/{path}")
    index = 0
    while f"head_contrastive/nl_{index}/dense/kernel" in shapes:
        theirs, ours = f"head_contrastive/nl_{index}", f"{_HEADS}/{index}"
        names |= _below(shapes, f"{theirs}/dense", f"{ours}/dense")
        names |= _below(shapes, f"{theirs}/batch_normalization", f"{ours}/bn_relu/bn")
        index += 1
    dense = "linear_layer/dense"
    names |= _below(shapes, f"head_supervised/{dense}", f"supervised_head/{dense}")
    return names


def _below(shapes: Shapes, theirs: str, ours: str) -> dict[str, str]:
    """Returns path -> name for the variables directly below a layer's name."""
    kinds = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    return {f"{ours}/{kind}": f"{theirs}/{kind}" for kind in kinds if f"{theirs}/{kind}" in shapes}


def _tf1_network(shapes: Shapes) -> tuple[int, float, bool]:
    """Returns depth, sk_ratio (0, or a stand-in above 0) and whether the stem is the small one."""
    kernels: list[tuple[int, ...]] = []
    while True:
        number = f"_{len(kernels)}" if kernels else ""
        name = f"base_model/conv2d{number}/kernel"
        if name not in shapes:
            break
        kernels.append(shapes[name])
    # The first 1 x 1 kernel is the first block's shortcut: the kernels before it are the stem.
    stem = next((i for i, kernel in enumerate(kernels) if kernel[0] == 1), 0)
    blocks = kernels[stem:]
    bottleneck = len(blocks) > 1 and blocks[1][0] == 1
    has_sk = stem == 3
    convolutions = (5 if has_sk else 3) if bottleneck else 2
    for depth, groups in BLOCKS_PER_GROUP.items():
        if (depth >= 50) == bottleneck and len(blocks) == 4 + convolutions * sum(groups):
            return depth, 0.0625 if has_sk else 0.0, stem == 1 and kernels[0][0] == 3
    raise UserError(
        f"Expected a TF1 checkpoint of a ResNet among {sorted(BLOCKS_PER_GROUP)}; received: one of "
        f"{len(kernels)} convolutions. Pass one that the release's code wrote."
    )


@functools.lru_cache
def _layer_paths(depth: int, sk_ratio: float, cifar_stem: bool) -> tuple[str, ...]:
    """Returns the paths of an encoder's layers in the order of their creation."""
    # One channel wide and in a throw-away graph, so that no weight is allocated.
    with tf.Graph().as_default():
        narrow = ResNet(depth, 1 / 64, cifar_stem=cifar_stem, sk_ratio=sk_ratio)
    return tuple(narrow.release_paths.values())


def _count(shapes: Shapes, folder: str) -> int:
    """Returns how many numbered entries there are in a folder."""
    found = (re.match(rf"{folder}/(\d+)/", path) for path in shapes)
    return len({match[1] for match in found if match})


def _depth(blocks: tuple[int, ...], bottleneck: bool) -> int | None:
    for depth, groups in BLOCKS_PER_GROUP.items():
        if groups == blocks and (depth >= 50) == bottleneck:
            return depth
    return None


def _number(value: float) -> float:
    return int(value) if value == int(value) else value
