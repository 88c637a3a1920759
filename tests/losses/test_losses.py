"""NT-Xent: the recorded cases, the paper's algorithm 1 as loops, blocks, replicas, XLA."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from gpu_kernels import ops_without_gpu_kernel
from peak_memory import last_number

from simclr_tf.errors import UserError
from simclr_tf.losses.blockwise import default_block_size
from simclr_tf.losses.cross_entropy import supervised_loss
from simclr_tf.losses.nt_xent import nt_xent

CASES = range(5)


def views(n: int = 6, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((2 * n, d)).astype("float32")


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


def loss_and_gradient(hidden: np.ndarray, **settings):
    x = tf.constant(hidden)
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = nt_xent(x, **settings)
    return output, tape.gradient(output.loss, x)


def settings_of(z, case):
    return {
        "temperature": float(z[f"{case}_temperature"]),
        "hidden_norm": bool(z[f"{case}_hidden_norm"]),
    }


def assert_equals_the_release(z, case, values, entropy_tolerance=1e-5):
    for name, value in values.items():
        tolerance = entropy_tolerance if name == "contrast_entropy" else 1e-5
        assert deviation(value, z[f"{case}_{name}"]) <= tolerance, name


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
    # Case 4: see test_replicas_equal_the_release.
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


def test_negative_block_size():
    with pytest.raises(UserError, match="Expected block_size >= 0; received: -1"):
        nt_xent(views(), block_size=-1)


def on_replicas(strategy, hidden, signature=None, sizes=None, **settings):
    """Returns per-replica outputs and the gradient of the mean loss, put together."""
    replicas = strategy.num_replicas_in_sync
    first, second = np.split(hidden, 2)
    n = len(first)
    ends = np.cumsum(sizes or [n // replicas] * replicas)
    parts = [
        np.concatenate([a, b])
        for a, b in zip(np.split(first, ends[:-1]), np.split(second, ends[:-1]), strict=True)
    ]
    x = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )

    def step(hidden):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            output = nt_xent(hidden, **settings)
            loss = output.loss / replicas
        kept = {name: value for name, value in output._asdict().items() if value is not None}
        return kept, tape.gradient(loss, hidden)

    @tf.function(input_signature=signature)
    def run(x):
        return strategy.run(step, args=(x,))

    outputs, gradients = run(x)
    outputs = {k: strategy.experimental_local_results(v) for k, v in outputs.items()}
    halves = [np.split(g, 2) for g in strategy.experimental_local_results(gradients)]
    gradient = np.concatenate([h[0] for h in halves] + [h[1] for h in halves])
    return outputs, gradient


@pytest.mark.parametrize("strategy", [1, 2, 4], indirect=True)
@pytest.mark.parametrize("case", [0, 1, 2, 4])  # case 3 has 33 images
@pytest.mark.parametrize("block_size", [0, 3])
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
@pytest.mark.parametrize("sizes", [[3, 3], [4, 2], [6, 0], [0, 6]])
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


@pytest.mark.parametrize("block_size", [0, 5])
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


@pytest.mark.parametrize("rows", [None, 16])
def test_every_op_of_the_blocks_has_a_gpu_kernel(rows):
    @tf.function(input_signature=[tf.TensorSpec([rows, 8])])
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = nt_xent(x, block_size=5)
        return output.loss, output.accuracy, output.entropy, tape.gradient(output.loss, x)

    assert ops_without_gpu_kernel(step.get_concrete_function()) == []


def test_supervised_loss_equals_the_formula():
    rs = np.random.RandomState(3)
    logits = rs.standard_normal((7, 4)).astype("float32")
    labels = rs.randint(0, 4, 7)
    shifted = np.exp(logits.astype(np.float64))
    expected = -np.log(shifted[np.arange(7), labels] / shifted.sum(1))
    one_hot = np.eye(4)[labels]
    for form in (labels.astype("int64"), labels.astype("int32"), labels[:, None], one_hot):
        np.testing.assert_allclose(supervised_loss(form, logits, True), expected, rtol=1e-5)
        assert float(supervised_loss(form, logits)) == pytest.approx(expected.mean(), rel=1e-5)
    soft = 0.9 * one_hot + 0.1 / 4
    by_hand = -(soft * np.log(shifted / shifted.sum(1, keepdims=True))).sum(1)
    np.testing.assert_allclose(supervised_loss(soft, logits, True), by_hand, rtol=1e-5)


def test_supervised_loss_computes_in_float32():
    logits = tf.constant([[3.1, -2.0]], tf.bfloat16)
    loss = supervised_loss([1], logits)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(np.log1p(np.exp(float(logits[0, 0]) + 2)), rel=1e-5)


def test_supervised_loss_wrong_shapes():
    with pytest.raises(UserError, match="Expected labels .*received: "):
        supervised_loss(np.ones((3, 5), np.float32), np.ones((3, 4), np.float32))
