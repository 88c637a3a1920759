"""SimCLR for TensorFlow: contrastive learning of visual representations.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (2020,
arXiv:2002.05709) and "Big Self-Supervised Models are Strong Semi-Supervised Learners" (2020,
arXiv:2006.10029).

`import simclr_tf` does not import TensorFlow: each name below is looked up when it is first used.

Example:
    >>> from simclr_tf import LARS, ProjectionHead, ResNet, SimCLR, SimCLRAugment
    >>> model = SimCLR(
    ...     encoder=ResNet(depth=18),
    ...     projection_head=ProjectionHead(out_dim=128),
    ...     augment=SimCLRAugment(image_size=32),
    ... )
    >>> model.compile(optimizer=LARS(0.3))
    >>> model.fit(dataset)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simclr_tf import moved

__version__ = "0.1.0"

if TYPE_CHECKING:
    from simclr_tf.augment.layer import SimCLRAugment
    from simclr_tf.checkpoints.release import load_release_weights
    from simclr_tf.config import Config
    from simclr_tf.datasets import open_source
    from simclr_tf.datasets.disk_cache import OnDisk
    from simclr_tf.datasets.pipeline import evaluation_dataset, training_dataset
    from simclr_tf.errors import UserError
    from simclr_tf.evaluation.monitor import FeatureMonitor
    from simclr_tf.evaluation.protocols import FeatureSplit, evaluate_features
    from simclr_tf.features.teacher import load_teacher
    from simclr_tf.losses.contrastive_loss import ContrastiveLoss
    from simclr_tf.losses.named import make_loss
    from simclr_tf.losses.nt_xent import nt_xent
    from simclr_tf.models.encoders import make_encoder
    from simclr_tf.models.heads import ProjectionHead
    from simclr_tf.models.resnet import ResNet
    from simclr_tf.optim.lars import LARS
    from simclr_tf.optim.schedules import WarmUpCosine
    from simclr_tf.reports.evaluating import evaluate_encoder
    from simclr_tf.reports.request import EvaluationRequest
    from simclr_tf.runs.run import train_and_evaluate
    from simclr_tf.training.classifier import Classifier
    from simclr_tf.training.distiller import Distiller
    from simclr_tf.training.dual_encoder import DualEncoder
    from simclr_tf.training.multi_label import MultiLabelClassifier
    from simclr_tf.training.simclr import SimCLR

__all__ = [
    "LARS",
    "Classifier",
    "Config",
    "ContrastiveLoss",
    "Distiller",
    "DualEncoder",
    "EvaluationRequest",
    "FeatureMonitor",
    "FeatureSplit",
    "MultiLabelClassifier",
    "OnDisk",
    "ProjectionHead",
    "ResNet",
    "SimCLR",
    "SimCLRAugment",
    "UserError",
    "WarmUpCosine",
    "evaluate_encoder",
    "evaluate_features",
    "evaluation_dataset",
    "load_release_weights",
    "load_teacher",
    "make_encoder",
    "make_loss",
    "nt_xent",
    "open_source",
    "train_and_evaluate",
    "training_dataset",
]

_HOME = {
    "Classifier": "training.classifier",
    "Config": "config",
    "ContrastiveLoss": "losses.contrastive_loss",
    "Distiller": "training.distiller",
    "DualEncoder": "training.dual_encoder",
    "EvaluationRequest": "reports.request",
    "FeatureMonitor": "evaluation.monitor",
    "FeatureSplit": "evaluation.protocols",
    "LARS": "optim.lars",
    "MultiLabelClassifier": "training.multi_label",
    "OnDisk": "datasets.disk_cache",
    "ProjectionHead": "models.heads",
    "ResNet": "models.resnet",
    "SimCLR": "training.simclr",
    "SimCLRAugment": "augment.layer",
    "UserError": "errors",
    "WarmUpCosine": "optim.schedules",
    "evaluate_encoder": "reports.evaluating",
    "evaluate_features": "evaluation.protocols",
    "evaluation_dataset": "datasets.pipeline",
    "load_release_weights": "checkpoints.release",
    "load_teacher": "features.teacher",
    "make_encoder": "models.encoders",
    "make_loss": "losses.named",
    "nt_xent": "losses.nt_xent",
    "open_source": "datasets",
    "train_and_evaluate": "runs.run",
    "training_dataset": "datasets.pipeline",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


moved.keep_old_names()
