"""How commands import TensorFlow: its quickest kernels, no greetings."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
from simclr_tf import quiet
quiet.cpu_features = lambda: ('avx2',)
quiet.start_tensorflow()
import tensorflow as tf
tf.ones([2]) + 1
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "expected"), [(None, "True"), ("0", "False")], ids=["unset", "left out by the user"]
)
def test_start_of_tensorflow(setting: str | None, expected: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    if setting is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = setting
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (done.stdout.strip(), done.stderr) == (expected, "")
