"""Networks of Keras that are quick to build: fewer of the like blocks, and weights drawn once.

Fixtures for modules that ask about what is around a network: what the libraries stack is theirs.
Not for numbers of parameters, nor where another process is to load the network. The functions and
tables are Keras's own; where a version has them under another name, its networks are built whole.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

POOL = np.random.RandomState(0).standard_normal(1 << 16).astype(np.float32)


def drawn(initializer: Any, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
    """Weights as an initializer makes them, but from one pool of draws."""
    shape = tuple(shape)
    deviation = getattr(initializer, "stddev", None)
    if deviation is None:
        receptive = float(np.prod(shape[:-2]))
        fans = {"fan_in": receptive * np.prod(shape[-2:-1]), "fan_out": receptive * shape[-1]}
        deviation = (initializer.scale / fans.get(initializer.mode, sum(fans.values()) / 2)) ** 0.5
    pool = np.roll(POOL, np.random.randint(len(POOL))) * np.float32(deviation)
    return tf.cast(tf.constant(np.resize(pool, shape)), dtype or "float32")


@pytest.fixture(scope="module")
def drawn_once() -> Iterator[None]:
    """First weights come from a pool: random draws were more than half the time of a wide network.

    Weights of one layer repeat after 65,536 numbers; those of two layers differ.
    """
    with pytest.MonkeyPatch.context() as patch:
        for kind in (keras.initializers.VarianceScaling, keras.initializers.RandomNormal):
            plain = kind.__call__

            def draw(
                initializer: Any, shape: Any, dtype: Any = None, plain: Any = plain, **kwargs: Any
            ) -> Any:
                # What a throw-away graph would draw is never drawn: a constant would be held.
                function = drawn if tf.executing_eagerly() else plain
                return function(initializer, shape, dtype, **kwargs)

            patch.setattr(kind, "__call__", draw)
        yield


def library(name: str) -> ModuleType:
    """The module of `keras.applications` that makes a network."""
    return sys.modules[getattr(keras.applications, name).__module__]


def _fewer(
    module: ModuleType, name: str, patch: pytest.MonkeyPatch, **changed: Callable[[Any], Any]
) -> None:
    """Has a function of a library take other arguments, made from those that it is given."""
    function = getattr(module, name, None)
    signature = inspect.signature(function or (lambda: None))
    if not {*changed} <= {*signature.parameters}:
        return

    def called(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        made = {key: value(given.arguments) for key, value in changed.items()}
        given.arguments.update(made)
        return function(*given.args, **given.kwargs)

    patch.setattr(module, name, called)


def _without_repeats(module: ModuleType, name: str, last: int, patch: pytest.MonkeyPatch) -> None:
    """Leaves out blocks after block `last` that neither stride nor widen."""
    function = getattr(module, name, None)
    signature = inspect.signature(function or (lambda: None))
    if "block_id" not in signature.parameters:
        return

    def called(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        x = given.args[0]
        value = given.arguments
        filters = value.get("filters", value.get("pointwise_conv_filters"))
        stride = value.get("stride", value.get("strides"))
        like = stride in (1, (1, 1)) and x.shape[-1] == filters
        return x if like and value["block_id"] > last else function(*args, **kwargs)

    patch.setattr(module, name, called)


@pytest.fixture(scope="module")
def few_blocks() -> Iterator[None]:
    """Networks of `keras.applications` have one or two of each kind of block."""
    with pytest.MonkeyPatch.context() as patch:
        for change in (_fewer_convolutional, _fewer_mobile, _fewer_residual):
            with contextlib.suppress(AttributeError, KeyError, IndexError):
                change(patch)
        yield


def _fewer_convolutional(patch: pytest.MonkeyPatch) -> None:
    configs = library("ConvNeXtTiny").MODEL_CONFIGS
    patch.setitem(configs["tiny"], "depths", [1, 2, 1, 1])
    _fewer(library("DenseNet121"), "DenseNet", patch, blocks=lambda given: [2, 1, 1, 1])
    _fewer(library("NASNetMobile"), "NASNet", patch, num_blocks=lambda given: 1)


def _fewer_mobile(patch: pytest.MonkeyPatch) -> None:
    _without_repeats(library("MobileNet"), "_depthwise_conv_block", 3, patch)
    _without_repeats(library("MobileNetV2"), "_inverted_res_block", 2, patch)
    _without_repeats(library("MobileNetV3Small"), "_inverted_res_block", 2, patch)
    table = library("EfficientNetB0").DEFAULT_BLOCKS_ARGS  # other blocks: other sizes
    patch.setattr(library("EfficientNetB0"), "DEFAULT_BLOCKS_ARGS", table[:2])
    tables = library("EfficientNetV2B0").DEFAULT_BLOCKS_ARGS
    rows = tables["efficientnetv2-b0"]
    kinds = [rows[0], rows[1], {**rows[3], "num_repeat": 2, "input_filters": 32}]
    patch.setitem(tables, "efficientnetv2-b0", kinds)


def _fewer_residual(patch: pytest.MonkeyPatch) -> None:
    resnet = library("ResNet50")
    for stack in ("stack1", "stack_residual_blocks_v1"):
        _fewer(resnet, stack, patch, blocks=lambda given: 1 + (given["filters"] == 64))
    for stack in ("stack2", "stack_residual_blocks_v2"):  # a first and a last
        _fewer(resnet, stack, patch, blocks=lambda given: 2)
    if hasattr(keras.applications, "RegNetX002"):
        regnets = library("RegNetX002").MODEL_CONFIGS
        for size in ("x002", "y002"):
            patch.setitem(regnets[size], "depths", [1, 2, 1, 1])
        groups = library("ResNetRS50").BLOCK_ARGS
        few = [{**row, "num_repeats": 1 + (i == 0)} for i, row in enumerate(groups[50])]
        patch.setitem(groups, 50, few)
