"""The workers that TF_CONFIG names, read without TensorFlow: commands need them before it."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from simclr_tf.errors import UserError


class Task(NamedTuple):
    """This process's task among the workers.

    Attributes:
        type: `worker`, `chief` or another job; None where TF_CONFIG does not say.
        number: Its number within the job; None where TF_CONFIG does not say.
        jobs: Names of the cluster's jobs.
    """

    type: str | None
    number: int | None
    jobs: tuple[str, ...]


def joins_workers(strategy: str) -> bool:
    """Returns whether a process trains together with those that TF_CONFIG names.

    Args:
        strategy: As for `make_strategy`; a TPU's workers do not count.

    Raises:
        UserError: TF_CONFIG can't be read.
    """
    return strategy == "multiworker" or (strategy == "auto" and num_workers() > 1)


def num_workers() -> int:
    """Returns the number of workers that TF_CONFIG names; 0 without it.

    Raises:
        UserError: TF_CONFIG can't be read.
    """
    try:
        cluster = _description().get("cluster", {})
        return len(cluster.get("worker", [])) + len(cluster.get("chief", []))
    except (ValueError, AttributeError, TypeError) as error:
        raise _unreadable(error) from error


def own_task() -> Task:
    """Returns this process's task in TF_CONFIG.

    Raises:
        UserError: TF_CONFIG can't be read.
    """
    try:
        description = _description()
        task = description.get("task", {})
        return Task(task.get("type"), task.get("index"), tuple(description.get("cluster", {})))
    except (ValueError, AttributeError, TypeError) as error:
        raise _unreadable(error) from error


def _description() -> Any:
    return json.loads(os.environ.get("TF_CONFIG") or "{}")


def _unreadable(error: Exception) -> UserError:
    return UserError(
        f"Expected TF_CONFIG to be JSON that names a cluster's workers ({error}); received: "
        f"{os.environ.get('TF_CONFIG')!r}. Fix or unset it."
    )
