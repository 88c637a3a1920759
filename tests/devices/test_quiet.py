"""How commands import TensorFlow: its quickest kernels, no greetings."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from simclr_tf.devices import processor

PROGRAM = """
from simclr_tf.devices import processor, quiet
processor.cpu_features = lambda: ('avx2',)
quiet.start_tensorflow()
import tensorflow as tf
tf.ones([2]) + 1
quiet.start_xla()
tf.function(lambda x: 2 * x, jit_compile=True)(tf.ones([2]))
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is of x86")
@pytest.mark.parametrize(
    ("setting", "expected"),
    [(None, "True"), pytest.param("0", "False", marks=pytest.mark.second_lane)],
    ids=["unset", "left out by the user"],
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


@pytest.mark.parametrize(
    ("features", "setting", "expected"),
    [
        (("avx2",), None, "1"),
        (("avx2",), "0", "0"),
        (("avx2", "avx512f"), None, None),
        ((), None, None),
        (None, None, None),
    ],
)
def test_quick_kernels(
    features: tuple[str, ...] | None,
    setting: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "cpu_features", lambda: features)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", setting or "")
    if setting is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    processor.use_quick_kernels()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == expected
