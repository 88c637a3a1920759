"""The evaluation of a run's model: results, files, an export."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping

from simclr_tf.checkpoints.reader import newest_checkpoint
from simclr_tf.config import Config
from simclr_tf.evaluation import probes
from simclr_tf.files.writers import Writer
from simclr_tf.loggers.together import Loggers
from simclr_tf.runs import folder as run_folder
from simclr_tf.runs.batches import evaluation_batches
from simclr_tf.runs.data import RunData, count_of, data_errors
from simclr_tf.runs.exporting import ExportFunction, details_of, export
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.finite import failure
from simclr_tf.training.simclr import SimCLR


class Evaluator:
    """Evaluates a model in its present state, at any step.

    Args:
        config: The run's settings.
        model: The run's model.
        data: The run's images; `test` is not None.
        export_fn: The function that exports, see `exporting`.
        writer: Who writes and prints.
        loggers: Where to log the results.
    """

    def __init__(
        self,
        config: Config,
        model: SimCLR | Classifier,
        data: RunData,
        export_fn: ExportFunction,
        writer: Writer,
        loggers: Loggers,
    ) -> None:
        assert data.test is not None
        self._config, self._model = config, model
        self._train, self._test = data.train, data.test
        self._export_fn, self._writer, self._loggers = export_fn, writer, loggers
        self._notices_said = False  # once, however many checkpoints are evaluated

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluates the model; writes the results and an export.

        Args:
            step: The step that the model is at.

        Returns:
            The results, by the release's names.

        Raises:
            NotFiniteError: A result is NaN or infinite: nothing is written.
        """
        config, writer = self._config, self._writer
        results = self._measure()
        for tag, value in results.items():
            if not math.isfinite(value):
                what = f"{tag} is {value:g}, nothing was exported"
                latest = newest_checkpoint(str(config.model_dir))
                raise failure(self._model, what, step, math.nan, latest)
        if not self._notices_said:
            self._notices_said = True
            for line in self._test.notices():
                writer.say(f"Evaluation: {line}")
        if writer.is_chief:
            run_folder.write_results(str(config.model_dir), results, step)
            self._log(results, step)
        details = details_of(config, self._train, results, step)
        path = export(config, self._model, details, self._export_fn, writer)
        listed = ", ".join(f"{tag} {value:.4f}" for tag, value in results.items())
        writer.say(f"Step {step}: {listed}.")
        result_file = os.path.join(str(config.model_dir), run_folder.RESULT_FILE)
        writer.say(f"Wrote {result_file} and {path}.")
        return results

    def _log(self, results: Mapping[str, float], step: int) -> None:
        config = self._config
        group = f"eval_{config.eval_name}" if config.eval_name else ""
        self._loggers.scalars(results, step, f"eval on {config.eval_split}", group)
        self._loggers.file(os.path.join(str(config.model_dir), run_folder.RESULT_FILE))

    def _measure(self) -> dict[str, float]:
        config, model, source = self._config, self._model, self._test
        batches = math.ceil(count_of(source) / config.eval_batch_size)
        limit = min(config.eval_steps, batches) if config.eval_steps else None
        if model.supervised_head is None or source.num_classes is None:
            self._writer.say(
                "No accuracy: it needs labels; reporting the agreement with the teacher instead."
                if config.train_mode == "distill"
                else "No accuracy: it needs labels and a linear head "
                "(lineareval_while_pretraining); reporting the contrastive task instead."
            )
        with data_errors(source), warnings.catch_warnings():
            # How many images can be read is only known at the end: Keras would warn.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            return probes.evaluate_model(model, evaluation_batches(config, source, model), limit)
