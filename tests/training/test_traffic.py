"""What replicas exchange: against simulated messages, and the collectives of a traced step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from simclr_tf.compat import build_optimizer
from simclr_tf.models.recipe import Recipe
from simclr_tf.optim.lars import LARS
from simclr_tf.training.from_recipe import build_model
from simclr_tf.training.traffic import exchange, exchange_of


def gather(parts: np.ndarray) -> tuple[list[dict[int, float]], int, int]:
    """Recursive doubling: (R, n) parts to all of them everywhere; values received, messages."""
    known = [{replica: part} for replica, part in enumerate(parts)]
    received = messages = 0
    distance = 1
    while distance < len(parts):
        partners = [dict(known[replica ^ distance]) for replica in range(len(parts))]
        received += parts.shape[1] * len(partners[0])
        messages += 1
        known = [{**mine, **theirs} for mine, theirs in zip(known, partners, strict=True)]
        distance *= 2
    return known, received, messages


def add_up(parts: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Recursive halving, then doubling: (R, R n) to their sum everywhere; received, messages."""
    replicas, length = parts.shape
    sums, received, messages = parts.astype(float), 0, 0
    low, high = np.zeros(replicas, int), np.full(replicas, length)
    distance = replicas // 2
    while distance:
        before = sums.copy()
        for replica in range(replicas):
            middle = (low[replica] + high[replica]) // 2
            if replica & distance:
                low[replica] = middle
            else:
                high[replica] = middle
            mine = slice(low[replica], high[replica])
            sums[replica, mine] += before[replica ^ distance, mine]
        received += high[0] - low[0]
        messages += 1
        distance //= 2
    owned = np.stack([sums[r, low[r] : high[r]] for r in range(replicas)])
    known, more, others = gather(owned)
    order = np.argsort(low)
    whole = np.stack([np.concatenate([each[r] for r in order]) for each in known])
    return whole, received + more, messages + others


@pytest.mark.one_lane
@pytest.mark.parametrize("replicas", [2, 4, 8, 64])
def test_the_simulation_computes_sums_in_these_bytes(replicas: int) -> None:
    images, dimensions = 2, 3
    row = 2 * dimensions + 1
    parts = np.random.RandomState(0).rand(replicas, replicas * images * row)
    whole, summed, sum_messages = add_up(parts)
    np.testing.assert_allclose(whole, np.tile(parts.sum(0), (replicas, 1)))
    known, gathered, gather_messages = gather(parts[:, : images * row])
    assert all(len(each) == replicas for each in known)
    found = exchange(replicas, images, dimensions, gradient_bytes=0)
    assert found.embeddings == 4 * (summed + gathered)
    # A sum of nothing for the gradients is among the exchanges.
    assert found.seconds(1e30, 1.0) == pytest.approx(2 * sum_messages + gather_messages)


@pytest.mark.one_lane
def test_one_replica_exchanges_nothing() -> None:
    alone = exchange(1, 256, 128, gradient_bytes=1e8, batch_norms=[64])
    assert alone.total == 0 and alone.seconds(1e9, 1e-5) == 0


@pytest.mark.one_lane
def test_the_cost_up_to_4096_replicas() -> None:
    before = 0.0
    for replicas in (2**power for power in range(1, 13)):
        found = exchange(replicas, 32, 128, gradient_bytes=1e8, batch_norms=[64, 128])
        assert found.embeddings == pytest.approx(3 * (replicas - 1) * 32 * 257 * 4)
        assert found.gradients < 2e8 and found.seconds(1e9, 1e-5) > before
        before = found.seconds(1e9, 1e-5)


@pytest.mark.one_lane
@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_a_step_exchanges_these_bytes(
    strategy: Any, monkeypatch: pytest.MonkeyPatch, micro_batch_size: int | None
) -> None:
    """The collectives that tracing a step on two replicas asks for, counted on the first."""
    sums: list[int] = []
    gathers: list[int] = []

    def counted(name: str, found: list[int]) -> Any:
        original = getattr(tf.distribute.ReplicaContext, name)

        def call(context: Any, *args: Any, **kwargs: Any) -> Any:
            value = kwargs.get("value", args[1] if name == "all_reduce" else args[0])
            if _is_first(context):
                for tensor in tf.nest.flatten(value):
                    # The gradient of what was gathered: its shape is not known while tracing.
                    shape = [n or known for n, known in zip(tensor.shape, (8, 17), strict=False)]
                    found.append(int(np.prod(shape)) * tensor.dtype.size)
            return original(context, *args, **kwargs)

        return call

    for name, found in (("all_reduce", sums), ("all_gather", gathers)):
        monkeypatch.setattr(tf.distribute.ReplicaContext, name, counted(name, found))
    with strategy.scope():
        recipe = Recipe("mlp:16", image_size=8, num_classes=10, num_proj_layers=2, proj_out_dim=8)
        model = build_model(recipe, micro_batch_size=micro_batch_size)
        model.compile(optimizer=LARS(0.1))
        build_optimizer(model.optimizer, model.trainable_variables)

    @tf.function
    def step() -> Any:
        views = tf.zeros([4, 8, 8, 3])
        return strategy.run(model.train_step, args=(((views, views), tf.zeros([4], tf.int32)),))

    step.get_concrete_function()
    expected = exchange_of(model, 2, 4)
    # Beyond it: the number of images, the means that are shown, the replicas' numbers of rows.
    received = sum(sums) * 2 * (1 / 2) + sum(gathers)
    assert 0 <= received - expected.total < 50, (sums, gathers, expected)


def _is_first(context: Any) -> bool:
    number = tf.get_static_value(context.replica_id_in_sync_group)
    return number is not None and int(number) == 0
