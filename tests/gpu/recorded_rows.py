"""The arrays in `tests/golden`, which the release computed on a processor, computed on the device.

Tolerances are those of the tests that read the same arrays, where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import recorded
import tensorflow as tf
from equality import tf32
from record import Row, compared
from release import two_views
from setting import Setting

from simclr_tf.augment import color
from simclr_tf.images import geometry
from simclr_tf.losses.nt_xent import nt_xent
from simclr_tf.models.endpoints import endpoint_model

ORDERS = ("0123", "3210", "2031", "1302")
# TensorFlow's bicubic kernel rounds its weights to a table of 1,024 entries; ours is exact.
BICUBIC = 5e-4


def on_device(setting: Setting, rows: Iterator[Row]) -> Iterator[Row]:
    """Yields rows that are computed on the device, without TF32."""
    with tf32(False), setting.on_device():
        yield from rows


def loss_rows() -> Iterator[Row]:
    """NT-Xent: five cases, value, logits and gradient."""
    z = recorded.load("nt_xent")
    for case in range(5):
        hidden = tf.constant(z[f"{case}_hidden"])
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            output = nt_xent(
                hidden,
                temperature=float(z[f"{case}_temperature"]),
                hidden_norm=bool(z[f"{case}_hidden_norm"]),
            )
        gradient = tape.gradient(output.loss, hidden)
        for name, value in (
            ("loss", output.loss), ("logits_ab", output.logits_ab), ("grad", gradient),
            ("contrast_entropy", output.entropy),
        ):  # fmt: skip
            yield compared(f"case {case}, {name}", value, z[f"{case}_{name}"], 1e-5)


def lars_rows() -> Iterator[Row]:
    """LARS: the variable that is farthest off after six updates, of four forms."""
    z = recorded.load("lars")
    for form in recorded.LARS_FORMS:
        *_, (step, values) = recorded.lars_steps(z, form)
        rows = [
            compared(f"{form}, six updates", value, z[f"{form}/step{step}/{name}"], 1e-5)
            for name, value in values.items()
        ]
        yield max(rows, key=lambda row: float(row["difference"]))


def image_rows() -> Iterator[Row]:
    """Crops, blur, colour and grey."""
    z = recorded.load("image_ops")
    for case in range(5):
        size = int(z[f"crop{case}_size"])
        image, box = z[f"crop{case}_image"], z[f"crop{case}_box"]
        ours = geometry.crop_and_resize(image[np.newaxis], box[np.newaxis], size, size)[0]
        yield compared(f"crop and resize, case {case}", ours, z[f"crop{case}_out"], BICUBIC)
        size, image = int(z[f"eval{case}_size"]), z[f"eval{case}_image"]
        ours = geometry.central_crop_and_resize(image[np.newaxis], size, size)[0]
        yield compared(f"central crop, case {case}", ours, z[f"eval{case}_out"], BICUBIC)
        sigma, taps = [float(z[f"blur{case}_sigma"])], int(z[f"blur{case}_kernel_size"])
        ours = geometry.gaussian_blur(z[f"blur{case}_image"], sigma, taps)
        yield compared(f"blur, case {case}", ours, z[f"blur{case}_out"], 1e-5)
    for case in range(4):
        images = np.stack([z["color_image"]] * len(ORDERS))
        params = np.stack([z[f"color{case}_params"]] * len(ORDERS))
        order = np.array([[int(code) for code in text] for text in ORDERS])
        ours = color.color_jitter(images, params, order)
        expected = np.stack([z[f"color{case}_{text}"] for text in ORDERS])
        yield compared(f"colour in four orders, case {case}", ours, expected, 1e-5)
    ours = color.grayscale(z["color_image"][np.newaxis])[0]
    yield compared("grey", ours, z["grayscale"], 1e-5)


def network_rows(name: str) -> Iterator[Row]:
    """A whole network in inference: the mean of each endpoint, embeddings, logits."""
    z = recorded.load(f"resnet_{name}")
    model = recorded.network(name)
    views = np.concatenate(two_views(recorded.network_images(z)))
    outputs = endpoint_model(model.encoder)(views, training=False)
    for endpoint in model.encoder.endpoint_layers:
        ours, key = outputs[endpoint].numpy(), f"{endpoint}_eval"
        if ours.ndim == 4:
            ours, key = ours.mean((1, 2)), f"{endpoint}_eval_mean"
        yield compared(endpoint, ours, z[key], 1e-4)
    hidden = model.projection_head.hidden_layers(model.encoder(views, training=False))
    logits = model.supervised_head(hidden[0])
    yield compared("embeddings", hidden[-1], z["proj_head_output_eval"], 1e-4)
    yield compared("logits", logits, z["logits_sup_eval"], 1e-4)


def training_rows(which: str) -> Iterator[Row]:
    """Five steps: losses, norms of all weights and two kernels.

    Args:
        which: `pretraining`, or what is fine-tuned: `linear` or `all`.
    """
    return _pretraining_rows() if which == "pretraining" else _fine_tuning_rows(which)


def _pretraining_rows() -> Iterator[Row]:
    z = recorded.load("train_steps_pretrain_r1")
    model = recorded.pretraining()
    rows = recorded.run_steps(model, recorded.pretraining_batches())
    for column, name in enumerate(map(str, z["columns"])):
        if "acc" not in name:  # counts of a few images
            yield compared(name, rows[:, column], z["rows"][:, column], 1e-3)
    yield from _weight_rows(model, z, 1e-3, 1e-3)


def _fine_tuning_rows(which: str) -> Iterator[Row]:
    # Where all weights train, rounding grows: weights that differ by 1e-5 make 6e-3 of it, too near
    # to the tests' tolerance for another device.
    looser = 1 if which == "linear" else 3
    z = recorded.load(f"train_steps_finetune_{which}_r1")
    model = recorded.fine_tuning(which)
    rows = recorded.run_steps(model, recorded.fine_tuning_batches())
    column = list(z["columns"]).index("supervised_loss")
    ours, expected = rows[:, column], z["rows"][:, column]
    yield compared("three losses", ours[:3], expected[:3], looser * 1e-3)
    yield compared("five losses", ours, expected, looser * 1e-2)
    kernels = 1e-3 if which == "linear" else 3e-2
    yield from _weight_rows(model, z, looser * 1e-3, kernels)


def _weight_rows(
    model: Any, z: recorded.Arrays, of_norms: float, of_kernels: float
) -> Iterator[Row]:
    norms = recorded.final_norms(model)
    ours = [norms[str(key)] for key in z["final_norm_keys"]]
    yield compared("norms of all weights", ours, z["final_norms"], of_norms)
    weights = recorded.weights_of(model)
    for key, path in recorded.KERNELS.items():
        yield compared(key, weights[path], z[key], of_kernels)
