"""Who writes: of several workers only the chief; the others save into scratch folders.

Commands print before TensorFlow is loaded: it is imported only where a strategy is inspected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow import keras


@dataclasses.dataclass(frozen=True)
class Writer:
    """Whether this process writes a run's files and prints its messages.

    Every worker must take part in a save, since reading some variables is a collective operation:
    those that do not write save into a scratch folder, which is then deleted.

    Args:
        is_chief: Whether this process writes.

    Example:
        >>> Writer.of(tf.distribute.get_strategy()).is_chief
        True
    """

    is_chief: bool = True

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy) -> Writer:
        """Returns who this process is under a strategy.

        The chief is the task `chief`, or worker 0 where the cluster has none. A process that trains
        alone writes, also where TF_CONFIG names several that do not train together. A TPU's workers
        are driven by one process, which writes.

        Args:
            strategy: Under which the process trains.
        """
        import tensorflow as tf

        resolver = getattr(strategy, "cluster_resolver", None)
        if resolver is None or isinstance(
            resolver, tf.distribute.cluster_resolver.TPUClusterResolver
        ):
            return cls()
        return cls.of_task(resolver.task_type, resolver.task_id, resolver.cluster_spec().jobs)

    @classmethod
    def of_task(cls, task_type: str | None, task_id: int | None, jobs: Collection[str]) -> Writer:
        """Returns who a process is among workers that train together.

        Args:
            task_type: `worker`, `chief` or another job; None: the process is alone.
            task_id: Its number within the job.
            jobs: Names of the cluster's jobs.
        """
        if not task_type or task_type == "chief":
            return cls()
        return cls(task_type == "worker" and not task_id and "chief" not in jobs)

    @contextlib.contextmanager
    def folder(self, path: str) -> Iterator[str]:
        """Yields the folder to save into: `path`, or a scratch folder deleted afterwards."""
        if self.is_chief:
            yield path
            return
        scratch = tempfile.mkdtemp(prefix="simclr_tf-worker-")
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def say(self, line: str) -> None:
        """Prints a line, once for all workers."""
        if self.is_chief:
            # A file's name may hold bytes that are no UTF-8, which stdout refuses.
            print(line.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)


def writer_of(model: keras.Model) -> Writer:
    """Returns who this process is under the strategy that a Keras model was made with."""
    import tensorflow as tf

    strategy = getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()
    return Writer.of(strategy)
