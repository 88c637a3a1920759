"""Building a model from a recipe."""

from __future__ import annotations

from typing import Any

from simclr_tf.models.recipe import Recipe
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.simclr import SimCLR


def build_model(recipe: Recipe, **training: Any) -> SimCLR | Classifier:
    """Returns a fresh model, not compiled.

    Args:
        recipe: Network, heads, input, and the class of the model.
        **training: Arguments of the class that no file keeps: `augment`; a SimCLR's
            `micro_batch_size`; a Distiller's `teacher`, `temperature` and `labels_weight`.

    Raises:
        UserError: The parts do not fit together.

    Example:
        >>> build_model(Recipe("mlp:16", image_size=8), augment=SimCLRAugment(8))
    """
    encoder = recipe.make_encoder()
    common: dict[str, Any] = {
        "projection_head": recipe.make_projection_head(),
        "projection_selector": recipe.ft_proj_selector,
        "weight_decay": recipe.weight_decay,
        "seed": recipe.seed,
        **training,
    }
    if recipe.train_mode == "pretrain":
        return SimCLR(
            encoder,
            temperature=recipe.temperature,
            hidden_norm=recipe.hidden_norm,
            num_classes=recipe.num_classes,
            supervised_loss_weight=recipe.lineareval_loss_weight,
            supervised_batch_norm=recipe.lineareval_batch_norm,
            **common,
        )
    assert recipe.num_classes is not None
    kind = Distiller if recipe.train_mode == "distill" else Classifier
    return kind(
        encoder,
        recipe.num_classes,
        fine_tune_after_block=recipe.fine_tune_after_block,
        **common,
    )
