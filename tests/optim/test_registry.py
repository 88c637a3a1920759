"""Optimizers by name: the table, and LAMB on both lanes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from tensorflow import keras

from simclr_tf import compat
from simclr_tf.errors import UserError
from simclr_tf.optim.lars import LARS
from simclr_tf.optim.registry import OPTIMIZERS, make_optimizer
from simclr_tf.optim.schedules import WarmUpCosine


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
