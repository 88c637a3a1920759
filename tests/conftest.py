"""What every test may use: quiet logs, four logical CPU devices, the recorded arrays.

TensorFlow is imported by the fixtures that need it, so that tests of flags and errors stay fast.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator
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
# Files of more than thirty seconds, longest first. `.ci/run` hands out whole files to its workers,
# and one of these that came last would run alone.
LONGEST_FILES = (
    "project/test_notebooks.py", "commands/test_interrupted.py", "gpu/test_check.py",
    "commands/test_workers.py", "commands/test_every_flag.py", "training/test_train_steps.py",
    "training/test_replicas.py", "commands/test_evaluate.py", "project/test_readme.py",
    "commands/test_command_line.py", "augment/test_distribution.py", "timing/test_benchmark.py",
    "checkpoints/test_release_import.py", "models/test_encoders.py",
    "losses/test_named_losses.py", "commands/test_distill_command.py",
    "training/test_gradient_cache.py", "examples/test_modalities.py", "examples/test_segment.py",
)  # fmt: skip
# Rooms whose code holds no Keras: the second lane runs of them what it may change all the same,
# types of pixels, batches of tf.data, features of its own models.
ONE_LANE_ROOMS = (
    "config", "datasets", "evaluation", "examples", "features", "files", "images", "loggers",
    "reports", "sweeps", "timing",
)  # fmt: skip
BOTH_LANES = (
    "datasets/test_pipeline.py", "datasets/test_cache.py", "datasets/test_callbacks.py",
    "evaluation/test_monitor.py", "features/test_embed.py", "images/test_pixel_values.py",
)  # fmt: skip
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


def leave_graphs_as_traced() -> None:
    """Switches Grappler off, which rewrites every graph before its first run.

    A test runs a graph once or twice: rewriting takes longer than it saves (five steps of four
    replicas of a ResNet-18: a sixth of the test). Commands that tests start as processes of their
    own, and the README's in `.ci/run`, have it as users do.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def forget_who_made_operations() -> None:
    """TensorFlow keeps the Python stack of every operation, for its own error messages.

    Under pytest stacks are deep: a tenth (TensorFlow 2.21) to a sixth (2.15) of a test's time.
    """
    from tensorflow.python.util import tf_stack

    one_for_all = tf_stack.extract_stack()
    tf_stack.extract_stack = lambda stacklevel=1: one_for_all


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).resolve().parent
    rooms = {tests / room for room in ONE_LANE_ROOMS}
    both = {tests / name for name in BOTH_LANES}
    for item in items:
        in_one = item.path.parent in rooms and item.path not in both
        if in_one and not item.get_closest_marker("second_lane"):
            item.add_marker("one_lane")
    place = {tests / name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))  # the others stay in order


def pytest_collection_finish(session: pytest.Session) -> None:
    # Collection has imported the test modules but run no op: the last moment to split the CPU.
    asks = any("strategy" in getattr(item, "fixturenames", ()) for item in session.items)
    if asks or "tensorflow" in sys.modules:
        split_cpu()
        leave_graphs_as_traced()
        forget_who_made_operations()
    # Tracing makes millions of objects that stay, and Python goes through all of them again and
    # again in search of garbage: a seventh of the tests' time. What is imported by now is left out.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    # Graphs hold each other: without a collection after each file a worker keeps gigabytes of them.
    # What outlives its file stays to the end, and is not gone through again.
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """`golden('lars')` loads tests/golden/lars.npz (see tests/golden/README.md)."""

    from recorded import load

    return load


_largest: dict[str, float] = {}
_collective_key_base = itertools.count(1000, 1000)


def use_fresh_collective_keys() -> None:
    """Lets the next MirroredStrategy count from keys that none has had.

    TensorFlow remembers the size of a collective group by its key until the process ends, and every
    MirroredStrategy counts from the same key: two replicas after four would fail.
    """
    import tensorflow as tf

    tf.distribute.MirroredStrategy._collective_key_base = next(_collective_key_base)


@pytest.fixture(autouse=True)
def _fresh_collective_keys() -> None:
    if "tensorflow" in sys.modules:
        use_fresh_collective_keys()


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


@pytest.fixture(scope="module")
def half_as_deep() -> Iterator[None]:
    """A ResNet-18 has one block a group, not two: half as many layers to trace, of every kind.

    For tests of what is around the network: a module asks with `pytest.mark.usefixtures`. Not
    beside what the release recorded, nor for models that another process is to load.
    """
    from simclr_tf.models.resnet import BLOCKS_PER_GROUP

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BLOCKS_PER_GROUP, 18, (1, 1, 1, 1))
        yield


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
