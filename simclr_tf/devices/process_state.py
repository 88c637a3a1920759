"""What a run sets for the whole process and restores at its end: random states and policy.

So two runs in one process give what two processes would. What TensorFlow fixes at its first use
can't be restored: the split of the CPU into logical devices, a TPU or a cluster that it has joined,
and TF_CPP_MIN_LOG_LEVEL, which it reads once.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
from tensorflow import keras

from simclr_tf.compat import global_seeds, restore_global_seeds


@contextlib.contextmanager
def isolated(policy: str | None = None, seed: int | None = None) -> Iterator[None]:
    """Sets policy and seed for a block; afterwards all is as it was, also after an error.

    Args:
        policy: Keras's global policy in the block (`float32`, `mixed_bfloat16`, ...); None: as is.
        seed: Seeds Python, NumPy, TensorFlow and Keras; None: as is.

    Example:
        >>> with isolated('mixed_bfloat16', seed=1):
        ...     model = SimCLR(ResNet(18))
    """
    policy_before = keras.mixed_precision.global_policy()
    states = random.getstate(), np.random.get_state()
    seeds = global_seeds()
    try:
        if policy is not None:
            keras.mixed_precision.set_global_policy(policy)
        if seed is not None:
            keras.utils.set_random_seed(seed)
        yield
    finally:
        keras.mixed_precision.set_global_policy(policy_before)
        restore_global_seeds(seeds)
        random.setstate(states[0])
        np.random.set_state(states[1])
