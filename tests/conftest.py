"""What every test may use: quiet logs, four logical CPU devices, the recorded arrays.

TensorFlow is imported by the fixtures that need it, so that tests of flags and errors stay fast.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What XLA makes of a graph is run a few times on small arrays: optimising its machine code takes
# longer than that saves. Values stay within the tests' limits.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import numpy as np
import pytest

from simclr_tf.devices.processor import use_quick_kernels

use_quick_kernels()  # as commands do
GOLDEN_DIR = Path(__file__).resolve().parent / "golden"
LOGICAL_CPUS = 4


def split_cpu(count: int = LOGICAL_CPUS) -> None:
    """Splits the CPU into logical devices; must come before the first TensorFlow op.

    Replicas on logical CPUs run the same code as replicas on several accelerators.
    """
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) == count:
        return
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    # Collection has imported the test modules but run no op: the last moment to split the CPU.
    asks = any("strategy" in getattr(item, "fixturenames", ()) for item in session.items)
    if asks or "tensorflow" in sys.modules:
        split_cpu()
    # Tracing makes millions of objects that stay, and Python goes through all of them again and
    # again in search of garbage: a seventh of the tests' time. What is imported by now is left out.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden('lars')` loads tests/golden/lars.npz (see tests/golden/README.md)."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN_DIR / f"{name}.npz", allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    return load


_largest: dict[str, float] = {}
_collective_key_base = itertools.count(1000, 1000)


@pytest.fixture(autouse=True)
def _fresh_collective_keys() -> None:
    # TensorFlow remembers the size of a collective group by its key until the process ends, and
    # every MirroredStrategy counts from the same key: two replicas after four would fail.
    if "tensorflow" in sys.modules:
        mirrored = sys.modules["tensorflow"].distribute.MirroredStrategy
        mirrored._collective_key_base = next(_collective_key_base)


@pytest.fixture
def strategy(request: pytest.FixtureRequest, _fresh_collective_keys: None) -> Any:
    """A MirroredStrategy on logical CPUs; two replicas unless parametrised.

    Example:
        @pytest.mark.parametrize('strategy', [1, 2, 4], indirect=True)
        def test_it(strategy): ...
    """
    split_cpu()
    import tensorflow as tf

    replicas = getattr(request, "param", 2)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def deviation(ours: Any, recorded: Any) -> float:
    """Returns max|difference| / max|recorded|: the measure of every tolerance."""
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    assert ours.shape == recorded.shape, f"shape {ours.shape} for recorded {recorded.shape}"
    value = float(np.abs(ours - recorded).max() / max(np.abs(recorded).max(), 1e-30))
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split("[")[0].split(" (")[0]
    _largest[test] = max(value, _largest.get(test, 0.0))
    return value


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deviations", action="store_true", help="print each test's largest deviation (no -n)"
    )


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--deviations"):
        terminalreporter.section("largest deviations")
        for test, value in sorted(_largest.items()):
            terminalreporter.line(f"{value:.1e}  {test}")
