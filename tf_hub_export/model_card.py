"""The model card of an export: the model, its inputs, its training, and code that runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tensorflow import keras

from simclr_tf import __version__
from simclr_tf.files.json_files import write_json
from tf_hub_export.card_code import Card, use_lines
from tf_hub_export.input_contract import InputContract

CARD_FILE, TEXT_FILE = "model.json", "README.md"
Details: TypeAlias = Mapping[str, Any]
"""What is known of a model's training: any of `DETAILS`, as JSON can hold it."""
DETAILS = ("data_set", "settings", "step", "results", "source")

# Settings that say on which machine and in which folders a run took place: kept out of the card.
_PRIVATE = frozenset(
    {"model_dir", "data_dir", "use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master"}
)
_PATHS = frozenset({"dataset", "checkpoint", "encoder_weights", "teacher"})


def describe_model(
    model: keras.Model,
    contract: InputContract,
    endpoints: Mapping[str, Sequence[int | None]],
    details: Details | None = None,
) -> dict[str, Any]:
    """Returns what `model.json` holds.

    Args:
        model: A `SimCLR` or `Classifier`.
        contract: The images that it takes.
        endpoints: Endpoint -> shape of its output.
        details: What is known of the training: `data_set`, `settings`, `step`, `results`, `source`.

    Returns:
        A dict that JSON can hold, with `public_settings` of the settings.

    Example:
        >>> describe_model(simclr, input_contract(simclr), {'final_avg_pool': (None, 512)})
    """
    details = details or {}
    supervised = model.supervised_head
    known = {name: details[name] for name in DETAILS if details.get(name) not in (None, {})}
    if "settings" in known:
        known["settings"] = public_settings(known["settings"])
    return {
        "simclr_tf": __version__,
        "architecture": {
            "kind": type(model).__name__,
            "encoder": model.encoder.name,
            "encoder_parameters": int(model.encoder.count_params()),
            "features": int(model.encoder.output_shape[-1]),
            "projection_head": model.projection_head.mode,
            "projection_layers": len(model.projection_head.dense_layers),
            "projection_selector": model.projection_selector,
            "classes": None if supervised is None else int(supervised.units),
        },
        "input": {
            "description": contract.describe(),
            "dtype": "float32",
            "range": [0, 1],
            "shape": list(contract.shape),
            "image_size": None if contract.image_size is None else list(contract.image_size),
            "transparent": contract.transparent,
        },
        "endpoints": {name: list(shape) for name, shape in endpoints.items()},
        **known,
    }


def public_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """Returns a run's settings: only last parts of paths, and nothing on where it took place."""
    public = {}
    for name, value in settings.items():
        if name in _PATHS and isinstance(value, str):
            value = ",".join(_last_part(part) for part in value.split(","))
        if name not in _PRIVATE:
            public[name] = value
    return public


def _last_part(path: str) -> str:
    absolute = os.path.isabs(os.path.expanduser(path.strip()))
    return os.path.basename(os.path.normpath(path)) if absolute else path


def write_card(folder: str, card: Card) -> None:
    """Writes `README.md` and `model.json` into a folder."""
    write_json(os.path.join(folder, CARD_FILE), card)
    with open(os.path.join(folder, TEXT_FILE), "w", encoding="utf-8") as file:
        file.write(card_text(card))


def card_text(card: Card) -> str:
    """Returns the model card in Markdown; its code runs unchanged in the folder of the export.

    Args:
        card: What `describe_model` returns, with what `card_code.use_lines` needs.
    """
    parts = card["architecture"]
    classes = f", linear head of {parts['classes']} classes" if parts["classes"] else ""
    head = f"projection head {parts['projection_head']}"
    if parts["projection_layers"]:
        head += f" of {parts['projection_layers']} layers"
    lines = [
        f"# {parts['encoder']}, trained with SimCLR",
        "",
        f"Encoder `{parts['encoder']}`: {parts['encoder_parameters']:,} parameters, "
        f"{parts['features']} features; {head}{classes}. Written by simclr_tf "
        f"{card['simclr_tf']}.",
        "",
        "## Input",
        "",
        f"{card['input']['description']}. Not 0 to 255, not standardised.",
        *_transparent_lines(card["input"].get("transparent")),
        "",
        "## Endpoints",
        "",
        "| name | shape |",
        "|---|---|",
        *(f"| `{name}` | {_shape(shape)} |" for name, shape in card["endpoints"].items()),
        "",
        "`final_avg_pool` is the feature vector, `proj_head_output` the projection that the "
        "contrastive loss compares"
        + (", `logits_sup` the scores of the classes." if parts["classes"] else "."),
        "",
        "## Training and result",
        "",
        *_training_lines(card),
    ]
    if "format" in card:
        lines += use_lines(card)
    return "\n".join(lines) + "\n"


def _transparent_lines(transparent: str | None) -> list[str]:
    """Returns how training treated opacity, which users have to do in the same way."""
    if transparent is None:
        return []
    done = {
        "keep": "their opacity was dropped and the stored colours were kept",
        "mean": "they were laid over their mean colour, weighted by opacity, before resizing",
    }.get(transparent, f"they were laid over {transparent} before resizing")
    return ["", f"Images with transparent pixels: {done} (`--transparent={transparent}`)."]


def _training_lines(card: Card) -> list[str]:
    known = [f"data set: {card['data_set']}"] if "data_set" in card else []
    known += [f"step: {card['step']}"] if "step" in card else []
    known += [f"{name}: {value:.4g}" for name, value in card.get("results", {}).items()]
    known += [f"read from: {card['source']}"] if "source" in card else []
    lines = [f"- {line}" for line in known]
    if "settings" in card:
        flags = "\n".join(f"--{name}={value}" for name, value in card["settings"].items())
        lines += [*([""] if lines else []), "Settings:", "", "```", flags, "```"]
    return lines or ["Not recorded."]


def _shape(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("N" if side is None else str(side) for side in shape) + ")"
