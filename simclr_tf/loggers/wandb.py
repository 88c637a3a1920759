"""Weights & Biases: online where the user has an account here, else in files to upload later."""

from __future__ import annotations

import contextlib
import inspect
import os
import shlex
import shutil
import uuid
from collections.abc import Mapping
from typing import Any

from simclr_tf.errors import UserError
from simclr_tf.loggers.guard import one_line
from simclr_tf.loggers.logger import LoggedRun, Logger, default_variables, tagged
from simclr_tf.loggers.memory import Memory

PROJECT = "simclr_tf"
_JOINS_PARTS = (0, 30)
_FINISH_SECONDS = 300.0  # to upload what is left; the local files stay
_QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


class WandB(Logger):
    """Writes metrics, settings and small files to one W&B run.

    Args:
        run: W&B's run.
        memory: What the run's folder remembers.
        until_closed: Closed with the logger.
    """

    def __init__(self, run: Any, memory: Memory, until_closed: contextlib.ExitStack) -> None:
        self._run, self.memory, self._until_closed = run, memory, until_closed

    def scalars(self, values: Mapping[str, float], step: int, group: str) -> None:
        assert self.memory is not None
        # W&B's own step may not fall, and a best checkpoint is evaluated last: rows are counted,
        # and the run's step stands beside the values as the axis of every curve.
        self._run.log({**tagged(values, group), "step": step}, step=len(self.memory))

    def summary(self, values: Mapping[str, float], step: int) -> None:
        self._run.summary.update(dict(values))

    def file(self, path: str) -> None:
        # A copy: of a file elsewhere W&B makes a link, and says so.
        copied = shutil.copy(path, self._run.dir)
        self._run.save(copied, base_path=self._run.dir, policy="now")

    def close(self, exit_code: int) -> None:
        with self._until_closed:
            self._run.finish(exit_code=exit_code)


def open_logger(run: LoggedRun) -> Logger:
    """Opens the W&B run of a run's folder, or a new one, and writes its settings.

    W&B takes one process a run: a process that only evaluates has a run of its own, in the same
    group.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(default_variables(**_QUIET))
        import wandb

        memory = Memory(run.folder, "wandb_eval" if run.only_evaluates else "wandb")
        if memory.run_id is None:
            memory.begin(uuid.uuid4().hex[:8])
        mode, why = _mode(wandb)
        opened = _begin(wandb, run, memory.run_id, mode)
        opened.config.update(dict(run.settings), allow_val_change=True)
        opened.define_metric("*", step_metric="step")
        run.say(_line(wandb, opened, mode, why, run.only_evaluates))
        return WandB(opened, memory, stack.pop_all())


def _begin(wandb: Any, run: LoggedRun, run_id: str | None, mode: str) -> Any:
    """Returns W&B's run: a new one, or a resumed one."""
    settings = wandb.Settings(
        silent=True,
        console="off",  # what is printed stays the user's
        disable_git=True,  # nothing of the working folder
        disable_code=True,
        reinit="create_new",  # a script may have a run of its own
        finish_timeout=_FINISH_SECONDS,
    )
    try:
        return wandb.init(
            id=run_id,
            mode=mode,
            # Offline there is nothing to ask; the parts meet when they are uploaded.
            resume="allow" if mode == "online" else None,
            dir=os.environ.get("WANDB_DIR", run.folder),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            group=Memory(run.folder, "wandb").run_id or run_id,
            job_type="eval" if run.only_evaluates else "train",
            settings=settings,
        )
    except wandb.Error as error:
        raise UserError(
            f"Expected Weights & Biases to take this run; received: {one_line(error)}. Set "
            "WANDB_MODE=offline to write files for a later upload, or leave wandb out of --loggers."
        ) from error


def _mode(wandb: Any) -> tuple[Any, str]:
    """Returns 'online', 'offline' or 'disabled', and why it is not online; it never asks."""
    wanted = wandb.setup().settings.mode
    wanted = {"run": "online", "dryrun": "offline"}.get(wanted, wanted)  # older names
    if wanted != "online":
        return wanted, f"WANDB_MODE={wanted}"
    # Only newer versions can be asked in public; both read the environment and netrc alone.
    if "prompt" in inspect.signature(wandb.login).parameters:
        has_account = wandb.login(prompt=False, verify=False)
    else:
        has_account = bool(wandb.api.api_key)
    return ("online", "") if has_account else ("offline", "no account here: wandb login")


def _line(wandb: Any, opened: Any, mode: str, why: str, only_evaluates: bool) -> str:
    whose = " of this evaluation alone" if only_evaluates else ""
    begun = f"Logging to Weights & Biases, run {opened.id}{whose}"
    if mode == "online":
        return f"{begun}: {opened.url}"
    if mode == "disabled":
        return f"{begun}: disabled ({why}), nothing is written."
    # The star stands for the parts of a resumed run. Versions that do not join them by themselves
    # would begin the run again at each.
    home = shlex.quote(os.path.relpath(os.path.dirname(os.path.dirname(opened.dir))))
    version = tuple(int(part) for part in wandb.__version__.split(".")[:2])
    joined = "" if version >= _JOINS_PARTS else "--append "
    return (
        f"{begun}, offline ({why}); upload it with: "
        f"wandb sync {joined}{home}/offline-run-*-{opened.id}"
    )
