"""Every contrastive loss against a loop from its paper; in blocks, on replicas, with padding."""

from __future__ import annotations

import re
from pathlib import Path

import loss_loops as loops
import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from contrastive import loss_and_gradient, on_replicas, views
from gpu_kernels import ops_without_gpu_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras
from tensorflow.python.distribute.values import PerReplicaSpec

from simclr_tf.compat import deserialize, serialize
from simclr_tf.config import Config
from simclr_tf.errors import UserError
from simclr_tf.losses import batch_losses
from simclr_tf.losses.contrastive_loss import Memory
from simclr_tf.losses.named import make_loss
from simclr_tf.losses.names import NEEDS_LABELS, OPTIONS, WITH_MEMORY

T = 0.3
LABELS = np.array([0, 1, 0, -1, 2, 1, -1, 0, 2, 2, 0], np.int32)

# Name, settings, and the loop, given the rows.
LOOPS = {
    "nt_xent": ({}, lambda rows: loops.nt_xent(rows, T)),
    "info_nce": ({}, lambda rows: loops.nt_xent(rows, T)),  # over other rows
    "nt_logistic": ({}, lambda rows: loops.nt_logistic(rows, T)),
    "nt_logistic, semi-hard": (
        {"negatives": "semi_hard"},
        lambda rows: loops.nt_logistic(rows, T, "semi_hard"),
    ),
    "margin_triplet": ({"margin": 0.4}, lambda rows: loops.margin_triplet(rows, 0.4)),
    "margin_triplet, semi-hard": (
        {"margin": 0.4, "negatives": "semi_hard"},
        lambda rows: loops.margin_triplet(rows, 0.4, "semi_hard"),
    ),
    "supcon": ({}, lambda rows: loops.supcon(rows, T)),
    "dcl": ({}, lambda rows: loops.dcl(rows, T)),
    "dclw": ({"dclw_sigma": 0.7}, lambda rows: loops.dclw(rows, T, 0.7)),
    "debiased": ({"positive_prior": 0.2}, lambda rows: loops.hcl(rows, T, 0.2, 0)),
    "hcl": (
        {"positive_prior": 0.05, "hard_negative_beta": 1.5},
        lambda rows: loops.hcl(rows, T, 0.05, 1.5),
    ),
}
ROW_LOSSES = sorted(LOOPS)
WITH_SIMILARITY = [name for name in ROW_LOSSES if "similarity" in OPTIONS[name.split(",")[0]]]
REMEMBERING = [name for name in ROW_LOSSES if name.split(",")[0] in WITH_MEMORY]
EVERY = [*ROW_LOSSES, "generalized"]


def loss_of(case: str, **more):
    options = LOOPS[case][0] if case in LOOPS else {"prior_weight": 2.0}
    return make_loss(case.split(",")[0], temperature=T, **options, **more)


def rows_of(case: str, hidden, *arguments, **more):
    return loops.rows_of(hidden, *arguments, across=case == "info_nce", **more)


def labels_of(case: str, count: int):
    return LABELS[:count] if case == "supcon" else None


@pytest.mark.one_lane
@pytest.mark.parametrize("case", ROW_LOSSES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(count=st.integers(2, 9), width=st.integers(2, 6), seed=st.integers(0, 999))
def test_losses_equal_their_papers(case, count, width, seed):
    hidden, labels = views(count, width, seed), labels_of(case, count)
    loss, loop = loss_of(case), LOOPS[case][1]
    expected = loop(rows_of(case, hidden, labels=labels))
    whole, gradient = loss_and_gradient(hidden, loss, labels=labels, block_size=0)
    assert float(whole.loss) == pytest.approx(expected, rel=2e-5, abs=1e-6)
    blocks, of_blocks = loss_and_gradient(hidden, loss, labels=labels, block_size=4)
    assert float(blocks.loss) == pytest.approx(expected, rel=2e-5, abs=1e-6)
    assert np.abs(of_blocks - gradient).max() <= 1e-5 * max(np.abs(gradient).max(), 1)
    for name in ("accuracy", "entropy"):
        assert float(getattr(blocks, name)) == pytest.approx(float(getattr(whole, name)), rel=1e-5)


@pytest.mark.one_lane
@pytest.mark.parametrize("case", ROW_LOSSES)
def test_gradients_are_slopes_of_the_loops(case):
    hidden, labels = views(5, 3, 1), labels_of(case, 5)
    _, gradient = loss_and_gradient(hidden, loss_of(case), labels=labels, block_size=2)
    for place in ((0, 0), (3, 2), (7, 1)):
        step = np.zeros(hidden.shape)
        step[place] = 1e-5
        up, down = (
            LOOPS[case][1](rows_of(case, hidden + sign * step, labels=labels)) for sign in (1, -1)
        )
        assert float(gradient[place]) == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-5)


@pytest.mark.one_lane
@pytest.mark.parametrize("hidden_norm", [True, False])
@pytest.mark.parametrize("case", WITH_SIMILARITY)
def test_euclidean_distance_and_plain_products(case, hidden_norm):
    hidden, labels = views(6, 4, 2) * 0.7, labels_of(case, 6)
    for similarity in ("euclidean", "cosine"):
        loss = loss_of(case, hidden_norm=hidden_norm, similarity=similarity)
        output, _ = loss_and_gradient(hidden, loss, labels=labels)
        rows = rows_of(case, hidden, similarity, hidden_norm, labels)
        assert float(output.loss) == pytest.approx(LOOPS[case][1](rows), rel=1e-4)


@pytest.mark.one_lane
@pytest.mark.parametrize("case", REMEMBERING)
def test_views_are_compared_with_a_memory(case):
    hidden, stored, keys = views(6, 4, 3), views(5, 4, 4), views(6, 4, 9)
    filled = np.arange(len(stored)) < 7
    memory = Memory(tf.constant(stored), tf.constant(filled), tf.constant(keys))
    expected = LOOPS[case][1](loops.rows_of(hidden, memory=stored[filled], keys=keys))
    whole, gradient = loss_and_gradient(hidden, loss_of(case), memory=memory, block_size=0)
    blocks, of_blocks = loss_and_gradient(hidden, loss_of(case), memory=memory, block_size=4)
    assert float(whole.loss) == pytest.approx(expected, rel=1e-5)
    assert float(blocks.loss) == pytest.approx(expected, rel=1e-5)
    assert np.abs(of_blocks - gradient).max() <= 1e-5 * max(np.abs(gradient).max(), 1)


def test_info_nce_is_twice_the_loss_of_clip():
    """Its two directions are added, as in all losses here."""
    hidden = views(6, 4, 9)
    loss = float(make_loss("info_nce", temperature=0.07)(hidden).loss)
    assert loss == pytest.approx(2 * loops.clip(hidden, 0.07), rel=1e-5)
    # Views of one side may be as near to each other as they like.
    close = np.concatenate([np.eye(4)[:3], np.eye(4)[:3]]).astype("float32")
    close[:3, 3] = 9.0
    assert float(make_loss("info_nce")(close).loss) == pytest.approx(2 * loops.clip(close, 0.1))
    assert float(make_loss("nt_xent")(close).loss) > float(make_loss("info_nce")(close).loss) + 1


@pytest.mark.parametrize("prior", ["sphere", "normal", "cube"])
def test_the_generalised_loss_equals_its_loop(prior):
    hidden, seed = views(7, 4, 5), tf.constant([3, 4])
    loss = make_loss("generalized", prior=prior, prior_weight=3.0)
    drawn, rotation = (
        np.asarray(x, np.float64) for x in batch_losses.draw_prior(14, 4, prior, seed)
    )
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-5)
    if prior == "sphere":
        np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-5)
    output, _ = loss_and_gradient(hidden, loss, seed=seed)
    expected = loops.generalized(hidden, drawn, rotation, 3.0, prior == "sphere")
    assert float(output.loss) == pytest.approx(expected, rel=1e-5)
    other, _ = loss_and_gradient(hidden, loss, seed=tf.constant([3, 5]))
    assert float(other.loss) != float(output.loss)


@pytest.mark.one_lane
def test_draws_from_the_priors():
    cube, _ = batch_losses.draw_prior(4000, 2, "cube", tf.constant([0, 1]))
    normal, _ = batch_losses.draw_prior(4000, 2, "normal", tf.constant([0, 1]))
    assert np.abs(cube).max() <= 1 and np.std(cube) == pytest.approx(3**-0.5, rel=0.03)
    assert np.std(normal) == pytest.approx(1, rel=0.03)


@pytest.mark.one_lane
@pytest.mark.parametrize("strategy", [3], indirect=True)
@pytest.mark.parametrize("case", EVERY)
def test_replicas_equal_one_device(strategy, case):
    hidden = views(11, 4, 6)
    labels = {"labels": LABELS} if case == "supcon" else {}
    seed = tf.constant([1, 2])
    one, expected = loss_and_gradient(hidden, loss_of(case), seed=seed, **labels)
    signature = [PerReplicaSpec(*[tf.TensorSpec([None, 4])] * 3)]
    # The last replica has no image.
    outputs, gradient = on_replicas(
        strategy, hidden, signature, [7, 4, 0], loss_of(case), each_image=labels, seed=seed
    )
    for name in ("loss", "accuracy", "entropy"):
        assert np.mean(outputs[name]) == pytest.approx(float(getattr(one, name)), rel=1e-5)
    assert deviation(gradient, expected) <= 1e-5


@pytest.mark.one_lane
@pytest.mark.parametrize("block_size", [0, 3])
@pytest.mark.parametrize("case", EVERY)
def test_padding_counts_nowhere(case, block_size):
    count, real = 8, 5
    hidden = views(count, 4, 7)
    chosen = np.r_[0:real, count : count + real]
    mask = tf.constant(np.arange(count) < real)
    labels = labels_of(case, count)
    seed = tf.constant([1, 2])
    padded, gradient = loss_and_gradient(
        hidden, loss_of(case), labels=labels, mask=mask, seed=seed, block_size=block_size
    )
    alone, expected = loss_and_gradient(
        hidden[chosen],
        loss_of(case),
        labels=None if labels is None else labels[:real],
        seed=seed,
        block_size=block_size,
    )
    for name in ("loss", "accuracy", "entropy"):
        value = float(getattr(alone, name))
        assert float(getattr(padded, name)) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    np.testing.assert_allclose(np.asarray(gradient)[chosen], expected, rtol=1e-4, atol=1e-6)
    assert not np.delete(np.asarray(gradient), chosen, 0).any()


@pytest.mark.one_lane
@pytest.mark.parametrize("case", EVERY)
def test_losses_compile_and_have_gpu_kernels(case):
    loss, labels = loss_of(case), labels_of(case, 6)

    def step(hidden, seed):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            output = loss(hidden, labels=labels, seed=seed, block_size=4)
        return output.loss, tape.gradient(output.loss, hidden)

    signature = [tf.TensorSpec([None, 4]), tf.TensorSpec([2], tf.int32)]
    plain = tf.function(step, input_signature=signature)
    compiled = tf.function(step, input_signature=signature, jit_compile=True)
    hidden, seed = tf.constant(views(6, 4, 8)), tf.constant([5, 6])
    assert ops_without_gpu_kernel(plain.get_concrete_function()) == []
    for one, other in zip(plain(hidden, seed), compiled(hidden, seed), strict=True):
        if case == "generalized":  # XLA draws other numbers
            assert one.shape == other.shape and np.isfinite(other).all()
        else:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.one_lane
def test_the_tables_of_names_agree_with_the_losses():
    settings = Config()
    for name, options in OPTIONS.items():
        loss = make_loss(name)
        own = set(loss.get_config()) - {"temperature", "hidden_norm"}
        assert own == set(options), name
        assert all(loss.get_config()[option] == getattr(settings, option) for option in options)
        assert loss.takes_memory == (name in WITH_MEMORY)
        assert loss.needs_labels == (name in NEEDS_LABELS)


@pytest.mark.parametrize("case", EVERY)
def test_half_precision_and_one_image_stay_finite(case):
    for hidden in (tf.cast(views(3, 4), tf.float16), tf.constant(views(1, 4))):
        labels = labels_of(case, len(hidden) // 2)
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            loss = loss_of(case)(hidden, labels=labels).loss
        assert loss.dtype == tf.float32 and np.isfinite(loss)
        assert np.isfinite(tape.gradient(loss, hidden)).all()


@pytest.mark.parametrize("case", EVERY)
def test_losses_keep_their_settings(case):
    loss = loss_of(case)
    again = deserialize(serialize(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


@keras.utils.register_keras_serializable(package="tests")
def twice_the_distance(first, second):
    return 2.0 * tf.reduce_sum((first - second) ** 2, axis=1)


def test_a_function_of_two_embeddings():
    hidden = views(4, 3)
    first, second = np.split(loops.unit(hidden), 2)
    expected = np.mean(2 * ((first - second) ** 2).sum(1))
    assert float(make_loss(twice_the_distance)(hidden).loss) == pytest.approx(expected, rel=1e-5)
    again = deserialize(serialize(make_loss(twice_the_distance, hidden_norm=False)))
    expected = np.mean(2 * ((hidden[:4] - hidden[4:]) ** 2).sum(1))
    assert float(again(hidden).loss) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"Expected a loss of shape \(\) or \(N,\)"):
        make_loss(lambda a, b: tf.matmul(a, b, transpose_b=True))(hidden)


@pytest.mark.one_lane
def test_the_loss_of_the_page_is_barlow_twins():
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)\nmodel = ", page, re.DOTALL)
    made = {}
    exec(script, made)
    hidden = views(9, 3)
    first, second = ((z - z.mean(0)) / z.std(0) for z in np.split(hidden.astype(np.float64), 2))
    matrix = [[np.mean(first[:, i] * second[:, j]) for j in range(3)] for i in range(3)]
    expected = ((np.array(matrix) - np.eye(3)) ** 2).sum()
    loss = make_loss(made["cross_correlation"], hidden_norm=False)
    assert float(loss(hidden).loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.one_lane
@pytest.mark.parametrize(
    "arguments, message",
    [
        (("ntxent",), "Expected loss to be one of nt_xent, .* received: 'ntxent'"),
        ((3,), "Expected a function of two embeddings as the loss; received: 3"),
        (("dcl", 0.0), "Expected temperature > 0; received: 0.0"),
        (("dcl", {"margin": 1.0}), r"Expected settings of loss dcl \(similarity\); .* margin"),
        (("hcl", {"positive_prior": 1.0}), "Expected 0 <= positive_prior < 1"),
        (("hcl", {"hard_negative_beta": -1.0}), "Expected hard_negative_beta >= 0"),
        (("dclw", {"dclw_sigma": 0.0}), "Expected dclw_sigma > 0"),
        (("margin_triplet", {"margin": -0.1}), "Expected margin >= 0"),
        (("margin_triplet", {"negatives": "hard"}), "Expected negatives to be one of all, semi_h"),
        (("nt_xent", {"similarity": "dot"}), "Expected similarity to be one of cosine, euclidean"),
        (("generalized", {"prior": "torus"}), "Expected prior to be one of sphere, normal, cube"),
        (("generalized", {"prior_weight": 0.0}), "Expected prior_weight > 0"),
        (("hcl", {"hidden_norm": False}), "Expected hidden_norm=True with loss hcl"),
    ],
)
def test_wrong_losses_are_refused(arguments, message):
    positional = [a for a in arguments if not isinstance(a, dict)]
    named = {k: v for a in arguments if isinstance(a, dict) for k, v in a.items()}
    with pytest.raises(UserError, match=message):
        make_loss(*positional, **named)
