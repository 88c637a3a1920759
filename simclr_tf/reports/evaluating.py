"""Evaluation of any encoder on any images, or of features from files."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata

import numpy as np

from simclr_tf import __version__
from simclr_tf.datasets import ImageSource, open_source
from simclr_tf.devices.process_state import isolated
from simclr_tf.errors import UserError
from simclr_tf.evaluation.protocols import PROTOCOLS, FeatureSplit, evaluate_features
from simclr_tf.features.extractor import Embeds
from simclr_tf.features.reading import is_feature_file
from simclr_tf.reports import feature_tables, image_features, sgd
from simclr_tf.reports.request import EvaluationRequest
from simclr_tf.reports.supervised import data_changes, train_supervised
from simclr_tf.typing import Json
from tf_hub_export.extractors import OpenedEncoder, checksum_of, open_encoder, untrained_like

Say = Callable[[str], None]
THIS = "this model"
UNTRAINED = "same encoder, untrained"
PIXELS = "raw pixels"
SUPERVISED = "supervised, same length"


def evaluate_encoder(request: EvaluationRequest, say: Say | None = None) -> Json:
    """Evaluates an encoder or features by the field's protocols.

    Args:
        request: What is evaluated, on which images, how.
        say: Called with lines about what is done; None: nobody listens.

    Returns:
        What `evaluation.json` holds: `model`, `data`, `protocols`, `seed`, `versions`, `seconds`,
        and `results` by kind of features, see `evaluate_features`.

    Raises:
        UserError: Model, images, features or names do not fit.

    Example:
        >>> found = evaluate_encoder(EvaluationRequest('runs/digits'))
        >>> found['results']['this model']['ridge']['top_1']
    """
    say = say or _silent
    began = time.monotonic()
    with isolated():
        if is_feature_file(request.model):
            found = _evaluate_file(request, say)
        else:
            found = _evaluate_model(request, say)
    return {
        **found,
        "protocols": {name: PROTOCOLS[name] for name in request.protocols},
        "seed": request.seed,
        "versions": _versions(),
        "seconds": round(time.monotonic() - began, 1),
    }


def _silent(line: str) -> None:
    """Says nothing."""


def _evaluate_file(request: EvaluationRequest, say: Say) -> Json:
    if "sgd_probe" in request.protocols:
        raise UserError(
            "Expected a model for sgd_probe, which augments images; received: a file of features. "
            "Leave it out of --protocols."
        )
    if request.supervised_dir is not None:
        raise UserError(
            "Expected a model for --supervised_dir; received: a file of features. Leave it away."
        )
    train, test = feature_tables.read_parts(
        request.model, request.test_features, request.max_images, request.seed
    )
    if request.test_features is None:
        say("No --test_features: a fifth of the images is held out for the test.")
    _say_shared(train.features, test.features, say)
    results = evaluate_features(
        FeatureSplit(train.features, train.labels),
        FeatureSplit(test.features, test.labels),
        request.protocols,
        seed=request.seed,
        on_protocol=_announcing(say, THIS),
    )
    return {
        "model": {"features": request.model, "test_features": request.test_features},
        "data": _data_card(len(train.features), len(test.features), test.class_names),
        "results": {THIS: results},
    }


def _announcing(say: Say, kind: str) -> Callable[[str], None]:
    return lambda protocol: say(f"{kind}: {PROTOCOLS[protocol]}")


def _say_shared(train: np.ndarray, test: np.ndarray, say: Say) -> None:
    shared = feature_tables.count_shared(train, test)
    if 20 * shared > len(test):
        say(
            f"Warning: {shared:,} of {len(test):,} test images have the features of a training "
            "image. If the splits share images, accuracies are too high."
        )


def _evaluate_model(request: EvaluationRequest, say: Say) -> Json:
    if request.test_features is not None:
        raise UserError(
            f"Expected a file of features beside --test_features; received: {request.model!r}. "
            "Leave --test_features away, or write features with python -m simclr_tf.embed."
        )
    opened = open_encoder(request.model, request.endpoint, request.image_size)
    train_source, test_source = sources = _open_data(request, opened, say)
    before = checksum_of(opened.extract.variables)
    extractors = _extractors(opened, request, say)
    own: Json = {}
    if request.supervised_dir is not None:
        extractors[SUPERVISED], own = _supervised(opened, request, request.supervised_dir, say)
    results = {
        name: _evaluate_images(name, extract, sources, opened, request, say)
        for name, extract in extractors.items()
    }
    if checksum_of(opened.extract.variables) != before:
        raise RuntimeError("The encoder's weights changed while it was evaluated: a bug of ours.")
    for line in dict.fromkeys((*train_source.notices(), *test_source.notices())):
        say(line)
    extract = opened.extract
    counts = (train_source.num_examples, test_source.num_examples)
    return {
        "model": {
            "path": request.model,
            "kind": opened.kind,
            "step": opened.step,
            "endpoint": request.endpoint,
            "image_size": list(extract.image_size),
            "transparent": request.transparent or extract.transparent,
            "encoder_unchanged": True,
        },
        **own,
        "data": {
            "dataset": train_source.name,
            "train_split": train_source.split,
            "test_split": test_source.split,
            **_data_card(*counts, test_source.class_names),
        },
        "results": results,
    }


def _extractors(opened: OpenedEncoder, request: EvaluationRequest, say: Say) -> dict[str, Embeds]:
    """Returns what gives features of the images: the model, and what stands beside it."""
    found: dict[str, Embeds] = {THIS: opened.extract}
    if not request.baselines:
        return found
    untrained = untrained_like(opened, request.seed)
    if untrained is None:
        say("No untrained encoder beside it: nothing says how this endpoint was built.")
    else:
        found[UNTRAINED] = untrained
    pixels = image_features.RawPixels(opened.extract.image_size, opened.extract.channels)
    return {**found, PIXELS: pixels}


def _supervised(
    opened: OpenedEncoder, request: EvaluationRequest, folder: str, say: Say
) -> tuple[Embeds, Json]:
    say(f"Training {SUPERVISED} in {folder}.")
    trained, accuracy = train_supervised(opened.settings, folder, data_changes(request))
    return trained.extract, {"supervised_run": {"path": folder, "top_1": accuracy}}


def _evaluate_images(
    name: str,
    extract: Embeds,
    sources: tuple[ImageSource, ImageSource],
    opened: OpenedEncoder,
    request: EvaluationRequest,
    say: Say,
) -> Json:
    train, test = (
        image_features.embed(s, extract, request.batch_size, f"{name}, {s.split}") for s in sources
    )
    if name == THIS:
        _say_shared(train.features, test.features, say)
    views = None
    if name == PIXELS:
        if opened.extract.channels == 3:
            train, test = image_features.without_equal_channels(train, test)
    elif "health" in request.protocols:
        views = image_features.two_views(sources[1], extract, opened.settings, request.seed)
    found = evaluate_features(
        train,
        test,
        [protocol for protocol in request.protocols if protocol != "sgd_probe"],
        seed=request.seed,
        views=views,
        on_protocol=_announcing(say, name),
    )
    if "sgd_probe" in request.protocols and name == THIS:
        say(f"{name}: {PROTOCOLS['sgd_probe']}")
        found["sgd_probe"] = sgd.probe_images(opened, sources[0], test, request)
    return found


def _open_data(
    request: EvaluationRequest, opened: OpenedEncoder, say: Say
) -> tuple[ImageSource, ImageSource]:
    # Another data set than the run's lies elsewhere and has other splits.
    of_run = opened.settings if request.dataset is None else {}
    dataset = request.dataset or of_run.get("dataset")
    if dataset is None:
        raise UserError(
            f"Expected --dataset, as nothing in {request.model} says which images to take; "
            "received: none. Pass it, and --train_split and --test_split where they are not "
            "train and test."
        )
    splits = (
        request.train_split or of_run.get("train_split") or "train",
        request.test_split or of_run.get("eval_split") or "test",
    )
    fraction = request.eval_fraction
    settings: Json = {
        "data_dir": request.data_dir or of_run.get("data_dir"),
        "eval_fraction": opened.settings.get("eval_fraction") if fraction is None else fraction,
        "on_bad_image": opened.settings.get("on_bad_image"),
        "transparent": request.transparent or opened.extract.transparent,
        "image_column": request.image_column or of_run.get("image_column"),
        "label_column": request.label_column or of_run.get("label_column"),
        # Values mean what they meant in training, in other files too.
        "white_level": opened.extract.white_level,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    sources = []
    for split in splits:
        source = open_source(dataset, split, **given)
        chosen = image_features.drawn(source.num_examples or 0, request.max_images, request.seed)
        if chosen is not None:
            say(f"{split}: {len(chosen):,} of {source.num_examples:,} images, drawn by the seed.")
            whole, source = source, source.subset(chosen)
            source.split = f"{whole.split}, {len(chosen)} drawn"
        sources.append(source)
    return sources[0], sources[1]


def _data_card(train: int | None, test: int | None, class_names: Sequence[str] | None) -> Json:
    names = None if class_names is None else list(class_names)
    return {"train_images": train, "test_images": test, "class_names": names}


def _versions() -> dict[str, str]:
    names = ("tensorflow", "scikit-learn", "numpy")
    found = {name: metadata.version(name) for name in names if _installed(name)}
    return {"simclr-tf": __version__, "python": platform.python_version(), **found}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:  # tensorflow-cpu, say
        return False
    return True
