"""LARS: by hand, the recorded six steps in four forms, exclusions, replicas, serialisation."""

from __future__ import annotations

import inspect
import itertools
import sys
import warnings

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from tensorflow import keras

from simclr_tf import compat
from simclr_tf.errors import UserError
from simclr_tf.optim.lars import LARS, excluded_variables
from simclr_tf.optim.registry import OPTIMIZERS, make_optimizer
from simclr_tf.optim.schedules import WarmUpCosine

FORMS = {
    "default": {},
    "nesterov": {"nesterov": True},
    "popular": {"classic_momentum": False},
    "popular_nesterov": {"classic_momentum": False, "nesterov": True},
}
EXCLUDED_WORDS = ("batch_normalization", "bias", "head_supervised")


class StepRate(keras.optimizers.schedules.LearningRateSchedule):
    """Takes the recorded learning rate of each step."""

    def __init__(self, rates):
        self.rates = [float(r) for r in rates]

    def __call__(self, step):
        return tf.gather(tf.constant(self.rates, tf.float32), tf.cast(step, tf.int32))

    def get_config(self):
        return {"rates": self.rates}


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


def recorded(z, name):
    """Returns (name, array) of every variable, in the recorded order."""
    return [(k[len(name) + 1 :], z[k]) for k in z if k.startswith(name + "/")]


def recorded_lars(z, form, compiled=False):
    """Returns the variables after each of the six recorded updates."""
    variables = {name: tf.Variable(value) for name, value in recorded(z, "init")}
    lars = LARS(StepRate(z["learning_rates"]), weight_decay=1e-2, **FORMS[form])
    lars.exclude(v for n, v in variables.items() if any(w in n for w in EXCLUDED_WORDS))
    lars.build(list(variables.values()))

    def apply(gradients):
        lars.apply_gradients(list(zip(gradients, variables.values(), strict=True)))

    if compiled:
        apply = tf.function(apply, jit_compile=True)
    for step in range(6):
        gradients = dict(recorded(z, f"grad/step{step}"))
        apply([tf.constant(gradients[name]) for name in variables])
        yield step, {name: v.numpy() for name, v in variables.items()}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_six_steps_equal_the_release(golden, form, compiled):
    z = golden("lars")
    for step, values in recorded_lars(z, form, compiled):
        assert len(values) == 6
        for name, value in values.items():
            assert deviation(value, z[f"{form}/step{step}/{name}"]) <= 1e-5, (step, name)


def test_recorded_forms_are_told_apart(golden):
    z = golden("lars")
    last = {form: list(recorded_lars(z, form))[-1][1] for form in FORMS}
    for ours, theirs in itertools.permutations(FORMS, 2):
        name = "conv2d/kernel"
        assert (
            deviation(last[ours][name], z[f"{theirs}/step5/{name}"]) > 5e-5
        )  # five times the tolerance


def network(batch_norm=keras.layers.BatchNormalization):
    """An encoder with every kind of excluded variable, nested, beside a linear head."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=True)(inputs)
    x = batch_norm()(x)
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.GroupNormalization(2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    encoder = keras.Model(inputs, keras.layers.Dense(5)(x))
    head = keras.layers.Dense(2)
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, head(encoder(inputs))), encoder, head


def test_excluded_variables_are_picked_by_kind():
    class MyBatchNorm(keras.layers.BatchNormalization):
        pass

    model, encoder, head = network(MyBatchNorm)
    _, conv, batch_norm, depthwise, layer_norm, group_norm, _, dense = encoder.layers
    expected = [conv.bias, depthwise.bias, dense.bias]
    expected += [v for n in (batch_norm, layer_norm, group_norm) for v in (n.gamma, n.beta)]
    ids = [id(v) for v in excluded_variables(model)]
    assert sorted(ids) == sorted(id(v) for v in [*expected, head.bias])
    ids = [id(v) for v in excluded_variables(model, supervised_head=head)]
    assert sorted(ids) == sorted(id(v) for v in [*expected, head.bias, head.kernel])
    model.supervised_head = head
    assert len(excluded_variables(model)) == len(ids)


def test_excluded_variables_of_a_subclassed_model():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.bias = True  # a flag, as some layers have it
            self.parts = [keras.layers.Dense(3, name="no_bias_here"), keras.layers.Dense(2)]

        def call(self, inputs):
            return self.parts[1](self.parts[0](inputs))

    model = Two()
    with pytest.raises(UserError, match="Expected a built model"):
        excluded_variables(model)
    model(tf.zeros([1, 4]))
    assert [id(v) for v in excluded_variables(model)] == [id(p.bias) for p in model.parts]


@pytest.mark.skipif(compat.KERAS_3, reason="an argument of BatchNormalization in Keras 3")
def test_excluded_variables_know_synchronised_batch_norm():
    model, encoder, _ = network(keras.layers.experimental.SyncBatchNormalization)
    ids = [id(v) for v in excluded_variables(model)]
    assert id(encoder.layers[2].gamma) in ids and id(encoder.layers[2].beta) in ids


def apply_to(model, lars, gradients):
    lars.apply_gradients(list(zip(gradients, model.trainable_variables, strict=True)))


def gradients_for(model, seed=0):
    rs = np.random.RandomState(seed)
    return [tf.constant(rs.standard_normal(v.shape), tf.float32) for v in model.trainable_variables]


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


@pytest.mark.parametrize("strategy", [2], indirect=True)
def test_replicas_equal_one_device(strategy):
    def trained(scope, run):
        with scope:
            model, _, head = network()
            model.set_weights(weights)
            start = np.array(head.kernel)
            lars = LARS(WarmUpCosine(5.0, 256, 2560, 3, warmup_epochs=0), weight_decay=0.1)
            lars.exclude(excluded_variables(model, head))
            lars.build(model.trainable_variables)
        for seed in range(3):
            run(model, lars, gradients_for(model, seed))
        # The head is excluded: the plain gradient moves it; a ratio would, by a thousandth.
        assert np.abs(np.array(head.kernel) - start).max() > 1
        return model, lars

    def on_one(model, lars, gradients):
        apply_to(model, lars, gradients)

    def on_two(model, lars, gradients):
        @tf.function
        def step():
            # Each replica brings half; the optimizer sums.
            strategy.run(lambda: apply_to(model, lars, [g / 2 for g in gradients]))

        step()

    weights = [w + 0.1 for w in network()[0].get_weights()]
    one, _ = trained(tf.distribute.get_strategy().scope(), on_one)
    two, lars = trained(strategy.scope(), on_two)
    assert len(one.trainable_variables) == 14
    assert len(lars.get_config()["exclude_from_weight_decay"]) == 11  # all but three kernels
    for ours, theirs in zip(two.trainable_variables, one.trainable_variables, strict=True):
        components = strategy.experimental_local_results(compat.raw_variable(ours))
        assert len(components) == 2
        for component in components:
            assert deviation(component, theirs) <= 1e-6, ours.name


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


def test_config_remembers_exclusions_and_schedule():
    model, _, head = network()
    lars = LARS(WarmUpCosine(0.3, 64, 640, 10), weight_decay=0.5)
    lars.exclude(excluded_variables(model, head))
    lars.build(model.trainable_variables)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(lars))
    assert again.get_config() == lars.get_config()
    twin, *_ = network()
    twin.set_weights(model.get_weights())
    again.build(twin.trainable_variables)
    assert again.get_config() == lars.get_config()
    for seed in range(2):
        apply_to(model, lars, gradients_for(model, seed))
        apply_to(twin, again, gradients_for(twin, seed))
    for ours, theirs in zip(twin.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_positions_beyond_the_variables():
    with pytest.raises(UserError, match="Expected positions below 1.*received"):
        LARS(exclude_from_weight_decay=[7]).build([tf.Variable([1.0])])


def test_keras_file_goes_on_where_it_stopped(tmp_path):
    def data(seed):
        rs = np.random.RandomState(seed)
        return rs.rand(8, 8, 8, 3).astype("float32"), rs.rand(8, 2).astype("float32")

    model, _, head = network()
    lars = LARS(WarmUpCosine(50.0, 8, 64, 10, warmup_epochs=0), weight_decay=0.01)
    lars.exclude(excluded_variables(model, head))
    model.compile(lars, loss="mse")
    for seed in range(3):
        model.train_on_batch(*data(seed))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == lars.get_config()
    assert int(again.optimizer.iterations) == 3
    for seed in range(3, 5):
        model.train_on_batch(*data(seed))
        again.train_on_batch(*data(seed))
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_checkpoint_restores_momentum_and_holds_nothing_else(tmp_path):
    def fresh():
        model, *_ = network()
        lars = LARS(0.5)
        lars.exclude(excluded_variables(model))
        lars.build(model.trainable_variables)
        return model, lars

    model, lars = fresh()
    apply_to(model, lars, gradients_for(model))
    sgd = keras.optimizers.SGD(0.5, momentum=0.9)
    sgd.build(model.trainable_variables)
    paths = [tf.train.Checkpoint(optimizer=o).save(str(tmp_path / o.name)) for o in (lars, sgd)]
    ours, theirs = (tf.train.load_checkpoint(p).get_variable_to_shape_map() for p in paths)
    assert len(ours) == len(theirs)
    _, again = fresh()
    tf.train.Checkpoint(optimizer=again).restore(paths[0]).expect_partial()
    for ours, theirs in zip(again._momentums, lars._momentums, strict=True):
        assert np.abs(ours.numpy()).max() > 0
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    "change", [{"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}, {"eeta": 0.0}]
)
def test_wrong_arguments(change):
    with pytest.raises(UserError, match="Expected .*received: "):
        LARS(**change)


def test_table_of_optimizers():
    lars = make_optimizer("lars", 0.1, momentum=0.8, weight_decay=0.2)
    assert isinstance(lars, LARS) and (lars.momentum, lars.weight_decay) == (0.8, 0.2)
    assert not lars.nesterov and lars.classic_momentum
    sgd = make_optimizer("momentum", 0.1, momentum=0.8, weight_decay=0.2)
    assert isinstance(sgd, keras.optimizers.SGD) and (sgd.momentum, sgd.nesterov) == (0.8, True)
    adam = make_optimizer("adam", 0.1, weight_decay=0.2)
    assert isinstance(adam, keras.optimizers.Adam)
    assert not sgd.weight_decay and not adam.weight_decay  # it is in the loss
    with pytest.raises(UserError, match="lars, momentum, adam, lamb; received: 'sgd'"):
        make_optimizer("sgd", 0.1)
    assert OPTIMIZERS == ("lars", "momentum", "adam", "lamb")


def test_lamb_equals_its_formula_on_both_lanes(recwarn):
    schedule = WarmUpCosine(1.0, 256, 2560, 3, warmup_epochs=0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    w = model.get_weights()[0].astype(np.float64)
    m = v = np.zeros_like(w)
    model.compile(make_optimizer("lamb", schedule, weight_decay=0.3), loss="mse")
    x, y = np.random.RandomState(0).rand(2, 4, 3).astype("float32"), np.zeros((4, 2))
    for step in range(1, 4):
        error = x[0] @ model.get_weights()[0] + model.get_weights()[1]
        g = x[0].T @ (2 * error / error.size)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        update = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-6)
        w -= float(schedule(step - 1)) * np.linalg.norm(w) / np.linalg.norm(update) * update
        model.fit(x[0], y, batch_size=4, verbose=0)
        np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-4, atol=1e-5)
    assert not [r for r in recwarn if "Addons" in str(r.message)]


@pytest.mark.skipif(compat.KERAS_3, reason="Keras 3 has its own LAMB")
def test_lamb_without_addons_names_the_command(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorflow_addons"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    with pytest.raises(UserError, match="pip install tensorflow-addons"):
        make_optimizer("lamb", 0.1)
