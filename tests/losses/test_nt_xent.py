"""NT-Xent: the recorded cases, the paper's algorithm 1 as loops, replicas, XLA."""

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

from simclr_tf.errors import UserError
from simclr_tf.losses.nt_xent import nt_xent


def algorithm_1(hidden: np.ndarray, temperature: float, hidden_norm: bool) -> float:
    """The paper's algorithm 1, one pair at a time; its z_2k-1 and z_2k are rows k and N + k."""
    z = hidden.astype(np.float64)
    rows = len(z)
    n = rows // 2
    similarity = np.zeros((rows, rows))
    for i in range(rows):
        for j in range(rows):
            similarity[i, j] = z[i] @ z[j]
            if hidden_norm:
                similarity[i, j] /= np.sqrt(z[i] @ z[i]) * np.sqrt(z[j] @ z[j])

    def pair_loss(i: int, j: int) -> float:
        others = [similarity[i, k] / temperature for k in range(rows) if k != i]
        top = max(others)
        log_sum = top + np.log(sum(np.exp(s - top) for s in others))
        return log_sum - similarity[i, j] / temperature

    total = sum(pair_loss(k, k + n) + pair_loss(k + n, k) for k in range(n))
    return total / (2 * n)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_release(golden, case):
    z = golden("nt_xent")
    output, gradient = loss_and_gradient(z[f"{case}_hidden"], **settings_of(z, case))
    assert_equals_the_release(
        z,
        case,
        {
            "loss": output.loss,
            "logits_ab": output.logits_ab,
            "grad": gradient,
            "contrast_acc": output.accuracy,
            "contrast_entropy": output.entropy,
        },
    )
    np.testing.assert_array_equal(output.labels, np.arange(len(output.labels)))


@pytest.mark.parametrize("hidden_norm", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_equals_algorithm_1_twice_over(temperature, hidden_norm):
    hidden = views()
    settings = {"temperature": temperature, "hidden_norm": hidden_norm}
    output, gradient = loss_and_gradient(hidden, **settings)
    assert float(output.loss) == pytest.approx(2 * algorithm_1(hidden, **settings), rel=1e-5)
    # Central differences of the loops, in float64.
    expected = np.zeros_like(hidden, np.float64)
    for index in np.ndindex(*hidden.shape):
        ends = []
        for sign in (1, -1):
            moved = hidden.astype(np.float64)
            moved[index] += sign * 1e-5
            ends.append(2 * algorithm_1(moved, **settings))
        expected[index] = (ends[0] - ends[1]) / 2e-5
    assert deviation(gradient, expected) <= 1e-5


def test_order_of_views_and_of_images_does_not_matter():
    hidden = views()
    first, second = np.split(hidden, 2)
    loss = float(nt_xent(hidden).loss)
    assert float(nt_xent(np.concatenate([second, first])).loss) == pytest.approx(loss, rel=1e-6)
    order = np.random.RandomState(1).permutation(len(first))
    mixed = np.concatenate([first[order], second[order]])
    assert float(nt_xent(mixed).loss) == pytest.approx(loss, rel=1e-6)
    # But which view belongs to which does.
    assert abs(float(nt_xent(np.concatenate([first[order], second])).loss) - loss) > 0.1


def test_equal_views_far_apart_cost_nothing():
    hidden = np.concatenate([np.eye(4), np.eye(4)]).astype("float32")
    output = nt_xent(hidden, temperature=0.01)
    assert float(output.loss) == pytest.approx(0, abs=1e-6)
    assert float(output.accuracy) == 1
    assert float(output.entropy) == pytest.approx(0, abs=1e-6)


def test_embeddings_all_alike():
    output, gradient = loss_and_gradient(np.ones((8, 3), np.float32))
    assert float(output.loss) == pytest.approx(2 * np.log(7), rel=1e-6)  # 7 others, all alike
    assert float(output.entropy) == pytest.approx(np.log(4), rel=1e-5)
    assert np.abs(gradient).max() < 1e-5


def test_zero_vector_has_finite_gradient():
    hidden = views()
    hidden[3] = 0
    output, gradient = loss_and_gradient(hidden)
    assert np.isfinite(output.loss) and np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float64])
def test_computes_in_float32(dtype):
    hidden = tf.cast(views(), dtype)
    output = nt_xent(hidden, temperature=0.1)
    assert {t.dtype for t in output} == {tf.float32, tf.int32}
    exact = nt_xent(tf.cast(hidden, tf.float32), temperature=0.1)
    assert float(output.loss) == float(exact.loss)


def test_metrics_carry_no_gradient():
    x = tf.constant(views())
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = nt_xent(x)
        metrics = output.entropy + output.accuracy
    assert tape.gradient(metrics, x) is None


@pytest.mark.parametrize(
    ("hidden", "temperature"),
    [(np.ones((3, 4)), 0.1), (np.ones((4, 2, 2)), 0.1), (np.ones((4, 4)), 0.0)],
)
def test_wrong_arguments(hidden, temperature):
    with pytest.raises(UserError, match="Expected .*received: "):
        nt_xent(hidden, temperature)


@pytest.mark.parametrize(
    "strategy, block_size, case",
    # Case 3 has 33 images. Between them the lanes have every case of each.
    [
        *(pytest.param(2, 0, case, marks=pytest.mark.one_lane) for case in (0, 1, 2, 4)),
        *(pytest.param(1, 0, case, marks=pytest.mark.one_lane) for case in (0, 1)),
        *(pytest.param(4, 3, case, marks=pytest.mark.one_lane) for case in (0, 2)),
        *(pytest.param(1, 0, case, marks=pytest.mark.second_lane) for case in (2, 4)),
        *(pytest.param(2, 3, case, marks=pytest.mark.second_lane) for case in (0, 1, 2, 4)),
        *(pytest.param(4, 3, case, marks=pytest.mark.second_lane) for case in (1, 4)),
    ],
    indirect=["strategy"],
)
def test_replicas_equal_the_release(golden, strategy, case, block_size):
    z = golden("nt_xent")
    # Case 4 has logits near 150 and an entropy of 0.002: one rounding of a logit, 1e-5, is 1e-5 of
    # every probability, and a product of other shape than the recorded one rounds differently.
    entropy_tolerance = 5e-5 if case == 4 else 1e-5
    settings = {**settings_of(z, case), "block_size": block_size}
    outputs, gradient = on_replicas(strategy, z[f"{case}_hidden"], **settings)
    values = {
        "loss": np.mean(outputs["loss"]),
        "grad": gradient,
        "contrast_acc": np.mean(outputs["accuracy"]),
        "contrast_entropy": np.mean(outputs["entropy"]),
    }
    if not block_size:
        values["logits_ab"] = np.concatenate(outputs["logits_ab"])
    assert_equals_the_release(z, case, values, entropy_tolerance)
    labels = np.concatenate(outputs["labels"])
    np.testing.assert_array_equal(labels, np.arange(len(labels)))


@pytest.mark.parametrize("strategy", [2], indirect=True)
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([3, 3], marks=pytest.mark.second_lane),
        pytest.param([4, 2], marks=pytest.mark.one_lane),
        pytest.param([6, 0], marks=pytest.mark.second_lane),
        pytest.param([0, 6], marks=pytest.mark.one_lane),
    ],
)
def test_replicas_with_sizes_known_only_at_run_time(strategy, sizes):
    hidden = views(6)
    from tensorflow.python.distribute.values import PerReplicaSpec

    signature = [PerReplicaSpec(*[tf.TensorSpec([None, 5], tf.float32)] * 2)]
    outputs, _ = on_replicas(strategy, hidden, signature, sizes)
    whole = nt_xent(hidden)
    for name in ("loss", "accuracy", "entropy"):
        share = np.mean([float(x) for x in outputs[name]])
        assert share == pytest.approx(float(getattr(whole, name)), rel=1e-5), name
    np.testing.assert_array_equal(np.concatenate(outputs["labels"]), np.arange(6))


def test_scope_without_replicas_is_one_replica(strategy):
    hidden = views()
    with strategy.scope():
        inside = nt_xent(hidden)
    assert float(inside.loss) == float(nt_xent(hidden).loss)


# The second lane compiles blocks in test_blockwise.py.
@pytest.mark.parametrize("block_size", [0, pytest.param(5, marks=pytest.mark.one_lane)])
def test_compiles(block_size):
    hidden = views(16, 8)

    @tf.function(jit_compile=True)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = nt_xent(x, temperature=0.5, block_size=block_size)
        output = [value for value in output if value is not None]
        return output, tape.gradient(output[0], x)

    compiled, gradient = step(tf.constant(hidden))
    plain, plain_gradient = loss_and_gradient(hidden, temperature=0.5, block_size=block_size)
    plain = [value for value in plain if value is not None]
    for ours, theirs in zip((*compiled, gradient), (*plain, plain_gradient), strict=True):
        assert deviation(ours, theirs) <= 1e-5
