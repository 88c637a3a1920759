"""The part of a model card that says how to use the files: code that runs as it is printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Card: TypeAlias = Mapping[str, Any]
"""What `model.json` holds."""

_EXTRACT = """import tensorflow as tf

module = tf.saved_model.load(".")  # the folder of this file
images = tf.random.uniform({shape})  # yours: {words}
outputs = module(images, trainable=False)
features = outputs["final_avg_pool"]
print(features.shape)
"""

_PROBE = """import tensorflow as tf

module = tf.saved_model.load(".")  # the folder of this file
images = tf.random.uniform({shape})  # yours, as above
labels = tf.constant([0, 1] * 4)  # yours: class ids
features = module(images, trainable=False)["final_avg_pool"].numpy()

probe = tf.keras.Sequential([tf.keras.layers.Dense(2)])
loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
probe.compile("adam", loss, metrics=["accuracy"])
history = probe.fit(features, labels.numpy(), epochs=20, verbose=0)
losses = history.history["loss"]
print(losses[0], "->", losses[-1])
"""

_FINE_TUNE = """import tensorflow as tf

module = tf.saved_model.load(".")  # the folder of this file
images = tf.random.uniform({shape})  # yours, as above
labels = tf.constant([0, 1] * 4)  # yours: class ids
head = tf.Variable(tf.zeros([{width}, 2]))  # features to classes
variables = [*module.trainable_variables, head]

losses = []
for _ in range(5):
    with tf.GradientTape() as tape:
        features = module(images, trainable=True)["final_avg_pool"]
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, features @ head)
        )
    # The projection head and the linear head take no part: their gradients are zero.
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    for variable, gradient in zip(variables, gradients):
        variable.assign_sub(0.01 * gradient)
    losses.append(float(loss))
print(losses[0], "->", losses[-1])
"""

_KERAS = """import tensorflow as tf

from tf_hub_export import load_model

model, details = load_model(".")  # the folder of this file
images = tf.random.uniform({shape})  # yours: {words}
features = model.encoder(images, training=False)
print(features.shape)
"""

_TFLITE = """import numpy as np
import tensorflow as tf  # on a device: from ai_edge_litert.interpreter import Interpreter

interpreter = tf.lite.Interpreter("model.tflite")  # in the folder of this file
run = interpreter.get_signature_runner()
images = np.random.rand({numbers}).astype("float32")  # yours: {words}
outputs = run(images=images)
features = outputs["final_avg_pool"]
print(features.shape)
"""

_ONNX = """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
images = np.random.rand({numbers}).astype("float32")  # yours: {words}
outputs = dict(zip(names, session.run(names, {{"images": images}})))
features = outputs["final_avg_pool"]
print(features.shape)
"""

_CODE = {
    "saved_model": {"Extract features": _EXTRACT, "Linear probe": _PROBE, "Fine-tune": _FINE_TUNE},
    "keras": {"Extract features": _KERAS},
    "weights": {"Extract features": _KERAS},
    "tflite": {"Extract features": _TFLITE},
    "onnx": {"Extract features": _ONNX},
}
_FILES = {
    ("saved_model", "float32"): "A SavedModel (TF-Hub module). It takes any number of images.",
    ("saved_model", "float16"): "A SavedModel (TF-Hub module) of half the size: kernels are "
    "float16 variables, everything is computed in float32. It takes any number of images. For "
    "features and probes; fine-tune the float32 export where you can: small steps are lost in "
    "float16.",
    ("keras", "float32"): "`model.keras`; reading it takes simclr_tf.",
    ("weights", "float32"): "A checkpoint that `--checkpoint=FOLDER` takes; reading it takes "
    "simclr_tf.",
    ("tflite", "float32"): "`model.tflite`: TFLite (LiteRT), all in float32.",
    ("tflite", "float16"): "`model.tflite`: TFLite (LiteRT), weights in float16.",
    ("tflite", "int8"): "`model.tflite`: TFLite (LiteRT), weights in 8 bits, activations quantised "
    "by their range at run time (dynamic range quantisation).",
    ("onnx", "float32"): "`model.onnx`: ONNX, all in float32. It takes any number of images.",
}
# A signature runner resizes its input to the batch; the low-level calls do not.
_TFLITE_BATCH = (
    "It takes any number of images through a signature runner, as below; with `set_tensor`, call "
    "`resize_tensor_input` and `allocate_tensors` first. Their size is fixed; the runtime does not "
    "refuse another one, but what comes out then is not defined."
)


def use_lines(card: Card) -> list[str]:
    """Returns the lines on files, signatures and code.

    Args:
        card: What `describe_model` returns, with `format` and `precision`; for a SavedModel
            `signatures`; for a converted model what `comparison.require_close` returns.
    """
    format, precision = card["format"], card["precision"]
    sides = card["input"]["image_size"] or card["input"]["shape"][1:-1]
    shape = [8, *(side or 32 for side in sides), card["input"]["shape"][-1]]
    colours = "RGB, " if shape[-1] == 3 else ""
    fill = {
        "shape": shape,
        "numbers": ", ".join(map(str, shape)),
        "words": f"{colours}float32 in [0, 1]",
        "width": card["architecture"]["features"],
    }
    lines = ["", "## Files", "", _FILES[format, precision]]
    if format == "tflite":
        lines += ["", _TFLITE_BATCH]
    if "deviation" in card:
        lines += _deviation_lines(card)
    if "signatures" in card:
        lines += [
            "",
            "## Signatures",
            "",
            "They check the range of float images; the plain call does not.",
            "",
            *(f"- `{name}`: {_SIGNATURES[name]}" for name in card["signatures"]),
        ]
    for title, code in _CODE[format].items():
        lines += ["", f"## {title}", "", f"```python\n{code.format(**fill)}```"]
    return lines


def _deviation_lines(card: Card) -> list[str]:
    return [
        "",
        f"Compared with the float32 model on {card['compared_images']} images when it was written, "
        f"max|difference| / max|reference| (limit {card['deviation_limit']:g}):",
        "",
        *(f"- `{name}`: {value:.1e}" for name, value in card["deviation"].items()),
    ]


_SIGNATURES = {
    "serving_default": "`images` to every endpoint",
    "features": "`images` to `features`, the vector alone",
    "features_training": "the same with batch norm in training mode; Keras 3 fine-tunes through "
    '`TFSMLayer(path, call_endpoint="features", call_training_endpoint="features_training")`',
    "serving_bytes": "`image_bytes`, encoded JPEG or PNG files, to `features`: decoded, cropped "
    "and resized as in evaluation, the opacity of a PNG treated as said above; EXIF orientation is "
    "not applied, WebP not decoded, the transparent index of a GIF not seen",
}
