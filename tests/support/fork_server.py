"""The process that `processes.py` forks: TensorFlow and Keras imported, nothing computed yet.

So are the packages that every run draws and logs with. What is optional is left alone.

Not for import: `python tests/support/fork_server.py`. One JSON line on the standard input is one
request: `{"start": {arguments, cwd, env, stdout, stderr}}` is answered by a process number,
`{"poll": number}` by an exit status or null. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import sys
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow  # noqa: F401
from tensorflow import keras

keras.Model  # noqa: B018  (under TensorFlow 2.15 the name is a promise, kept when it is first used)
for name in ("matplotlib.backends.backend_agg", "tensorboard.summary.v2", "tqdm.std"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)


def serve() -> dict[str, Any]:
    """Answers requests for ever. Returns in the forked processes alone: what each is to do."""
    answers = os.dup(1)
    os.dup2(2, 1)
    os.set_inheritable(answers, False)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            sys.stdout.flush()
            answer = os.fork()
            if not answer:
                os.close(answers)
                return request["start"]
        else:
            number, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if number else None
        os.write(answers, f"{json.dumps(answer)}\n".encode())
    os._exit(0)


def become(start: dict[str, Any]) -> None:
    """Takes on the streams, folder, environment and arguments of a new `python` process."""
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, start["stdout"], os.O_WRONLY | os.O_APPEND),
        (2, start["stderr"], os.O_WRONLY | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(start["cwd"])
    os.environ.clear()
    os.environ.update(start["env"])
    arguments = start["arguments"]
    safe = bool(os.environ.get("PYTHONSAFEPATH"))
    while arguments[0] in ("-P", "-E"):
        safe = arguments.pop(0) == "-P" or safe
    first = "" if arguments[0] in ("-c", "-m") else os.path.dirname(os.path.abspath(arguments[0]))
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*([] if safe else [first]), *paths, *sys.path]


if __name__ == "__main__":
    # The script's own folder, and the package beside it where nothing asks for it.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
    # The children need not go through what is imported by now in search of garbage, nor copy it.
    gc.collect()
    gc.freeze()
    start = serve()
    become(start)
    kind, *rest = start["arguments"]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")
