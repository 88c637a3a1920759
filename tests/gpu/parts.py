"""All that is asked, the most valuable first: a part is a name and what yields its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import equality
import placement
import recorded_rows
import small_models
import speed
from record import Row
from setting import Setting

Parts = dict[str, Callable[[], Iterator[Row]]]

MODELS = {
    "SimCLR": (small_models.make_simclr, small_models.lars),
    "Classifier": (small_models.make_classifier, small_models.nesterov),
}


def all_parts(setting: Setting) -> Parts:
    """Returns the parts by name, in order."""
    return {
        **_equality(setting),
        **_structure(setting),
        **_recorded(setting),
        **_speed(setting),
        **_long_recorded(setting),
        **_with_xla(setting),
    }


def _equality(setting: Setting) -> Parts:
    parts: Parts = {}
    for size in setting.sizes.views:
        parts[f"equality: views of {size[1]} pixels"] = partial(equality.views, setting, size)
    parts["equality: encoder"] = partial(equality.encoder, setting)
    parts["equality: losses"] = partial(equality.losses, setting)
    for name, (make, optimizer) in MODELS.items():
        steps = partial(equality.five_steps, setting, make, optimizer)
        parts[f"equality: five steps of a {name}"] = steps
    for name in equality.HALVES:
        parts[f"equality: a step in {name}"] = partial(equality.half_precision, setting, name)
    return parts


def _structure(setting: Setting) -> Parts:
    parts: Parts = {}
    for name, (make, optimizer) in MODELS.items():
        placed = partial(placement.placement, setting, make, optimizer)
        parts[f"structure: placement of a {name}"] = placed
        traces = partial(placement.traces, setting, make, optimizer)
        parts[f"structure: traces of a {name}"] = traces
    micro = partial(small_models.make_simclr, micro_batch_size=setting.sizes.images // 2)
    for name, make, optimizer in (
        ("micro-batches", micro, small_models.lars),
        ("float16", small_models.make_half, lambda: small_models.scaled(small_models.lars())),
    ):
        placed = partial(placement.placement, setting, make, optimizer)
        parts[f"structure: placement in {name}"] = placed
    return parts


def _recorded(setting: Setting) -> Parts:
    rows = {
        "NT-Xent": recorded_rows.loss_rows,
        "LARS": recorded_rows.lars_rows,
        "images": recorded_rows.image_rows,
    }
    return {f"recorded: {name}": _there(setting, made) for name, made in rows.items()}


def _speed(setting: Setting) -> Parts:
    sizes = setting.sizes
    parts: Parts = {}
    for step in sizes.steps:
        parts[f"speed: {_named(step)}"] = partial(speed.steps, setting, step)
    for size in sizes.timed_views:
        parts[f"speed: views of {size[1]} pixels"] = partial(speed.views, setting, size)
    parts["speed: NT-Xent"] = partial(speed.loss, setting)
    return parts


def _long_recorded(setting: Setting) -> Parts:
    parts: Parts = {}
    for which in setting.sizes.training:
        name = which if which == "pretraining" else f"fine-tuning, {which}"
        made = partial(recorded_rows.training_rows, which)
        parts[f"recorded: {name}"] = _there(setting, made)
    for name in setting.sizes.networks:
        made = partial(recorded_rows.network_rows, name)
        parts[f"recorded: network {name}"] = _there(setting, made)
    return parts


def _with_xla(setting: Setting) -> Parts:
    make, optimizer = MODELS["SimCLR"]
    steps = partial(equality.five_steps, setting, make, optimizer, jit_compile=True)
    parts: Parts = {"equality: five steps with XLA": steps}
    for step in setting.sizes.steps:
        for name in setting.sizes.compiled:
            timed = partial(speed.compiled_steps, setting, step, name)
            words = "float32" if name == "none" else name
            parts[f"speed: {_named(step)}, {words} with XLA"] = timed
    for size in setting.sizes.timed_views:
        timed = partial(speed.views, setting, size, with_xla=True)
        parts[f"speed: views of {size[1]} pixels with XLA"] = timed
    return parts


def _there(setting: Setting, made: Callable[[], Iterator[Row]]) -> Callable[[], Iterator[Row]]:
    return lambda: recorded_rows.on_device(setting, made())


def _named(step: tuple[int, float, int, int]) -> str:
    depth, width, pixels, _ = step
    return f"step of ResNet-{depth}, {pixels} pixels" if width else f"step, {pixels} pixels"
