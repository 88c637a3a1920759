"""All loggers of a run as one: what the rooms above call. Who writes is decided here alone."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np

from simclr_tf.errors import UserError
from simclr_tf.loggers.guard import Guarded, one_line
from simclr_tf.loggers.logger import LoggedRun, Logger
from simclr_tf.loggers.names import LOGGERS


class Loggers:
    """The loggers of a run. As a context it closes them, with the exit code of what ended it.

    Once they are open, no failure of one of them ends the run.

    Args:
        names: Of `LOGGERS`; none for processes that do not write.
        run: What they are told of the run; needed with names.

    Example:
        >>> with Loggers(('tensorboard',), LoggedRun('/tmp/run')) as loggers:
        ...     loggers.start()
        ...     loggers.scalars({'train/contrast_loss': 2.5}, step=1, curve='train')
    """

    def __init__(self, names: Sequence[str] = (), run: LoggedRun | None = None) -> None:
        self._names, self._run = tuple(names), run
        self._open: list[Guarded] | None = None

    def start(self) -> None:
        """Opens them, once: when the settings are known to work, before anything is trained.

        Raises:
            UserError: One can't be opened.
        """
        if self._open is not None:
            return
        self._open = []
        for name in self._names:
            assert self._run is not None
            logger = _open(name, self._run)
            self._open.append(Guarded(LOGGERS[name].title, logger, self._run.say))

    @property
    def takes_pictures(self) -> bool:
        """Whether a picture is worth drawing."""
        return any(guarded.logger.takes_pictures for guarded in self._open or ())

    def scalars(self, values: Mapping[str, float], step: int, curve: str, group: str = "") -> None:
        """Logs one point of each of some curves; values that are not finite are left out.

        Args:
            values: Tag -> value.
            step: Of the run.
            curve: Names what was measured: with the step it tells a point that was logged before.
            group: See `Logger.scalars`.
        """
        finite = {tag: float(value) for tag, value in values.items() if math.isfinite(value)}
        curve = f"{group} {curve}".strip()

        def add(logger: Logger) -> None:
            memory = logger.memory
            if not finite or (memory is not None and memory.has(curve, step)):
                return
            logger.scalars(finite, step, group)
            if memory is not None:
                memory.add(curve, step)

        self._each(add)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Logs a uint8 picture (h, w, 3)."""
        self._each(lambda logger: logger.picture(name, pixels, step))

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """Logs figures of which there is one a run; those that are not finite are left out."""
        finite = {tag: float(value) for tag, value in values.items() if math.isfinite(value)}
        self._each(lambda logger: logger.summary(finite, step))

    def file(self, path: str) -> None:
        """Logs a small file of the run."""
        self._each(lambda logger: logger.file(path))

    def _each(self, act: Callable[[Logger], None]) -> None:
        for guarded in self._open or ():
            guarded.call(act)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for guarded in self._open or ():
            guarded.close(_exit_code(error))


def flat(values: Mapping[str, object], prefix: str) -> dict[str, float]:
    """Returns the numbers of nested mappings under tags.

    Example:
        >>> flat({'raw pixels': {'ridge': 0.9}}, 'comparison')
        {'comparison/raw pixels/ridge': 0.9}
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        tag = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            found |= flat(value, tag)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[tag] = float(value)
    return found


def _open(name: str, run: LoggedRun) -> Logger:
    try:
        module = importlib.import_module(f"simclr_tf.loggers.{name}")
        logger: Logger = module.open_logger(run)
    except UserError:
        raise
    except Exception as error:  # of another library: its import, its server, its store
        raise UserError(
            f"Expected to open {LOGGERS[name].title} for this run; received: {one_line(error)}. "
            f"Correct that, or leave {name} out of --loggers."
        ) from error
    return logger


def _exit_code(error: BaseException | None) -> int:
    """Returns the command's exit code after an error."""
    if error is None:
        return 0
    return getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
