"""The parent's end of a timed process: it is started, asked with a deadline, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

_LONGEST = 300  # characters of what a process said
_LONGEST_LINE = 1 << 16  # bytes of an answer
_SECONDS_TO_END = 10.0  # for a process that has closed its stdout


class SideError(RuntimeError):
    """A side that can't be timed, in one line.

    Attributes:
        is_gone: Whether its process has ended; else it may be asked for something else.
    """

    def __init__(self, message: str, is_gone: bool = True) -> None:
        super().__init__(message)
        self.is_gone = is_gone


class SideProcess:
    """A process that speaks `protocol.py`, in a group of its own, which ends as a whole.

    Args:
        command: Its arguments, the program first.
        environment: All of its environment.
        log: A file to make, for what it writes on stderr.

    Example:
        >>> with contextlib.closing(SideProcess(command, os.environ, "log.txt")) as process:
        ...     process.ask({"what": "step", "steps": 3}, seconds=60)
        {'seconds': 0.41, 'loss': 4.8}
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: str) -> None:
        self._log, self._is_closed = log, False
        with open(log, "wb") as errors:
            try:
                self._process = subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                raise SideError(f"{command[0]} does not start: {error.strerror}") from error
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=[self._process.stdout], daemon=True).start()

    def ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Sends one line and returns the answer.

        Args:
            message: What JSON can hold.
            seconds: How long to wait.

        Raises:
            SideError: The process has ended, does not answer in time, answers something else than
                an object of JSON, or says that it failed. Unless it says so, it is ended.
        """
        stream = self._process.stdin
        assert stream is not None
        try:
            stream.write((json.dumps(message) + "\n").encode())
            stream.flush()
            line = self._lines.get(timeout=seconds)
        except OSError:
            line = b""
        except queue.Empty:
            self.close()
            raise SideError(f"no answer within {seconds:.0f} seconds") from None
        if not line:
            raise SideError(self._last_words())
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.close()
            said = line.decode(errors="replace").strip()
            raise SideError(f"it answered {_shortened(said)!r}, which is no object of JSON")
        if "error" in answer:
            raise SideError(str(answer["error"]), is_gone=False)
        return answer

    def close(self) -> None:
        """Ends the process and those that it started; nothing happens if that is done."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(OSError):  # all of them have ended
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a line that nobody reads any more
            self._process.stdin.close()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                self._lines.put(line)
        self._lines.put(b"")

    def _last_words(self) -> str:
        """Returns how the process ended, and the last line that it wrote."""
        try:
            code = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            code = None
        self.close()
        if code is None:
            how = "it stopped answering"
        elif code < 0:
            known = -code in {*signal.Signals}
            how = f"ended by {signal.Signals(-code).name if known else f'signal {-code}'}"
            how += ": out of memory?" if code == -signal.SIGKILL else ""
        else:
            how = f"exit code {code}"
        with open(self._log, "rb") as file:
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        said = [line for line in lines if line][-1:]
        return ": ".join([how, *map(_shortened, said)])


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
