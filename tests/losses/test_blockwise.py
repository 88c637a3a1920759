"""NT-Xent in blocks: the recorded cases, float64, when blocks are chosen, memory, GPU kernels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from contrastive import (
    CASES,
    assert_equals_the_release,
    loss_and_gradient,
    on_replicas,
    settings_of,
    views,
)
from gpu_kernels import ops_without_gpu_kernel
from peak_memory import last_number

from simclr_tf.errors import UserError
from simclr_tf.losses.blocks import default_block_size
from simclr_tf.losses.nt_xent import nt_xent


@pytest.mark.parametrize("block_size", [1, 7, 1000])
@pytest.mark.parametrize("case", CASES)
def test_blocks_equal_the_release(golden, case, block_size):
    z = golden("nt_xent")
    hidden, settings = z[f"{case}_hidden"], settings_of(z, case)
    output, gradient = loss_and_gradient(hidden, block_size=block_size, **settings)
    assert output.logits_ab is None
    values = {
        "loss": output.loss,
        "grad": gradient,
        "contrast_acc": output.accuracy,
        "contrast_entropy": output.entropy,
    }
    # Case 4: see test_replicas_equal_the_release in test_nt_xent.py.
    assert_equals_the_release(z, case, values, 5e-5 if case == 4 else 1e-5)


def exact_loss_and_gradient(hidden, temperature):
    """The plain form and its gradient in float64, rows normalised."""
    x = hidden.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    z = x / length
    rows, n = len(z), len(z) // 2
    logits = z @ z.T / temperature
    np.fill_diagonal(logits, -np.inf)
    partner = (np.arange(rows) + n) % rows
    top = logits.max(1, keepdims=True)
    exponential = np.exp(logits - top)
    total = exponential.sum(1, keepdims=True)
    loss = (np.log(total) + top)[:, 0] - logits[np.arange(rows), partner]
    share = exponential / total
    share[np.arange(rows), partner] -= 1
    of_z = (share + share.T) @ z / temperature / n
    return loss.sum() / n, (of_z - z * (of_z * z).sum(1, keepdims=True)) / length


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_blocks_equal_float64(temperature):
    hidden = views(700, 128)
    output, gradient = loss_and_gradient(hidden, temperature=temperature, block_size=256)
    loss, expected = exact_loss_and_gradient(hidden, temperature)
    assert float(output.loss) == pytest.approx(loss, rel=1e-6)
    assert deviation(gradient, expected) <= 1e-6


def test_blocks_keep_their_digits_when_the_loss_is_small():
    """Late in training a row's log-sum and its positive are nearly equal."""
    random = np.random.RandomState(0)
    first, noise = random.standard_normal((2, 300, 128)).astype("float32")
    hidden = np.concatenate([first, first + 0.3 * noise])
    output, gradient = loss_and_gradient(hidden, temperature=0.05, block_size=128)
    loss, expected = exact_loss_and_gradient(hidden, 0.05)
    assert loss < 1e-4
    assert float(output.loss) == pytest.approx(loss, rel=2e-6)
    assert deviation(gradient, expected) <= 1e-5


@pytest.mark.parametrize("jit_compile", [False, True])
def test_blocks_are_chosen_for_batches_not_known_before_the_step(jit_compile):
    chosen = []

    @tf.function(input_signature=[tf.TensorSpec([None, 5])], jit_compile=jit_compile)
    def step(hidden):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            output = nt_xent(hidden)
        chosen.append(output.logits_ab is None)
        return output.loss, tape.gradient(output.loss, hidden), output.labels

    for n in (3, 1100):  # one block, two blocks
        loss, gradient, labels = step(views(n))
        plain, expected = loss_and_gradient(views(n), block_size=0)
        assert float(loss) == pytest.approx(float(plain.loss), rel=1e-6)
        assert deviation(gradient, expected) <= 1e-5
        np.testing.assert_array_equal(labels, np.arange(n))
    assert chosen == [True]


@pytest.mark.parametrize("strategy", [2], indirect=True)
def test_blocks_are_chosen_on_replicas(strategy):
    """A gather returns no static shape; the rule must not need it."""
    hidden = views(1600, 16)  # 800 x 1,600 is above 2 ** 20, 800 x 800 is not
    outputs, gradient = on_replicas(strategy, hidden, temperature=0.5)
    assert "logits_ab" not in outputs
    loss, expected = exact_loss_and_gradient(hidden, 0.5)
    assert np.mean(outputs["loss"]) == pytest.approx(loss, rel=1e-6)
    assert deviation(gradient, expected) <= 2e-6


def test_blocks_take_unknown_batches_and_half_precision():
    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.bfloat16)])
    def step(hidden):
        return nt_xent(hidden, block_size=4).loss, nt_xent(hidden, block_size=0).loss

    for n in (1, 6, 9):
        blocks, plain = step(tf.cast(views(n), tf.bfloat16))
        assert float(blocks) == pytest.approx(float(plain), rel=1e-6, abs=1e-6)


def test_blocks_reach_the_temperature():
    gradients = []
    for block_size in (0, 4):
        temperature = tf.Variable(0.5)
        with tf.GradientTape() as tape:
            loss = nt_xent(views(), temperature, block_size=block_size).loss
        gradients.append(float(tape.gradient(loss, temperature)))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)


def test_blocks_are_chosen_by_size():
    assert default_block_size(1024, 1024) == 0
    assert int(default_block_size(tf.constant(2048), tf.constant(4096))) == 256
    assert int(default_block_size(tf.constant(64), tf.constant(64))) == 64
    assert default_block_size(2048, 2048) == 512
    assert default_block_size(8, 2**24) == 1
    assert nt_xent(views(1025, 2)).logits_ab is None and nt_xent(views(64, 2)).logits_ab is not None


MEASURE = """
import tensorflow as tf
from simclr_tf.losses.nt_xent import nt_xent

@tf.function
def step(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = nt_xent(x, block_size=int(sys.argv[1])).loss
    return tape.gradient(loss, x)

step(tf.random.normal([64, 128]))
before = peak()
step(tf.random.normal([8192, 128]))
print(peak() - before)
"""


# The size of a block is our own choice; both lanes compare losses and gradients.
@pytest.mark.one_lane
@pytest.mark.slow
def test_blocks_take_a_fraction_of_the_memory():
    plain, blocks = last_number(MEASURE, 0), last_number(MEASURE, 128)
    assert 0 < blocks < plain / 5  # 1/8 at twice the batch: `benchmark loss`


def test_negative_block_size():
    with pytest.raises(UserError, match="Expected block_size >= 0; received: -1"):
        nt_xent(views(), block_size=-1)


@pytest.mark.parametrize("rows", [None, 16])
def test_every_op_of_the_blocks_has_a_gpu_kernel(rows):
    @tf.function(input_signature=[tf.TensorSpec([rows, 8])])
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = nt_xent(x, block_size=5)
        return output.loss, output.accuracy, output.entropy, tape.gradient(output.loss, x)

    assert ops_without_gpu_kernel(step.get_concrete_function()) == []
