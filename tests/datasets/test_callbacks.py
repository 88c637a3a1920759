"""Calls of Python get their own answers, and a script that leaves an iterator alive ends."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from simclr_tf.datasets.callbacks import call_python

SCRIPT = """
import sys
import tensorflow as tf
from simclr_tf.datasets import open_source
from simclr_tf.datasets.pipeline import training_dataset

replicas = int(sys.argv[2])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
data = training_dataset(open_source(sys.argv[1], "train"), batch_size=32, image_size=224, seed=0)
if replicas > 1:
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    data = strategy.experimental_distribute_dataset(data)
iterator = iter(data)
next(iterator)
print("ended")
"""


def test_each_call_gets_its_own_answer():
    def doubled(x):
        time.sleep(0.002 * (x % 3))  # so that calls overtake each other
        return 2 * x

    data = tf.data.Dataset.range(300)
    data = data.map(lambda x: call_python(doubled, [x], tf.int64), num_parallel_calls=8)
    assert [int(x) for x in data] == [2 * x for x in range(300)]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.one_lane), 2])
def test_a_script_ends_while_an_iterator_is_alive(tmp_path, replicas):
    draw = np.random.default_rng(0)
    for number in range(40):  # still being decoded for the batches to come when the script ends
        path = tmp_path / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (375, 500, 3), np.uint8)).save(path)
    # Not the process that others fork: one of those ends whatever its iterators do.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(replicas)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ended\n"
