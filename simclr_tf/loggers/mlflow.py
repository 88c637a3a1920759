"""MLflow: in the store that the user has named, else in an SQLite file beside the run's folder."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from simclr_tf.loggers.guard import without_password
from simclr_tf.loggers.logger import LoggedRun, Logger, default_variables, tagged
from simclr_tf.loggers.memory import Memory

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "simclr_tf"
STORE, ARTIFACTS = "mlflow.db", "mlartifacts"
_SIGNALS = 128  # above: the exit codes of interruptions
_MOST_AT_ONCE = 100  # parameters that MLflow takes in one call
_LONGEST_PARAMETER = 6000  # characters
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # Training waits for each call: with MLflow's own values minutes, where a server is gone.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MLflow(Logger):
    """Writes metrics, parameters and small files to one MLflow run.

    Args:
        client: Of the store.
        run_id: Of the MLflow run.
        memory: What the run's folder remembers.
        ends_run: Whether this process says how the run ended.
        until_closed: Closed with the logger.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        memory: Memory,
        ends_run: bool,
        until_closed: contextlib.ExitStack,
    ) -> None:
        self._client, self._run_id, self.memory = client, run_id, memory
        self._ends_run, self._until_closed = ends_run, until_closed

    def scalars(self, values: Mapping[str, float], step: int, group: str) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_allowed(tag), value, now, step) for tag, value in tagged(values, group).items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def summary(self, values: Mapping[str, float], step: int) -> None:
        held = self._client.get_run(self._run_id).data.metrics
        new = {tag: value for tag, value in values.items() if held.get(_allowed(tag)) != value}
        if new:
            self.scalars(new, step, "")

    def file(self, path: str) -> None:
        self._client.log_artifact(self._run_id, path)

    def close(self, exit_code: int) -> None:
        with self._until_closed:
            if self._ends_run:
                ended = "KILLED" if exit_code > _SIGNALS else "FAILED"
                status = ended if exit_code else "FINISHED"
                self._client.set_terminated(self._run_id, status)


def open_logger(run: LoggedRun) -> Logger:
    """Opens the MLflow run of a run's folder, or a new one, and writes its parameters."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(default_variables(**_QUIET))
        import mlflow
        from mlflow import MlflowClient

        local = None if mlflow.is_tracking_uri_set() else Path(run.folder).absolute().parent
        uri = f"sqlite:///{local / STORE}" if local else mlflow.get_tracking_uri()
        client = MlflowClient(tracking_uri=uri)
        memory = Memory(run.folder, "mlflow")
        kept = _kept_run(client, memory, run)
        opened = kept or client.create_run(_experiment(client, local), run_name=run.name)
        run_id = opened.info.run_id
        if kept is None:
            memory.begin(run_id)
        elif not run.only_evaluates:
            client.update_run(run_id, status="RUNNING")
        _write_parameters(client, opened, run)
        shown = f"sqlite:///{os.path.relpath(local / STORE)}" if local else uri
        view = f"; look at it with: mlflow ui --backend-store-uri={shown}" if local else ""
        run.say(f"Logging to MLflow, run {run_id} in {without_password(shown)}{view}")
        # One that only evaluates adds to a run that another process may still be training.
        ends_run = kept is None or not run.only_evaluates
        return MLflow(client, run_id, memory, ends_run, stack.pop_all())


def _kept_run(client: MlflowClient, memory: Memory, run: LoggedRun) -> Run | None:
    """Returns the MLflow run that the folder remembers; None: there is none in this store."""
    from mlflow.exceptions import MlflowException

    if memory.run_id is None:
        return None
    try:
        found = client.get_run(memory.run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        found = None
    if found is not None and found.info.lifecycle_stage == "active":
        return found
    run.say(f"This MLflow store has no run {memory.run_id}, where this run was logged: a new one.")
    return None


def _experiment(client: MlflowClient, local: Path | None) -> str:
    """Returns the id of the experiment, which is made where it is missing."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    # Of a local store MLflow would put the files into the working directory.
    place = (local / ARTIFACTS).as_uri() if local else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException:  # another process has just made it
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def _write_parameters(client: MlflowClient, opened: Run, run: LoggedRun) -> None:
    """Writes every setting. MLflow's parameters can't change: what did becomes a tag."""
    from mlflow.entities import Param, RunTag

    values = {name: str(value)[:_LONGEST_PARAMETER] for name, value in run.settings.items()}
    held = opened.data.params
    new = [Param(name, value) for name, value in values.items() if name not in held]
    changed = [
        RunTag(name, value) for name, value in values.items() if held.get(name, value) != value
    ]
    for first in range(0, len(new), _MOST_AT_ONCE):
        client.log_batch(opened.info.run_id, params=new[first : first + _MOST_AT_ONCE])
    if changed and not run.only_evaluates:
        client.log_batch(opened.info.run_id, tags=changed)


def _allowed(tag: str) -> str:
    """Returns a tag with only the characters that MLflow's metrics may have."""
    return re.sub(r"[^\w\-. :/]", "", tag)
