"""LARS on a model's variables: exclusions by kind, replicas, files that go on where they stop."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from conftest import deviation
from tensorflow import keras

from simclr_tf import compat
from simclr_tf.errors import UserError
from simclr_tf.optim.lars import LARS, excluded_variables
from simclr_tf.optim.schedules import WarmUpCosine


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


@pytest.mark.parametrize("strategy", [2], indirect=True)
def test_replicas_equal_one_device(strategy):
    def trained(scope, make_step):
        with scope:
            model, _, head = network()
            model.set_weights(weights)
            start = np.array(head.kernel)
            lars = LARS(WarmUpCosine(5.0, 256, 2560, 3, warmup_epochs=0), weight_decay=0.1)
            lars.exclude(excluded_variables(model, head))
            lars.build(model.trainable_variables)
        step = make_step(model, lars)
        for seed in range(3):
            step(gradients_for(model, seed))
        # The head is excluded: the plain gradient moves it; a ratio would, by a thousandth.
        assert np.abs(np.array(head.kernel) - start).max() > 1
        return model, lars

    def on_one(model, lars):
        return lambda gradients: apply_to(model, lars, gradients)

    def on_two(model, lars):
        @tf.function
        def step(gradients):
            # Each replica brings half; the optimizer sums.
            strategy.run(lambda: apply_to(model, lars, [g / 2 for g in gradients]))

        return step

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


def test_keras_file_goes_on_where_it_stopped(tmp_path):
    def data(seed):
        rs = np.random.RandomState(seed)
        return rs.rand(8, 8, 8, 3).astype("float32"), rs.rand(8, 2).astype("float32")

    model, _, head = network()
    lars = LARS(WarmUpCosine(50.0, 8, 64, 10, warmup_epochs=0), weight_decay=0.01)
    lars.exclude(excluded_variables(model, head))
    model.compile(lars, loss="mse", run_eagerly=True)  # tracing takes longer
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
