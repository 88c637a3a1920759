"""The workers that train together, named by TF_CONFIG or by flags: known before TensorFlow is."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
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


@contextlib.contextmanager
def named_workers(workers: str | None, index: int) -> Iterator[None]:
    """Describes the workers in TF_CONFIG, where TensorFlow looks for them, for a block.

    Args:
        workers: `host:port` of each, separated by commas; None: TF_CONFIG stays as it is.
        index: This process's place in the list.

    Raises:
        UserError: The list or the place is wrong, or TF_CONFIG describes others.

    Example:
        >>> with named_workers('10.0.0.1:12345,10.0.0.2:12345', 0):
        ...     num_workers()
        2
    """
    if workers is None:
        yield
        return
    listed = [part.strip() for part in workers.split(",")]
    wrong = [part for part in listed if not re.fullmatch(r"(\[[^\]]+\]|[^\s:/]+):\d{1,5}", part)]
    if wrong or len(set(listed)) != len(listed):
        raise UserError(
            "Expected --workers as host:port of each, separated by commas, each once; received: "
            f"{workers!r}. Correct it, the same for each worker."
        )
    if not 0 <= index < len(listed):
        raise UserError(
            f"Expected --worker_index from 0 to {len(listed) - 1}, its place in --workers; "
            f"received: {index}. Pass another to each worker."
        )
    description = {"cluster": {"worker": listed}, "task": {"type": "worker", "index": index}}
    before = os.environ.get("TF_CONFIG")
    if before and before != json.dumps(description):
        raise UserError(
            f"Expected --workers or TF_CONFIG; received: both, and TF_CONFIG is {before!r}. Unset "
            "TF_CONFIG."
        )
    os.environ["TF_CONFIG"] = json.dumps(description)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TF_CONFIG"]
        else:
            os.environ["TF_CONFIG"] = before


def joins_workers(strategy: str) -> bool:
    """Returns whether a process trains together with those that TF_CONFIG names.

    Args:
        strategy: As for `make_strategy`; a TPU's workers do not count.

    Raises:
        UserError: TF_CONFIG can't be read.
    """
    return strategy == "multiworker" or (strategy == "auto" and num_workers() > 1)


def lost_worker(error: BaseException) -> str | None:
    """Returns what TensorFlow says where another worker ended, in short; None for other errors.

    It notices a connection that breaks at once, and a silent worker after some ten seconds.
    """
    kind = type(error).__name__
    said = " ".join(str(error).split())
    if kind not in ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError",
                    "InternalError"):  # fmt: skip
        return None
    found = re.search(
        r"heartbeat timeout|Connection reset by peer|[Ff]ailed to connect|Socket closed|"
        r"has failed|preempted|Collective ops is aborted|tasks have crashed|recvmsg",
        said,
    )
    task = re.search(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)", said)
    who = f" ({task[1]} {task[2]}: {found[0]})" if found and task else ""
    return f"another worker ended{who}" if found else None


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
