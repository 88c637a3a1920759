"""One recipe, whatever it is read from, and the one model that is built from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from simclr_tf.checkpoints.variables import model_variables
from simclr_tf.config import Config
from simclr_tf.models.architecture import recognise
from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.recipe import Recipe
from simclr_tf.runs.building import recipe_of
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.distiller import Distiller
from simclr_tf.training.from_recipe import build_model
from simclr_tf.training.simclr import SimCLR

pytestmark = pytest.mark.usefixtures("half_as_deep")

SMALL = Recipe(
    resnet_depth=18, width_multiplier=0.125, image_size=32, proj_out_dim=8, num_classes=3
)


def test_settings_and_recipe_have_one_default_each() -> None:
    """But for the decay of training: a model from a file has none unless it is asked for."""
    assert recipe_of(Config(weight_decay=0.0)) == Recipe()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"num_classes": None, "image_size": 224},
        {"proj_head_mode": "none"},
        {"proj_head_mode": "linear", "num_proj_layers": 1},
        {"num_proj_layers": 2, "proj_hidden_dim": 24},
        {"num_proj_layers": 4, "proj_hidden_dim": 24},
        {"num_proj_layers": 2, "resnet_depth": 50, "width_multiplier": 0.25, "sk_ratio": 0.25,
         "se_ratio": 0.25},
    ],
    ids=str,
)  # fmt: skip
def test_shapes_tell_the_recipe_that_they_were_made_by(changed: dict[str, Any]) -> None:
    recipe = dataclasses.replace(SMALL, **changed)
    variables = model_variables(build_model(recipe))
    found = recognise({path: tuple(v.shape) for path, v in variables.items()})
    if recipe.proj_head_mode == "none":
        found = dataclasses.replace(found, proj_out_dim=recipe.proj_out_dim)  # no shape says
    assert found == recipe


def test_every_value_reaches_the_model() -> None:
    settings = Config(
        train_mode="finetune", resnet_depth=18, width_multiplier=0.125, image_size=16,
        batch_norm_decay=0.5, proj_out_dim=8, num_proj_layers=2, ft_proj_selector=1,
        fine_tune_after_block=2, weight_decay=0.25, seed=7, proj_hidden_dim=12,
    )  # fmt: skip
    recipe = Recipe.from_settings(settings.to_dict(), num_classes=5)
    model = build_model(recipe)
    assert type(model) is Classifier and model.get_config().items() >= {
        "num_classes": 5, "projection_selector": 1, "fine_tune_after_block": 2,
        "weight_decay": 0.25, "seed": 7,
    }.items()  # fmt: skip
    assert model.projection_head.get_config().items() >= {
        "out_dim": 8, "num_layers": 2, "batch_norm_momentum": 0.5, "synchronized": True,
        "hidden_dim": 12,
    }.items()  # fmt: skip
    # The linear head reads the first layer: as wide as it says.
    assert tuple(model.supervised_head.kernel.shape) == (12, 5)
    encoder = model.encoder.get_config()
    assert encoder["batch_norm_momentum"] == 0.5 and encoder["cifar_stem"]
    student = build_model(
        dataclasses.replace(recipe, train_mode="distill"), temperature=3.0, labels_weight=0.5
    )
    assert type(student) is Distiller and student.temperature == 3.0
    contrasting = build_model(
        dataclasses.replace(
            SMALL, temperature=0.5, hidden_norm=False, lineareval_loss_weight=0.25,
            lineareval_batch_norm=True,
        ),
        micro_batch_size=2,
    )  # fmt: skip
    assert type(contrasting) is SimCLR and contrasting.get_config().items() >= {
        "temperature": 0.5, "hidden_norm": False, "supervised_loss_weight": 0.25,
        "supervised_batch_norm": True, "micro_batch_size": 2,
    }.items()  # fmt: skip


def test_a_network_that_is_there_is_taken_as_it_is() -> None:
    encoder = make_encoder("mlp:4", image_size=8)
    model = build_model(Recipe(encoder, proj_head_mode="none"))
    assert model.encoder is encoder and model.projection_head.depth == 0


def test_early_runs_lack_later_settings() -> None:
    settings = Config(weight_decay=0.0).to_dict()
    del settings["lineareval_loss_weight"], settings["lineareval_batch_norm"]
    assert Recipe.from_settings(settings, None) == Recipe()
    del settings["image_size"]
    with pytest.raises(KeyError, match="image_size"):
        Recipe.from_settings(settings, None)
