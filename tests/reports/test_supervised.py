"""The supervised run beside a pretraining takes what it can of that run's settings."""

from __future__ import annotations

from typing import Any

import pytest

from simclr_tf.config import Config
from simclr_tf.losses.names import NEEDS_LABELS, OPTIONS, WITH_MEMORY
from simclr_tf.reports.request import EvaluationRequest
from simclr_tf.reports.supervised import data_changes, supervised_config

pytestmark = pytest.mark.one_lane

OTHER: dict[str, Any] = {
    "similarity": "euclidean", "negatives": "semi_hard", "margin": 0.5, "dclw_sigma": 0.4,
    "positive_prior": 0.05, "hard_negative_beta": 0.5, "prior": "normal", "prior_weight": 2.0,
}  # fmt: skip
OF_RUN = {"dataset": "mnist_5k", "image_size": 8, "encoder": "mlp", "train_batch_size": 16}


@pytest.mark.parametrize("loss", OPTIONS)
def test_of_a_run_with_any_loss(loss: str) -> None:
    options = {name: OTHER[name] for name in OPTIONS[loss]}
    if loss == "margin_triplet":
        options.pop("negatives")
    settings = {**OF_RUN, "loss": loss, **options, "temperature": 0.2, "model_dir": "run"}
    if loss in WITH_MEMORY:
        settings |= {"memory_size": 64, "memory_momentum": 0.9}
    if loss in NEEDS_LABELS:
        settings["lineareval_while_pretraining"] = False
    Config.from_settings(settings).validate()  # such a run there is
    config = supervised_config(settings, "supervised", {})
    config.validate()
    assert config.train_mode == "finetune" and config.loss == "nt_xent"
    assert config.train_batch_size == 16 and config.model_dir == "supervised"


def test_of_a_distilled_student() -> None:
    settings = {
        **OF_RUN, "train_mode": "distill", "teacher": "teacher", "distill_temperature": 0.5,
        "distill_labels_weight": 0.5, "model_dir": "run",
    }  # fmt: skip
    Config.from_settings(settings).validate()
    config = supervised_config(settings, "supervised", {"dataset": "cifar10"})
    config.validate()
    assert config.teacher is None and config.dataset == "cifar10"


def test_of_other_data_than_the_runs() -> None:
    settings = {
        **OF_RUN, "dataset": "pets.csv", "data_dir": "pictures", "label_column": "species",
        "train_split": "train[:80%]", "eval_split": "train[80%:]", "model_dir": "run",
    }  # fmt: skip
    same = supervised_config(settings, "a", data_changes(EvaluationRequest("run")))
    assert (same.dataset, same.label_column) == ("pets.csv", "species")
    assert (same.data_dir, same.eval_split) == ("pictures", "train[80%:]")
    request = EvaluationRequest("run", dataset="cars.csv", test_split="validation")
    other = supervised_config(settings, "b", data_changes(request))
    assert (other.dataset, other.label_column, other.data_dir) == ("cars.csv", None, None)
    assert (other.train_split, other.eval_split) == ("train", "validation")
