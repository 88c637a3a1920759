"""A recipe: the network, heads and input of a model, from settings or from a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tensorflow import keras

from simclr_tf.models.encoders import make_encoder
from simclr_tf.models.heads import ProjectionHead
from simclr_tf.models.named_networks import CIFAR_STEM_SIDE

# The settings of a network of the release, in the order in which commands print them.
_RELEASE_SETTINGS = (
    "resnet_depth", "width_multiplier", "sk_ratio", "se_ratio", "proj_head_mode",
    "num_proj_layers", "proj_out_dim", "image_size",
)  # fmt: skip
# Fields that are no settings, and settings that early runs did not have.
_NO_SETTINGS = {"num_classes"}
_LATER_SETTINGS = {
    "channels",
    "encoder_weights",
    "lineareval_batch_norm",
    "lineareval_loss_weight",
    "resnet_stem",
    "proj_hidden_dim",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a model is built from; `training.from_recipe.build_model` builds it.

    Made from settings (`from_settings`), from the shapes in a file of weights
    (`architecture.recognise`), or around a network that exists. Fields are named as the settings.

    Attributes:
        encoder: A name as `make_encoder` takes it, or a network that is built already.
        image_size: Side of the images in pixels.
        channels: Channels of the images.
        resnet_depth: Depth of the encoder `resnet`.
        width_multiplier: Width of the encoder `resnet`.
        resnet_stem: Its first layers: `imagenet`, `cifar`, or `auto`: by the image size.
        sk_ratio: Its selective kernels' ratio; 0: none.
        se_ratio: Its squeeze-and-excitation's ratio; 0: none.
        batch_norm_decay: Decay of the moving statistics.
        global_bn: Whether batch norm statistics span replicas.
        encoder_weights: Initial weights of the encoder; None: random.
        proj_head_mode: Mode of the projection head; `none`: no head.
        proj_out_dim: Size of its output.
        num_proj_layers: Number of its layers.
        proj_hidden_dim: Width of all but the last; 0: that of the features.
        num_classes: Classes of the linear head; None: no head.
        ft_proj_selector: Layer of the projection head that the linear head reads.
        lineareval_batch_norm: Whether the online linear head reads through batch norm.
        train_mode: `pretrain` (a SimCLR), `finetune` (a Classifier) or `distill` (a Distiller).
        temperature: Of the contrastive loss.
        hidden_norm: Whether the contrastive loss scales vectors to length 1.
        lineareval_loss_weight: Weight of the online linear head's loss.
        fine_tune_after_block: Up to where a classifier's encoder is frozen; -1: nowhere.
        weight_decay: L2 penalty.
        seed: Seeds the views.

    Example:
        >>> recipe = Recipe(resnet_depth=18, image_size=32, num_classes=10)
        >>> build_model(recipe).encoder.output_shape
        (None, 512)
    """

    encoder: str | keras.Model = "resnet"
    image_size: int = 224
    channels: int = 3
    resnet_depth: int = 50
    width_multiplier: float = 1
    resnet_stem: str = "auto"
    sk_ratio: float = 0
    se_ratio: float = 0
    batch_norm_decay: float = 0.9
    global_bn: bool = True
    encoder_weights: str | None = None
    proj_head_mode: str = "nonlinear"
    proj_out_dim: int = 128
    num_proj_layers: int = 3
    proj_hidden_dim: int = 0
    num_classes: int | None = None
    ft_proj_selector: int = 0
    lineareval_batch_norm: bool = False
    train_mode: str = "pretrain"
    temperature: float = 0.1
    hidden_norm: bool = True
    lineareval_loss_weight: float = 1.0
    fine_tune_after_block: int = -1
    weight_decay: float = 0.0
    seed: int = 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], num_classes: int | None) -> Recipe:
        """Returns the recipe that a run's settings describe.

        Args:
            settings: Name -> value, as in `Config.to_dict` and `flags.json`; those that are not
                part of a recipe are ignored.
            num_classes: Classes of the linear head, known from data or weights.

        Raises:
            KeyError: A setting is missing.
        """
        names = [field.name for field in dataclasses.fields(cls) if field.name not in _NO_SETTINGS]
        values = {
            name: settings[name]
            for name in names
            if name in settings or name not in _LATER_SETTINGS
        }
        if settings.get("mlp_layers"):
            values["encoder"] = f"mlp:{settings['mlp_layers']}"
        return cls(num_classes=num_classes, **values)

    def make_encoder(self) -> keras.Model:
        """Returns the encoder: a fresh one, or the one that is built already.

        Raises:
            UserError: No such network, or it does not take such images or weights.
        """
        if not isinstance(self.encoder, str):
            return self.encoder
        return make_encoder(
            self.encoder,
            image_size=self.image_size,
            channels=self.channels,
            weights=self.encoder_weights,
            resnet_depth=self.resnet_depth,
            width_multiplier=self.width_multiplier,
            resnet_stem=self.resnet_stem,
            sk_ratio=self.sk_ratio,
            se_ratio=self.se_ratio,
            batch_norm_decay=self.batch_norm_decay,
            global_bn=self.global_bn,
        )

    def make_projection_head(self) -> ProjectionHead:
        """Returns a fresh projection head."""
        return ProjectionHead(
            self.proj_head_mode,
            out_dim=self.proj_out_dim,
            num_layers=self.num_proj_layers,
            batch_norm_momentum=self.batch_norm_decay,
            synchronized=self.global_bn,
            hidden_dim=self.proj_hidden_dim or None,
        )

    def release_settings(self) -> dict[str, Any]:
        """Returns the settings, by name, that describe this network of the release."""
        return {name: getattr(self, name) for name in _RELEASE_SETTINGS}

    def describe(self) -> str:
        """Returns a network of the release in words, as `resnet_depth=50, ..., 1000 classes`."""
        sign = "<=" if self.image_size <= CIFAR_STEM_SIDE else ">"
        head = f"proj_head_mode={self.proj_head_mode}"
        if self.proj_head_mode != "none":
            head += f", num_proj_layers={self.num_proj_layers}, proj_out_dim={self.proj_out_dim}"
        if self.proj_hidden_dim:
            head += f", proj_hidden_dim={self.proj_hidden_dim}"
        classes = f"{self.num_classes} classes" if self.num_classes else "no linear head"
        return (
            f"resnet_depth={self.resnet_depth}, width_multiplier={self.width_multiplier:g}, "
            f"sk_ratio={self.sk_ratio:g}, se_ratio={self.se_ratio:g}, "
            f"image_size{sign}{CIFAR_STEM_SIDE}, {head}, {classes}"
        )
