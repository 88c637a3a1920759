"""The linear head's loss: every form of labels, float32, wrong shapes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.losses.cross_entropy import supervised_loss


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


@pytest.mark.parametrize("soft", [False, True])
def test_smoothing_and_weights_equal_the_formula(soft: bool):
    rs = np.random.RandomState(4)
    logits = rs.standard_normal((6, 3)).astype("float32")
    ids = rs.randint(0, 3, 6)
    rows = rs.dirichlet([1, 1, 1], 6).astype("float32") if soft else np.eye(3)[ids]
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    smoothed = 0.8 * rows + 0.2 / 3
    weights = [0.5, 2.0, 1.0]
    expected = -(smoothed * log_p).sum(1) * (rows @ weights)
    found = supervised_loss(rows if soft else ids, logits, True, 0.2, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
