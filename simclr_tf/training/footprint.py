"""What a training step holds in memory, computed from the model without running it.

The encoder's forward and backward pass are traced, which computes nothing, and the trace is walked
in its order: a tensor takes memory from the operation that makes it to the last that reads it. So
what the backward pass keeps is counted for any network, in the types that it computes in.

Counted: variables, optimizer slots, gradients, the batch, its views, activations, the matrices or
blocks of the loss, gathered embeddings, working copies of kernels. Not counted: TensorFlow itself,
images that are cached, a distillation's teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.compat import optimizer_variables, raw_variable
from simclr_tf.losses.blocks import default_block_size
from simclr_tf.losses.softmax_losses import NTXent
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.simclr import SimCLR

_FLOAT = 4  # bytes
# Outputs that share their input's memory.
_ALIASES = {"Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "StopGradient",
            "PreventGradient"}  # fmt: skip
# They write over an input that nothing reads afterwards.
_IN_PLACE = {"Relu", "ReluGrad", "Relu6", "Relu6Grad", "Add", "AddV2", "AddN", "BiasAdd", "Sub",
             "Mul", "RealDiv", "Square", "Sigmoid", "SigmoidGrad", "Tanh", "Neg",
             "Maximum"}  # fmt: skip
_NOTHING_OF_ITS_OWN = {"Placeholder", "ReadVariableOp", "Const", "VarHandleOp"}
_TRACED = (64, 128)  # views; two sizes give the line through them
# Matrices of similarities that are there at a time: of (images, all images), and of a block.
_PLAIN_COPIES, _BLOCK_COPIES = 20, 16
_ROW_COPIES = 8  # of (views, all views and a memory), for the losses that are made of rows
# Of the largest tensor: measured on a processor, where convolutions reorder what they read.
_WORKING_COPIES = 2
# Of the views, while they are made: measured for SimCLR's, of 32 pixels.
_MAKING_COPIES = 7
_BACKWARD = "start_of_backward_pass"


class Held(NamedTuple):
    """Bytes of a pass through an encoder, its weights and their gradient left out.

    Attributes:
        peak: The most that is held at a time.
        kept: What the forward pass leaves for the backward pass.
        largest: The largest tensor.
    """

    peak: float
    kept: float
    largest: float


@dataclasses.dataclass(frozen=True)
class EncoderMemory:
    """A line through two traces: what any number of views takes.

    Attributes:
        fixed: Bytes whatever the number.
        per_view: Bytes for each view.
    """

    fixed: Held
    per_view: Held

    def of(self, views: int) -> Held:
        """Returns what so many views take."""
        pairs = zip(self.fixed, self.per_view, strict=True)
        return Held(*(max(0.0, fixed + views * each) for fixed, each in pairs))


def trace_encoder(encoder: keras.Model, image_size: int) -> EncoderMemory:
    """Returns what a training pass through an encoder holds, by the number of views.

    Args:
        encoder: Images (N, height, width, channels) to features (N, d).
        image_size: Side of the views in pixels.

    Example:
        >>> memory = trace_encoder(ResNet(18, cifar_stem=True), 32)
        >>> round(memory.of(512).peak / 2**20)  # MiB
    """
    small, large = (_traced(encoder, image_size, views) for views in _TRACED)
    span = _TRACED[1] - _TRACED[0]
    per_view = Held(*((b - a) / span for a, b in zip(small, large, strict=True)))
    fixed = Held(*(a - _TRACED[0] * each for a, each in zip(small, per_view, strict=True)))
    return EncoderMemory(fixed, per_view)


def _traced(encoder: keras.Model, image_size: int, views: int) -> Held:
    variables = [raw_variable(variable) for variable in encoder.trainable_variables]

    def step(images: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            features = encoder(images, training=True)
        if not variables:
            return [features]
        # Named, so that the walk finds where the backward pass begins.
        with tf.name_scope(_BACKWARD):
            start = tf.ones_like(features)
        found = tape.gradient(features, variables, output_gradients=start)
        return [gradient for gradient in found if gradient is not None]

    shape = (views, image_size, image_size, encoder.input_shape[-1])
    graph = tf.function(step).get_concrete_function(tf.TensorSpec(shape)).graph
    return _walk(graph, holds_outputs=not variables)


def _walk(graph: tf.Graph, holds_outputs: bool) -> Held:
    """Adds up, operation by operation, what is held.

    Args:
        graph: What a step does.
        holds_outputs: Whether its outputs count; gradients of variables are counted elsewhere.
    """
    operations = needed_operations(graph)
    owner: dict[str, str] = {}  # tensor -> the tensor whose memory it shares
    last_reader: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for number, operation in enumerate(operations):
        inputs = [tensor.name for tensor in operation.inputs]
        for index, output in enumerate(operation.outputs):
            if operation.type in _ALIASES and inputs:
                owner[output.name] = owner.get(inputs[min(index, len(inputs) - 1)], "")
            else:
                owner[output.name] = output.name
                sizes[output.name] = 0 if operation.type in _NOTHING_OF_ITS_OWN else _size(output)
        for name in inputs:
            last_reader[owner.get(name, name)] = number
    outputs = {owner.get(t.name, t.name) for t in graph.outputs if t.dtype != tf.resource}
    held = peak = kept = largest = 0
    taken: dict[str, int] = {}
    for number, operation in enumerate(operations):
        mine = [t.name for t in operation.outputs if owner[t.name] == t.name]
        done = {owner.get(t.name, t.name) for t in operation.inputs}
        done = {name for name in done if last_reader[name] == number and name in taken}
        if operation.type in _IN_PLACE and mine:
            same = [n for n in done if taken[n] == sizes[mine[0]]]
            if same:
                held -= taken.pop(same[0])
        for name in mine:
            counted = holds_outputs or name not in outputs
            taken[name] = sizes[name] if counted else 0
            held += taken[name]
            largest = max(largest, taken[name])
        peak = max(peak, held)
        unread = {name for name in mine if name not in last_reader and name not in outputs}
        for name in (done | unread) - outputs:
            held -= taken.pop(name, 0)
        if _BACKWARD in operation.name:
            kept = held
    return Held(peak, kept, largest)


def needed_operations(graph: tf.Graph) -> list[tf.Operation]:
    """Returns what runs: what the outputs need; TensorFlow drops the rest."""
    needed = set()
    todo = [tensor.op for tensor in graph.outputs]
    todo += [op for op in graph.get_operations() if op.type == "AssignVariableOp"]
    while todo:
        operation = todo.pop()
        if operation not in needed:
            needed.add(operation)
            todo += [tensor.op for tensor in operation.inputs]
    return [operation for operation in graph.get_operations() if operation in needed]


def _size(tensor: tf.Tensor) -> int:
    if tensor.dtype in (tf.resource, tf.variant, tf.string) or not tensor.shape.is_fully_defined():
        return 0
    return int(np.prod(tensor.shape.as_list(), dtype=np.int64)) * tensor.dtype.size


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes that one replica holds while it trains.

    Attributes:
        variables: Weights and statistics, with copies that a step keeps of them.
        slots: The optimizer's state.
        gradients: Of the trainable variables; with micro-batches their sums too.
        batch: The images as they reach the device.
        views: Float32 views; of one micro-batch where there are micro-batches.
        activations: The most that the encoder's passes hold beyond their views.
        working: Copies that kernels make for themselves.
        loss: Matrices or blocks of similarities.
        gathered: Embeddings of all replicas, and their gradients.
        making: What making the views holds beyond the passes after it; 0 for all but tiny networks.
    """

    variables: int
    slots: int
    gradients: int
    batch: int
    views: int
    activations: int
    working: int
    loss: int
    gathered: int
    making: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in dataclasses.fields(self))


def footprint(
    model: SimCLR | Classifier,
    encoder: EncoderMemory,
    *,
    image_size: int,
    images: int,
    replicas: int = 1,
    micro_batch_size: int = 0,
    image_bytes: int | None = None,
) -> Footprint:
    """Returns what one replica holds in the step of a model.

    Args:
        model: Compiled, with a built optimizer.
        encoder: What `trace_encoder` returned for it.
        image_size: Side of the views in pixels.
        images: N, of each replica.
        replicas: R.
        micro_batch_size: Images embedded at a time; 0: all.
        image_bytes: Of an image as it reaches the device; None: uint8 pixels of `image_size`.

    Example:
        >>> footprint(model, trace_encoder(model.encoder, 32), image_size=32, images=256).total
    """
    contrasts = isinstance(model, SimCLR)
    copies = 2 if contrasts else 1  # views of an image
    at_once = copies * (micro_batch_size or images)
    pixels = image_size * image_size * model.encoder.input_shape[-1]
    trainable = size_of(model.trainable_variables)
    statistics = size_of(model.non_trainable_variables)
    # Two passes change the statistics, and one is taken back; so does a step that may be skipped.
    restored = bool(micro_batch_size) + bool(model.skip_non_finite)
    loss, gathered = loss_bytes(model, images, replicas) if contrasts else (0, 0)
    memory = getattr(model, "memory", None)
    remembered = 0 if memory is None else size_of(memory.variables().values())
    held = encoder.of(at_once)
    features = copies * images * model.encoder.output_shape[-1] * _FLOAT
    heads = features * (1 + 3 * model.projection_head.depth)
    found = Footprint(
        variables=trainable + statistics * (1 + restored) + remembered,
        slots=size_of(optimizer_variables(model.optimizer)),
        gradients=trainable * (1 + bool(micro_batch_size) + (replicas > 1)),
        batch=images * (pixels if image_bytes is None else image_bytes),
        views=at_once * pixels * _FLOAT,
        activations=int(max(held.peak, held.kept + heads)),
        working=int(_WORKING_COPIES * held.largest),
        loss=loss,
        gathered=gathered,
    )
    if model.augment is None:  # the input pipeline makes the views
        return found
    passes = found.total - found.variables - found.slots - found.batch
    return dataclasses.replace(found, making=max(0, _MAKING_COPIES * found.views - passes))


def loss_bytes(model: SimCLR, images: int, replicas: int) -> tuple[int, int]:
    """Returns the bytes of the loss's similarities, and of the embeddings of all replicas.

    Args:
        model: Its projection head says how wide embeddings are.
        images: N, of each replica.
        replicas: R.
    """
    everyone = images * replicas
    block = default_block_size(images, everyone)
    assert isinstance(block, int)
    rows, copies = (block, _BLOCK_COPIES) if block else (images, _PLAIN_COPIES)
    embeddings = 2 * everyone * embedding_width(model) * _FLOAT
    if model.memory is not None or not isinstance(model.contrastive_loss, NTXent):
        columns = 2 * everyone + model.memory_size
        return _ROW_COPIES * 2 * rows * columns * _FLOAT, 2 * embeddings if replicas > 1 else 0
    return copies * rows * everyone * _FLOAT, 2 * embeddings if replicas > 1 else 0


def embedding_width(model: SimCLR) -> int:
    """Returns d, the size of what the loss compares."""
    return int(model.projection_head.compute_output_shape(model.encoder.output_shape)[-1])


def size_of(variables: Iterable[tf.Variable]) -> int:
    """Returns the bytes of variables."""
    return sum(
        int(np.prod(variable.shape)) * tf.as_dtype(variable.dtype).size for variable in variables
    )
