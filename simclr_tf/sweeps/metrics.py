"""The figures by which trials are compared: in which file of a run, and which way is better."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from simclr_tf.config import Config
from simclr_tf.config.settings import Value
from simclr_tf.errors import UserError
from simclr_tf.files.csv_files import read_csv
from simclr_tf.files.json_files import read_json

_RESULT, _COMPARISON = "result.json", "comparison.json"
_ONLINE, _METRICS = "online_evaluation.csv", "metrics.csv"
_PRETRAINED: dict[str, Value] = {"train_mode": "pretrain"}
_PROBED: dict[str, Value] = {**_PRETRAINED, "lineareval_while_pretraining": True}
_DISTILLED: dict[str, Value] = {"train_mode": "distill"}


def _of_topic(topic: str) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(Config) if f.metadata["topic"] == topic)


# The contrastive task itself becomes easier or harder with them.
_TASK = (*_of_topic("Views"), "train_batch_size", "memory_size", "memory_momentum")
_LOSS = (*_TASK, *_of_topic("Loss"))


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure that a run writes.

    Attributes:
        about: What it is, for the help.
        file: Where it stands in a run's folder.
        key: Its name there.
        larger: Whether a larger value is better.
        needs: Settings without which no run writes it.
        asks: A setting that makes each run write it, and its value.
        unlike: Settings whose values make it another figure: they may not be swept over.
    """

    about: str
    file: str
    key: str
    larger: bool = True
    needs: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    asks: tuple[str, Value] | None = None
    unlike: tuple[str, ...] = ()


def _result(about: str, key: str, **more: Any) -> Metric:
    return Metric(about, _RESULT, f"eval/{key}", **more)


def _compared(about: str, key: str) -> Metric:
    return Metric(about, _COMPARISON, key, needs=_PROBED, asks=("eval_baselines", "always"))


def _online(about: str, key: str, larger: bool = True) -> Metric:
    return Metric(about, _ONLINE, key, larger, asks=("online_eval", "always"))


METRICS = {
    "label_top_1_accuracy": _result("accuracy of the linear head", "label_top_1_accuracy"),
    "label_top_5_accuracy": _result("likewise, among its first five", "label_top_5_accuracy"),
    "logistic_regression": _compared("accuracy of a probe at the end", "logistic_regression"),
    "5_nearest_neighbours": _compared("accuracy of neighbours at the end", "5_nearest_neighbours"),
    "knn_top_1": _online("accuracy of neighbours among training images", "knn_top_1"),
    "effective_rank": _online("of the features; needs no labels", "effective_rank"),
    "spread": _online("of the features; needs no labels", "spread"),
    "uniformity": _online("of the features; needs no labels", "uniformity", False),
    "contrast_acc": Metric(
        "views that find each other, in training", _METRICS, "contrast_acc", needs=_PRETRAINED,
        unlike=_TASK,
    ),
    "contrast_loss": Metric(
        "loss of training", _METRICS, "contrast_loss", False, _PRETRAINED, unlike=_LOSS
    ),
    "teacher_agreement": _result("of a student", "teacher_agreement", needs=_DISTILLED),
    "distill_loss": _result(
        "of a student", "distill_loss", larger=False, needs=_DISTILLED,
        unlike=("distill_temperature", "distill_labels_weight", "teacher"),
    ),
}  # fmt: skip


def find_metric(name: str) -> Metric:
    """Returns a metric by its name.

    Raises:
        UserError: There is none of that name.
    """
    if name not in METRICS:
        raise UserError(f"Expected --metric to be one of {', '.join(METRICS)}; received: {name!r}.")
    return METRICS[name]


def settings_for(name: str, config: Config, swept: Iterable[str], typed: Iterable[str]) -> Config:
    """Returns the settings with which every run writes a metric.

    Args:
        name: Of the metric.
        config: What is asked for.
        swept: Names of the settings that are swept over.
        typed: Names of those that the user gave by flags.

    Raises:
        UserError: The runs would not write it, or it could not be compared among them.
    """
    metric = find_metric(name)
    for setting, value in metric.needs.items():
        if setting not in swept and getattr(config, setting) != value:
            raise UserError(
                f"Expected --{setting}={value} with --metric={name}; received: "
                f"{getattr(config, setting)}. Choose another --metric, or leave it away."
            )
    labels = "lineareval_while_pretraining"
    headless = config.train_mode == "pretrain" and not getattr(config, labels)
    if headless and labels not in swept and metric.key.startswith("eval/label"):
        raise UserError(
            f"Expected --{labels}=True with --metric={name}; received: False. "
            "Choose another --metric, or leave it away."
        )
    unlike = [setting for setting in swept if setting in metric.unlike]
    if unlike:
        raise UserError(
            f"Expected settings that leave {name} the same figure; received: --space of "
            f"{unlike[0]}, whose values make it easier or harder. Choose another --metric: "
            "knn_top_1, or logistic_regression."
        )
    config = dataclasses.replace(config, mode="train_then_eval", model_dir=None)
    if metric.asks is None:
        return config
    setting, value = metric.asks
    given = getattr(config, setting)
    if given != value and setting in typed:
        raise UserError(
            f"Expected --{setting}={value} with --metric={name}, which it makes runs write; "
            f"received: {given}. Leave --{setting} away."
        )
    asked: dict[str, Any] = {setting: value}
    return dataclasses.replace(config, **asked)


def read_metric(name: str, folder: str) -> float:
    """Returns a run's figure, at the step that the run ended with or, of several, took as the best.

    Args:
        name: Of the metric.
        folder: The run's `model_dir`.

    Raises:
        UserError: The run did not write it, or it is no finite number.
    """
    metric = find_metric(name)
    path = os.path.join(folder, metric.file)
    found: Any
    if metric.file == _RESULT:
        found = read_json(path).get(metric.key)
    elif metric.file == _COMPARISON:
        ours = read_json(path).get("this run")
        found = ours.get(metric.key) if isinstance(ours, dict) else None
    else:
        found = _at_step(path, metric.key, read_json(os.path.join(folder, _RESULT)))
    try:
        value = float(found)
        if math.isfinite(value):
            return value
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"Expected {name} in {path}; received: {'none' if found is None else found}. "
        "Choose a --metric that such runs write: without labels there is no accuracy."
    )


def _at_step(path: str, key: str, results: Mapping[str, Any]) -> str | None:
    """Returns the last cell of a column up to the step of the results."""
    last, found = results.get("global_step", math.inf), None
    for row in read_csv(path):
        try:
            if float(row["step"]) <= last and row.get(key):
                found = row[key]
        except (KeyError, TypeError, ValueError):  # the last row of a process that was killed
            continue
    return found
