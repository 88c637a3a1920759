"""One run, from settings to results: the one place that puts the parts together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from simclr_tf.augment.layer import host_views
from simclr_tf.checkpoints.reader import newest_checkpoint, read_step
from simclr_tf.checkpoints.store import CheckpointStore, LoadReport, load_weights
from simclr_tf.config import Config
from simclr_tf.datasets import ImageSource, folder_of, open_source
from simclr_tf.datasets.apart import check_folder_apart
from simclr_tf.datasets.folder_layout import left_out_line
from simclr_tf.datasets.labelled import LIST_FILE, find_labelled, write_labelled
from simclr_tf.datasets.pipeline import evaluation_dataset, training_dataset
from simclr_tf.devices import precision
from simclr_tf.devices.process_state import isolated
from simclr_tf.devices.quiet import start_xla
from simclr_tf.devices.strategy import make_strategy
from simclr_tf.errors import UserError
from simclr_tf.evaluation import pictures, probes
from simclr_tf.files.json_files import write_json
from simclr_tf.files.writers import Writer
from simclr_tf.images.batch_errors import in_one_line
from simclr_tf.optim.schedules import get_train_steps
from simclr_tf.runs import building, comparison
from simclr_tf.runs import folder as run_folder
from simclr_tf.runs.callbacks import Checkpoints, Progress, SkippedSteps, StopOnNotFinite, Summaries
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.finite import failure
from simclr_tf.training.fit_data import checked_dataset
from simclr_tf.training.gradient_cache import check_micro_batch_size
from simclr_tf.training.simclr import SimCLR

ExportFunction = Callable[..., Any]

PICTURED_IMAGES = 8
# Which images of a folder are held out does not follow --seed: fine-tuning with another seed than
# pretraining must not be evaluated on images that were trained on.
HELD_OUT_SEED = 0
EVALUATION_POLL_SECONDS = 15  # the release's


def train_and_evaluate(config: Config, export_fn: ExportFunction) -> dict[str, float]:
    """Does what `config.mode` says: train, evaluate new checkpoints, or train and then evaluate.

    Args:
        config: The settings; `model_dir` and `dataset` must be set.
        export_fn: Called as `export_fn(model, path, overwrite=True, details=...)` after an
            evaluation; `details` is what the run knows of itself, for the model card.

    Returns:
        The last evaluation's results, by the release's names; empty for `mode=train`.

    Raises:
        UserError: A setting, the data, a checkpoint or the folder does not fit.
        NotFiniteError: Loss, weights or results became NaN or infinite.

    Example:
        >>> config = Config(dataset='mnist_5k', eval_split='test', image_size=28, model_dir='a')
        >>> train_and_evaluate(config, tf_hub_export.export_saved_model)
    """
    config.validate()
    if config.model_dir is None or config.dataset is None:
        raise UserError("Expected model_dir and dataset; received: None. Name both.")
    with isolated():  # seed and policy are the run's alone
        return Run(config, export_fn).execute()


class Run:
    """The parts of one run; see `train_and_evaluate`."""

    def __init__(self, config: Config, export_fn: ExportFunction) -> None:
        self.announcements: list[str] = []
        images = folder_of(str(config.dataset), config.data_dir)
        if images is not None:
            line = check_folder_apart(images, str(config.model_dir), "--model_dir")
            self.announcements += [line] if line else []
        config, precision_lines = _settle_precision(config)
        config, taken = run_folder.as_begun(config)
        self.config = config
        self.export_fn = export_fn
        self.model_dir = str(config.model_dir)
        if config.mode == "eval" and not os.path.isdir(self.model_dir):
            raise UserError(
                f"Expected the model_dir of a run to evaluate; {self.model_dir} does not exist. "
                "Train first, or name another --model_dir."
            )
        self.announcements += [*taken, *precision_lines, *run_folder.open_folder(config)]
        self.strategy = make_strategy(
            config.strategy,
            cpu_replicas=config.cpu_replicas,
            use_tpu=config.use_tpu,
            tpu_name=config.tpu_name,
            tpu_zone=config.tpu_zone,
            gcp_project=config.gcp_project,
            master=config.master,
        )
        self.writer = Writer.of(self.strategy)
        self._warn_of_slow_precision()  # before the seed: its networks draw weights too
        keras.utils.set_random_seed(config.seed)
        keras.mixed_precision.set_global_policy(precision.policy_name(config.mixed_precision))
        self.train_source = self._open(config.train_split)
        self.eval_source = None if config.mode == "train" else self._open(config.eval_split)
        if self.train_source.left_out:
            line = left_out_line(self.train_source.name, self.train_source.left_out)
            self.announcements.append(line)
        self._check_data()
        self.whole_source = self.train_source
        self.labelled: np.ndarray | None = None
        self._said_of_evaluation = False  # once, however many checkpoints are evaluated
        if config.label_fraction < 1:
            self._restrict_labels()
        self.train_steps = get_train_steps(
            self.train_source.num_examples,
            config.train_epochs,
            config.train_batch_size,
            config.train_steps,
        )
        with self.strategy.scope():
            self.model = self._make_model()

    # Building.

    def _warn_of_slow_precision(self) -> None:
        config = self.config
        if config.mode == "eval" or not precision.may_be_slow(
            config.mixed_precision, config.use_tpu or config.strategy == "tpu"
        ):
            return
        config = dataclasses.replace(config, encoder_weights=None)
        measured = precision.measure_slowdown(
            lambda: building.make_encoder(config),
            config.mixed_precision,
            (config.image_size, config.image_size, 3),
        )
        line = precision.slowdown_line(config.mixed_precision, measured)
        self.announcements += [line] if line else []

    def _open(self, split: str) -> ImageSource:
        config = self.config
        return open_source(
            str(config.dataset),
            split,
            data_dir=config.data_dir,
            eval_fraction=config.eval_fraction,
            seed=HELD_OUT_SEED,
            on_bad_image=config.on_bad_image,
            transparent=config.transparent,
        )

    def _check_data(self) -> None:
        config, source = self.config, self.train_source
        needs_labels = config.train_mode == "finetune" or (
            config.train_mode == "distill" and config.distill_labels_weight > 0
        )
        if needs_labels and source.num_classes is None:
            purpose = "fine-tuning" if config.train_mode == "finetune" else "distill_labels_weight"
            raise UserError(
                f"Expected a labelled data set for {purpose}; {source.name} has no labels. "
                "Sort the images into one folder per class, or pretrain."
            )
        if needs_labels and source.num_classes == 1:
            raise UserError(
                f"Expected two classes or more; {source.name} has one. "
                "Sort the images into one folder per class, or pretrain."
            )
        replicas = self.strategy.num_replicas_in_sync
        if config.mode != "eval" and config.train_batch_size % replicas:
            raise UserError(
                f"Expected train_batch_size to be a multiple of the {replicas} replicas; received: "
                f"{config.train_batch_size}. "
                f"Pass --train_batch_size={replicas * max(1, 256 // replicas)}."
            )
        if config.micro_batch_size and config.mode != "eval":  # it may run on other devices
            check_micro_batch_size(config.train_batch_size // replicas, config.micro_batch_size)
        other = self.eval_source
        if other is not None and source.num_classes and other.num_classes != source.num_classes:
            raise UserError(
                f"Expected as many classes in {config.eval_split} as in {config.train_split}; "
                f"received: {other.num_classes} and {source.num_classes}. Mend the data set."
            )

    def _restrict_labels(self) -> None:
        """Leaves a share of the labels: chosen images alone, or all images with few labels."""
        config, whole = self.config, self.whole_source
        with _data_errors(whole):
            self.labelled = find_labelled(
                whole,
                config.label_fraction,
                config.label_seed,
                os.path.join(self.model_dir, LIST_FILE),
                check=config.mode != "eval",
            )
        if config.train_mode == "distill":
            self.train_source = whole.hide_labels(self.labelled)
        else:
            self.train_source = whole.subset(self.labelled)
        self.train_source.split = f"{whole.split}, label_fraction {config.label_fraction:g}"

    def _make_model(self) -> SimCLR | Classifier:
        config, teacher = self.config, None
        test = self.eval_source
        # An evaluation with labels does not ask the teacher.
        if config.train_mode == "distill" and (
            config.mode != "eval" or test is None or test.num_classes is None
        ):
            teacher = building.make_teacher(config, self.train_source, test)
            self.announcements.append(f"Teacher: {teacher.describe()}.")
        classes = self.train_source.num_classes
        if config.train_mode == "distill":
            classes = teacher.num_classes if teacher is not None else test.num_classes
        return building.make_model(
            config,
            num_classes=classes,
            num_examples=self.train_source.num_examples,
            train_steps=self.train_steps,
            teacher=teacher,
        )

    # Running.

    def execute(self) -> dict[str, float]:
        for line in self.announcements:
            self.writer.say(line)
        if self.config.mode == "eval":
            return self._follow()
        step = self._train()
        if self.config.mode == "train":
            return {}
        results = self._evaluate(step)
        if self.writer.is_chief:
            self._compare(results)
        return results

    def _train(self) -> int:
        """Trains what is left to train; returns the step that the model is at."""
        config = self.config
        store = CheckpointStore(
            self.model,
            self.model.optimizer,
            self.model_dir,
            config.keep_checkpoint_max,
            self.writer,
        )
        first_step = self._start(store)
        source, data = self.train_source, None
        if first_step < self.train_steps:
            with _data_errors(source):
                data = self._training_data(first_step)
        # Only now: settings that cannot work must not claim the folder.
        if self.labelled is not None:
            path = os.path.join(self.model_dir, LIST_FILE)
            if self.writer.is_chief:
                write_labelled(self.whole_source, self.labelled, path)
            whole = self.whole_source.num_examples
            self.writer.say(
                f"Using the labels of {len(self.labelled)} of {whole} images, listed in {path}."
            )
        if self.writer.is_chief:
            run_folder.write_settings(config)
        if data is None:
            self.writer.say(f"Already trained to step {first_step} of {self.train_steps}.")
            return first_step
        classes = f"{source.num_classes} classes" if source.num_classes else "no labels"
        self.writer.say(
            f"Training on {source.num_examples} images of {source.name} ({classes}), "
            f"step {first_step} to {self.train_steps}, {config.train_batch_size} images a step, "
            f"{self.strategy.num_replicas_in_sync} replica(s)."
        )
        epoch_steps = max(1, round(source.num_examples / config.train_batch_size))
        checkpoint_steps = config.checkpoint_steps or config.checkpoint_epochs * epoch_steps
        summary_steps = config.train_summary_steps or checkpoint_steps

        def due(every: int) -> Callable[[int], bool]:
            return lambda step: step == self.train_steps or (every > 0 and step % every == 0)

        pictured = self._save_views(first_step)
        progress = Progress(first_step, self.train_steps, config.train_batch_size, self.writer)
        skipped = SkippedSteps(first_step)
        callbacks = [
            progress,
            # Before the others: neither a row nor a checkpoint of numbers that are none.
            StopOnNotFinite(first_step, self.train_steps, lambda: store.latest),
            skipped,
            Summaries(first_step, self.model_dir, due(summary_steps), pictured, self.writer),
            Checkpoints(first_step, store, due(checkpoint_steps)),
        ]
        if config.jit_compile or getattr(self.model.augment, "jit_compile", False):
            start_xla()
        with _data_errors(source), contextlib.closing(progress):
            self.model.fit(
                data,
                epochs=1,
                steps_per_epoch=self.train_steps - first_step,
                callbacks=callbacks,
                shuffle=False,  # it is; Keras 3 warns
                verbose=0,
            )
        for line in filter(None, [*source.notices(), skipped.line()]):
            self.writer.say(line)
        return self.train_steps

    def _start(self, store: CheckpointStore) -> int:
        """Resumes, warm-starts or starts afresh; returns the steps taken before."""
        config = self.config
        healthy, sick = store.newest_healthy()
        if healthy is not None:
            step = store.restore(healthy)
            left = f" ({', '.join(sick)} left out: NaN or infinity)" if sick else ""
            self.writer.say(f"Resuming from {healthy} at step {step}{left}.")
            return step
        if sick:
            raise UserError(
                f"Expected a checkpoint to resume from in {self.model_dir}; received: NaN or "
                f"infinity in all {len(sick)}. Start afresh with another --model_dir."
            )
        if config.checkpoint:
            report_ = load_weights(self.model, config.checkpoint, config.variable_schema)
            self._check_report(report_)
            self.writer.say(f"Starting from {config.checkpoint}: {report_.describe()}")
            few_labels = config.label_fraction < 1 or config.train_mode == "distill"
            head = any(path.startswith("supervised_head/") for path in report_.loaded)
            if few_labels and head and not config.zero_init_logits_layer:
                # Pretraining's online head has seen every label.
                self.writer.say(
                    "The linear head starts as the checkpoint's, which has learned from the labels "
                    "of that run; --zero_init_logits_layer starts it afresh."
                )
        if config.train_mode != "pretrain" and config.zero_init_logits_layer:
            self.model.reset_head()
        return 0

    def _check_report(self, report_: LoadReport) -> None:
        """Refuses a checkpoint that leaves part of what matters at its random start."""
        config = self.config
        partial = not report_.encoder_fits()
        if config.train_mode != "pretrain" and config.ft_proj_selector > 0:
            needed = [
                f"_projection_head/linear_layers/{i}/" for i in range(config.ft_proj_selector)
            ]
            absent = [*report_.missing, *report_.mismatched]
            partial = partial or any(path.startswith(tuple(needed)) for path in absent)
        if partial:
            held = report_.architecture
            holds = f" It holds {held.describe()}." if held is not None else ""
            raise UserError(
                f"Expected a checkpoint of the same architecture in {config.checkpoint}; "
                f"{report_.describe()}{holds} Set resnet_depth, width_multiplier, sk_ratio, "
                "se_ratio, image_size (its stem), encoder and projection head to those it was "
                "trained with."
            )

    def _training_data(self, first_step: int) -> Any:
        config = self.config

        def dataset(context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
            return training_dataset(
                self.train_source,
                batch_size=config.train_batch_size,
                image_size=config.image_size,
                seed=config.seed,
                start_example=first_step * config.train_batch_size,
                cache=config.cache_dataset,
                host_transform=self._host_transform(),
                input_context=context,
            )

        if self.strategy.num_replicas_in_sync == 1:
            return dataset()

        def checked(context: tf.distribute.InputContext) -> tf.data.Dataset:
            # `fit` checks the batches of a data set, but cannot look into a distributed one.
            return checked_dataset(dataset(context), self.model.rules("fit"))

        return self.strategy.distribute_datasets_from_function(checked)

    def _host_transform(self) -> Callable[..., Any] | None:
        if self.config.augment_on == "device":
            return None
        options = building.view_options(self.config)
        if self.config.train_mode != "pretrain":
            return lambda image, seed: host_views(image, seed, num_views=1, **options)[0]
        return lambda image, seed: host_views(image, seed, num_views=2, **options)

    def _save_views(self, first_step: int) -> Callable[[int], np.ndarray | None] | None:
        """Writes `views.png`; returns the function that pictures the views of later steps."""
        if self.config.train_mode != "pretrain" or not self.writer.is_chief:
            return None
        with _data_errors(self.train_source):
            batch = next(iter(self._pictured_data()))
        inputs = batch[0] if isinstance(batch, tuple) else batch
        inputs = tf.nest.map_structure(lambda x: x[:PICTURED_IMAGES], inputs)

        def views(step: int) -> np.ndarray:
            seed = tf.constant([self.config.seed, step], tf.int32)
            return self.model.views(inputs, seed).numpy()

        if isinstance(inputs, tuple):  # made by the host: the sources are gone
            originals = inputs[0].numpy()
        else:
            originals = (inputs["image"] if isinstance(inputs, dict) else inputs).numpy()
        path = os.path.join(self.model_dir, "views.png")
        drawn = views(first_step)
        pictures.save_views(path, originals, drawn)
        self.writer.say(f"Wrote {path}: look at what the model is asked to recognise.")

        def picture(step: int) -> np.ndarray:
            drawn = views(step)
            half = len(drawn) // 2
            return pictures.view_grid([drawn[:half], drawn[half:]])

        return picture

    def _pictured_data(self) -> tf.data.Dataset:
        batch_size = min(PICTURED_IMAGES, self.train_source.num_examples)
        return training_dataset(
            self.train_source,
            batch_size=batch_size,
            image_size=self.config.image_size,
            seed=self.config.seed,
            host_transform=self._host_transform(),
        ).take(1)

    # Evaluating.

    def _evaluate(self, step: int) -> dict[str, float]:
        """Evaluates the model as it is, writes the results and an export."""
        config = self.config
        assert self.eval_source is not None
        batches = math.ceil(self.eval_source.num_examples / config.eval_batch_size)
        limit = min(config.eval_steps, batches) if config.eval_steps else None
        if self.model.supervised_head is None or self.eval_source.num_classes is None:
            self.writer.say(
                "No accuracy: it needs labels; reporting the agreement with the teacher instead."
                if config.train_mode == "distill"
                else "No accuracy: it needs labels and a linear head "
                "(lineareval_while_pretraining); reporting the contrastive task instead."
            )
        with _data_errors(self.eval_source), warnings.catch_warnings():
            # How many images can be read is only known at the end: no reason to warn.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            results = probes.evaluate_model(self.model, self._evaluation_data(), limit)
        for tag, value in results.items():
            if not math.isfinite(value):
                latest = newest_checkpoint(self.model_dir)
                raise failure(f"{tag} is {value:g}, nothing was exported", step, math.nan, latest)
        if not self._said_of_evaluation:
            self._said_of_evaluation = True
            for line in self.eval_source.notices():
                self.writer.say(f"Evaluation: {line}")
        if self.writer.is_chief:
            self._write_results(results, step)
        exports = os.path.join(self.model_dir, "saved_model")
        path = os.path.join(exports, str(step))
        # Every worker takes part; the exporter writes on one.
        self.export_fn(self.model, path, overwrite=True, details=self._details(results, step))
        if self.writer.is_chief:
            run_folder.prune_exports(exports, config.keep_hub_module_max)
        listed = ", ".join(f"{tag} {value:.4f}" for tag, value in results.items())
        self.writer.say(f"Step {step}: {listed}.")
        self.writer.say(f"Wrote {os.path.join(self.model_dir, run_folder.RESULT_FILE)} and {path}.")
        return results

    def _write_results(self, results: dict[str, float], step: int) -> None:
        name = f"eval_{self.config.eval_name}" if self.config.eval_name else ""
        writer = tf.summary.create_file_writer(os.path.join(self.model_dir, name))
        with writer.as_default():
            for tag, value in results.items():
                tf.summary.scalar(tag, value, step)
        writer.close()
        run_folder.write_results(self.model_dir, results, step)

    def _compare(self, results: dict[str, float]) -> None:
        """Says how the trained features stand beside untrained ones and raw pixels."""
        assert self.eval_source is not None
        if self.model.supervised_head is None or not comparison.is_wanted(
            self.config, self.train_source
        ):
            return
        accuracy = results["eval/label_top_1_accuracy"]
        sources = (self.train_source, self.eval_source)
        lines, compared = comparison.compare(self.config, self.model.encoder, sources, accuracy)
        for line in lines:
            self.writer.say(line)
        if compared:
            values = {"online_linear_head": accuracy, **compared}
            write_json(os.path.join(self.model_dir, "comparison.json"), values)

    def _details(self, results: dict[str, float], step: int) -> dict[str, Any]:
        """Returns what an export says of this run."""
        source = self.train_source
        name = os.path.basename(os.path.normpath(source.name))
        return {
            "data_set": f"{name} ({source.split}, {source.num_examples} images)",
            "settings": self.config.to_dict(),
            "step": step,
            "results": dict(results),
        }

    def _evaluation_data(self) -> tf.data.Dataset:
        dataset = evaluation_dataset(
            self.eval_source,
            batch_size=self.config.eval_batch_size,
            image_size=self.config.image_size,
        )
        if self.model.supervised_head is None and self.eval_source.num_classes is not None:
            dataset = dataset.map(lambda images, labels: images)
        return dataset

    def _follow(self) -> dict[str, float]:
        """Evaluates each new checkpoint until the last step's."""
        results: dict[str, float] = {}
        self.writer.say(f"Waiting for checkpoints in {self.model_dir}.")
        for prefix in tf.train.checkpoints_iterator(
            self.model_dir, min_interval_secs=EVALUATION_POLL_SECONDS
        ):
            report_ = load_weights(self.model, prefix)
            if report_.missing or report_.mismatched:
                raise UserError(
                    f"Expected a checkpoint of this model at {prefix}; {report_.describe()} "
                    "Evaluate with the settings it was trained with."
                )
            step = read_step(prefix)
            results = self._evaluate(step)
            if step >= self.train_steps:
                self.writer.say(
                    f"Step {step} is the last of {self.train_steps}: evaluation complete."
                )
                break
        return results


def _settle_precision(config: Config) -> tuple[Config, list[str]]:
    """Returns the settings with `auto` resolved, which the folder keeps, and what to say."""
    earlier = run_folder.read_settings(str(config.model_dir))
    settled, line = precision.resolve(
        config.mixed_precision,
        None if earlier is None else earlier.get("mixed_precision", "none"),
        config.use_tpu or config.strategy == "tpu",
    )
    return dataclasses.replace(config, mixed_precision=settled), [line] if line else []


@contextlib.contextmanager
def _data_errors(source: ImageSource) -> Iterator[None]:
    """Turns an error that the data caused inside a TensorFlow step into one line."""
    with in_one_line(), source.user_errors():
        yield
