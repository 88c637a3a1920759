"""`python ...` as a process of its own, without the seconds that importing TensorFlow costs.

A fresh process imports TensorFlow for three to five seconds before a test's own work begins. Here
one process per test session has imported it and done nothing else (`fork_server.py`); each call
forks it, and the child is what a fresh process would be: its own memory, environment, folder,
streams and exit code, no op run, no device made, this package not yet imported. Where there is no
fork to be trusted (macOS, Windows), or with TESTS_WITHOUT_FORK=1, plain processes are started.

Take `subprocess` itself for what is about importing: that help does without TensorFlow, that an
optional package is left alone.

Example:
    done = processes.run("-m", "simclr_tf.run", "--dataset=mnist_5k", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import simclr_tf

ROOT = str(Path(simclr_tf.__file__).parents[1])
_FORKS = sys.platform == "linux" and not os.environ.get("TESTS_WITHOUT_FORK")


def run(
    *arguments: str | Path,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Runs `python *arguments` to its end; see `start`.

    Returns:
      As `subprocess.run(capture_output=True, text=True)`.

    Raises:
      subprocess.TimeoutExpired: it ran too long, and was killed.
    """
    process = start(*arguments, cwd=cwd, env=env)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(list(process.arguments), process.returncode, out, err)


def start(
    *arguments: str | Path, cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> Process:
    """Starts `python *arguments` in the background.

    Args:
      *arguments: `-m MODULE ...`, `-c CODE ...` or `SCRIPT ...`; `-P` or `-E` may come before.
      cwd: its working folder; this process's by default.
      env: its whole environment; by default this process's. To change a variable, pass
        `{**os.environ, "NAME": "value"}`. This package can be imported whatever it says.

    Returns:
      The process, with the part of `subprocess.Popen` that the tests use.
    """
    return Process(
        tuple(map(str, arguments)),
        os.path.abspath(cwd or os.getcwd()),
        dict(os.environ if env is None else env),
    )


class Process:
    """A started process: `poll`, `wait`, `communicate`, `send_signal`, `kill`; see `start`."""

    def __init__(self, arguments: tuple[str, ...], cwd: str, env: dict[str, str]) -> None:
        self.arguments, self.returncode = arguments, None
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), ROOT]))
        self._folder = tempfile.TemporaryDirectory()
        self._paths = [os.path.join(self._folder.name, name) for name in ("stdout", "stderr")]
        for path in self._paths:
            Path(path).touch()
        self._popen: subprocess.Popen[bytes] | None = None
        if _FORKS:
            out, err = self._paths
            self.pid = _ask(
                start={"arguments": arguments, "cwd": cwd, "env": env, "stdout": out, "stderr": err}
            )
        else:
            with open(self._paths[0], "ab") as out, open(self._paths[1], "ab") as err:
                command = [sys.executable, *arguments]
                self._popen = subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=err)
            self.pid = self._popen.pid

    def poll(self) -> int | None:
        """Returns the exit code; None while it runs; -N where signal N ended it."""
        if self.returncode is None:
            self.returncode = self._popen.poll() if self._popen else _ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code once it has ended.

        Raises:
          subprocess.TimeoutExpired: it runs still.
        """
        began = time.monotonic()
        while self.poll() is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(self.arguments, timeout, *self._said())
            time.sleep(0.02)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits; returns what it wrote on its two streams."""
        self.wait(timeout)
        out, err = self._said()
        return out, err

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it now, if it has not ended."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def _said(self) -> list[str]:
        return [Path(path).read_text(encoding="utf-8", errors="replace") for path in self._paths]


def _stop(server: subprocess.Popen[str]) -> None:
    """Waits for its end, so that its processor time is counted as this process's."""
    server.stdin.close()
    server.wait()


_server: subprocess.Popen[str] | None = None


def _ask(**request: object) -> int | None:
    """Sends one request to the server, which is started by the first."""
    global _server
    if _server is None:
        # From a folder without modules: what the children import is theirs to say.
        script = str(Path(__file__).with_name("fork_server.py"))
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        _server = subprocess.Popen(
            [sys.executable, script],
            env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        atexit.register(_stop, _server)
    _server.stdin.write(json.dumps(request) + "\n")
    _server.stdin.flush()
    answer = _server.stdout.readline()
    assert answer, "tests/support/fork_server.py ended; its complaint stands above"
    return json.loads(answer)
