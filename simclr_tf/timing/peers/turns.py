"""The processes of all sides, of which one works at a time: A B C A B C ..."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from simclr_tf.timing.peers.process import SideError, SideProcess
from simclr_tf.timing.peers.sides import Side

_ROUNDS = 3  # at least
_MOST_STEPS = 256  # of a round
# For the names of sockets in it, by which the workers of a DataLoader send views.
_LONGEST_FOLDER = 64
Say = Callable[[str], None]


class Turns:
    """All sides' processes; they end with the block. One that fails is left out, which is said.

    Args:
        sides: What is timed.
        folder: For what the processes write, temporary files too; the caller removes it.
        say: Prints a line.
        patience: Seconds to wait for one answer.

    Attributes:
        descriptions: Name of a side that runs -> what it says of itself; see `protocol.Prepared`.

    Example:
        >>> with Turns(sides, folder, print, 60.0) as turns:
        ...     turns.start(settings)
        ...     turns.times("step", 3, seconds=10.0)
        {'simclr_tf': array([0.41, 0.4, 0.42]), 'lightly': array([0.52, 0.51, 0.53])}
    """

    def __init__(self, sides: Sequence[Side], folder: str, say: Say, patience: float) -> None:
        self._sides, self._folder, self._say, self._patience = sides, folder, say, patience
        self._processes: dict[str, SideProcess] = {}
        self._failed: set[tuple[str, str]] = set()  # a side's name and a measurement's
        self.descriptions: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes.values():
            process.close()

    def start(self, settings: Mapping[str, Any]) -> None:
        """Starts the sides, one after the other.

        Args:
            settings: Of all of them, what JSON can hold.
        """
        for number, side in enumerate(self._sides):
            log = os.path.join(self._folder, f"{number}.log")
            environment = dict(side.environment)
            if len(os.fsencode(self._folder)) <= _LONGEST_FOLDER:
                environment["TMPDIR"] = self._folder
            try:
                process = SideProcess(side.command, environment, log)
                self._processes[side.name] = process
                message = {**settings, **side.settings}
                self.descriptions[side.name] = process.ask(message, self._patience)
            except SideError as error:
                self._say(f"{side.name} is left out: {error}")

    def steps_for(self, what: str, seconds: float) -> int:
        """Returns how many steps the quickest side takes in so many seconds.

        Args:
            what: Name of a measurement. Its sides compile what they need before.
            seconds: Of a round.
        """
        self._round(what, 1)
        quickest = min(self._round(what, 1).values(), default=math.inf)
        return min(max(1, math.ceil(seconds / quickest)), _MOST_STEPS)

    def times(self, what: str, steps: int, seconds: float) -> dict[str, np.ndarray]:
        """Times rounds in turn, after one that is not counted.

        Args:
            what: Name of a measurement.
            steps: Of each round.
            seconds: About how long each side is timed, for at least three rounds.

        Returns:
            Name of a side -> seconds of a step in each round, (rounds,); of all sides that took
            part to the end.
        """
        times: dict[str, list[float]] = {name: [] for name in self._round(what, steps)}
        rounds, total = 0, 0.0
        while times and (rounds < _ROUNDS or total < seconds * len(times)):
            found = self._round(what, steps)
            times = {name: [*times[name], taken] for name, taken in found.items()}
            rounds, total = rounds + 1, sum(map(sum, times.values()))
        return {name: np.array(taken) / steps for name, taken in times.items()}

    def _round(self, what: str, steps: int) -> dict[str, float]:
        """Returns the seconds of each side that has not failed, nor fails now."""
        found = {}
        for name in list(self.descriptions):
            if (name, what) in self._failed:
                continue
            try:
                answer = self._processes[name].ask({"what": what, "steps": steps}, self._patience)
                found[name] = _seconds(answer)
            except SideError as error:
                self._failed.add((name, what))
                if error.is_gone:
                    del self.descriptions[name]
                self._say(f"{name} is left out{'' if error.is_gone else f' of {what}'}: {error}")
        return found


def _seconds(answer: Mapping[str, Any]) -> float:
    seconds, loss = answer.get("seconds"), answer.get("loss")
    if not isinstance(seconds, float) or not isinstance(loss, float) or not seconds > 0:
        raise SideError(f"it answered {answer}, which has no seconds and loss", is_gone=False)
    if not math.isfinite(loss):
        raise SideError(f"its loss became {loss}", is_gone=False)
    return seconds
