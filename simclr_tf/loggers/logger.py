"""What a logger is: the one interface that each of them has."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from simclr_tf.loggers.memory import Memory


@dataclasses.dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of a run when it is opened.

    Args:
        folder: The run's `model_dir`.
        settings: Every setting by name.
        only_evaluates: Whether this process evaluates what another one trains.
        say: Prints a line.
    """

    folder: str
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    only_evaluates: bool = False
    say: Callable[[str], None] = print

    @property
    def name(self) -> str:
        """The name of its folder."""
        return os.path.basename(os.path.abspath(self.folder))


class Logger(abc.ABC):
    """One place where a run is logged. Any method may raise: `together` answers for that.

    Attributes:
        takes_pictures: Whether `picture` does something.
        memory: What it has taken before; None where repeated points do no harm.
    """

    takes_pictures = False
    memory: Memory | None = None

    @abc.abstractmethod
    def scalars(self, values: Mapping[str, float], step: int, group: str) -> None:
        """Takes one point of each of some curves.

        Args:
            values: Tag -> a finite number; tags are the release's (`train/contrast_loss`).
            step: Of the run.
            group: Apart from those of other groups; '' for most (see `tagged`).
        """

    @abc.abstractmethod
    def close(self, exit_code: int) -> None:
        """Ends it, after which it is not called again.

        Args:
            exit_code: The command's: 0, 130 after an interruption, others for errors.
        """

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Takes a uint8 picture (h, w, 3)."""
        return None

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """Takes figures of which there is one a run."""
        return None

    def file(self, path: str) -> None:
        """Takes a small file of the run; again when it has changed."""
        return None


def tagged(values: Mapping[str, float], group: str) -> dict[str, float]:
    """Returns values under tags that begin with their group, for loggers without folders."""
    return {f"{group}/{tag}" if group else tag: value for tag, value in values.items()}


@contextlib.contextmanager
def default_variables(**values: str) -> Iterator[None]:
    """Sets environment variables for a block, those that the user has not set."""
    missing = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
