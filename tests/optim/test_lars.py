"""LARS on single variables: by hand, the recorded six steps in four forms, what is left out."""

from __future__ import annotations

import inspect
import itertools
import warnings

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from recorded import LARS_FORMS as FORMS
from recorded import StepRate, lars_steps
from tensorflow import keras

from simclr_tf.errors import UserError
from simclr_tf.optim.lars import LARS


def one_step(weight, gradient, **settings):
    w = tf.Variable(weight, dtype=tf.float32)
    LARS(**settings).apply_gradients([(tf.constant(gradient, tf.float32), w)])
    return w.numpy()


def test_one_step_by_hand():
    # |w| = 5; g + 0.1 w = (0.3, 0.4), |.| = 0.5; ratio = 0.01 * 5 / 0.5 = 0.1; step = 2 * 0.1 * g
    settings = {"learning_rate": 2.0, "weight_decay": 0.1, "eeta": 0.01}
    ours = one_step([3.0, 4.0], [0.0, 0.0], **settings)
    np.testing.assert_allclose(ours, [3 - 0.06, 4 - 0.08], rtol=1e-6)
    # Nesterov: 0.9 m + step with m = step, so 1.9 of the same step; popular looks ahead before
    # the ratio, which then takes the factor 1.9 out again.
    ours = one_step([3.0, 4.0], [0.0, 0.0], nesterov=True, **settings)
    np.testing.assert_allclose(ours, [3 - 1.9 * 0.06, 4 - 1.9 * 0.08], rtol=1e-6)
    ours = one_step([3.0, 4.0], [0.0, 0.0], nesterov=True, classic_momentum=False, **settings)
    np.testing.assert_allclose(ours, [3 - 0.06, 4 - 0.08], rtol=1e-6)


def test_two_steps_by_hand_differ_between_the_momentum_forms():
    # One weight, w = 1, g = 1, eeta = 0.1, momentum 0.5, rates 1 and 10, no decay.
    # classic: m = 0.1, w = 0.9; ratio 0.09, m = 0.05 + 0.9, w = -0.05
    # popular: m = 1, w = 0.9; m = 1.5, ratio 0.06, w = 0.9 - 10 * 0.09 = 0
    for classic, expected in ((True, -0.05), (False, 0.0)):
        w = tf.Variable([1.0])
        lars = LARS(StepRate([1, 10]), momentum=0.5, eeta=0.1, classic_momentum=classic)
        for _ in range(2):
            lars.apply_gradients([(tf.constant([1.0]), w)])
        np.testing.assert_allclose(w, [expected], atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_zero_norms_have_ratio_one(form):
    settings = {"learning_rate": 1.0, "momentum": 0.0, **FORMS[form]}
    np.testing.assert_allclose(one_step([0.0, 0.0], [1.0, 2.0], **settings), [-1, -2])
    np.testing.assert_allclose(one_step([3.0, 4.0], [0.0, 0.0], **settings), [3, 4])
    np.testing.assert_allclose(one_step([0.0], [0.0], **settings), [0])


def test_no_layer_adaptation_is_momentum_sgd():
    rs = np.random.RandomState(0)
    ours, theirs = tf.Variable(rs.rand(3, 2)), tf.Variable(rs.rand(3, 2))
    theirs.assign(ours)
    lars = LARS(0.1)
    lars.exclude([ours])
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    for _ in range(4):
        gradient = tf.constant(rs.standard_normal((3, 2)))
        lars.apply_gradients([(gradient, ours)])
        sgd.apply_gradients([(gradient, theirs)])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_six_steps_equal_the_release(golden, form, compiled):
    z = golden("lars")
    for step, values in lars_steps(z, form, compiled):
        assert len(values) == 6
        for name, value in values.items():
            assert deviation(value, z[f"{form}/step{step}/{name}"]) <= 1e-5, (step, name)


def test_recorded_forms_are_told_apart(golden):
    z = golden("lars")
    last = {form: list(lars_steps(z, form))[-1][1] for form in FORMS}
    for ours, theirs in itertools.permutations(FORMS, 2):
        name = "conv2d/kernel"
        assert (
            deviation(last[ours][name], z[f"{theirs}/step5/{name}"]) > 5e-5
        )  # five times the tolerance


def test_exclusion_of_either_kind():
    values = [3.0, 4.0], [0.3, 0.4]

    def moved(weight_decay, layer_adaptation, **settings):
        w = tf.Variable(values[0])
        lars = LARS(1.0, weight_decay=0.1, eeta=0.01, **settings)
        lars.exclude([w], weight_decay, layer_adaptation)
        lars.apply_gradients([(tf.constant(values[1]), w)])
        return values[0] - w.numpy()

    # g = (0.3, 0.4), decayed (0.6, 0.8); |w| = 5, so a ratio turns either into 0.05 * (0.6, 0.8).
    np.testing.assert_allclose(moved(True, True), [0.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(moved(False, True), [0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(moved(True, False), [0.03, 0.04], atol=1e-6)
    by_position = {"exclude_from_layer_adaptation": [0]}
    np.testing.assert_allclose(moved(True, False, **by_position), [0.3, 0.4], atol=1e-6)


def test_keras_own_exclusion_is_by_identity():
    w = tf.Variable([3.0, 4.0])
    lars = LARS(1.0, weight_decay=0.1)
    lars.exclude_from_weight_decay(var_list=[w])
    lars.apply_gradients([(tf.zeros([2]), w)])
    np.testing.assert_array_equal(w, [3.0, 4.0])
    with pytest.raises(UserError, match="received: names"):
        lars.exclude_from_weight_decay(var_names=["bias"])


def test_sparse_gradient_and_missing_gradient():
    table, other = tf.Variable(tf.ones([3, 2])), tf.Variable([1.0])
    lars = LARS(1.0, exclude_from_layer_adaptation=[table])
    lars.build([table, other])
    sparse = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]), tf.constant([3, 2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 tells of the gradient that is None
        lars.apply_gradients([(sparse, table), (None, other)])
    np.testing.assert_allclose(table, [[1, 1], [-1, -1], [1, 1]])
    np.testing.assert_allclose(other, [1])


def test_norms_of_half_precision_weights_do_not_overflow():
    gradient = tf.fill([4], tf.constant(300.0, tf.float16))  # whose squares exceed float16
    w = tf.Variable(gradient)
    LARS(1.0, eeta=0.5).apply_gradients([(gradient, w)])
    np.testing.assert_allclose(w, np.full(4, 150.0))


def test_configuration_round_trip():
    values = {
        "learning_rate": 0.25,
        "momentum": 0.8,
        "weight_decay": 0.01,
        "eeta": 0.002,
        "nesterov": True,
        "classic_momentum": False,
        "exclude_from_weight_decay": [1],
        "exclude_from_layer_adaptation": [0, 1],
        "name": "mine",
    }
    arguments = set(inspect.signature(LARS.__init__).parameters) - {"self", "kwargs"}
    assert set(values) == arguments
    lars = LARS(**values, clipnorm=3.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(lars))
    assert type(again) is LARS
    for config in (lars.get_config(), again.get_config()):
        assert {k: config[k] for k in arguments} == values
        assert config["clipnorm"] == 3.0
    assert again.get_config() == lars.get_config()


def test_positions_beyond_the_variables():
    with pytest.raises(UserError, match="Expected positions below 1.*received"):
        LARS(exclude_from_weight_decay=[7]).build([tf.Variable([1.0])])


@pytest.mark.parametrize(
    "change", [{"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}, {"eeta": 0.0}]
)
def test_wrong_arguments(change):
    with pytest.raises(UserError, match="Expected .*received: "):
        LARS(**change)
