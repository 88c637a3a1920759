"""The plan of a run, before it is paid for: what it would take, computed and measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from simclr_tf.compat import optimizer_variables
from simclr_tf.config import Config
from simclr_tf.devices.memory import available_memory, in_words
from simclr_tf.devices.strategy import accelerated
from simclr_tf.devices.workers import joins_workers
from simclr_tf.losses.blocks import default_block_size
from simclr_tf.runs.batches import TrainingBatches
from simclr_tf.runs.building import BuiltRun, make_schedule
from simclr_tf.runs.data import RunData, count_of
from simclr_tf.runs.rehearsal import Measured, rehearse
from simclr_tf.runs.training import checkpoint_interval, prepare
from simclr_tf.training.classifier import Classifier
from simclr_tf.training.footprint import (
    EncoderMemory,
    Footprint,
    footprint,
    size_of,
    trace_encoder,
)
from simclr_tf.training.simclr import SimCLR
from simclr_tf.training.traffic import Exchange, exchange_of

_NAME_WIDTH = 20
_END = "Nothing was written. Without --dry_run the run starts."


def plan(run: BuiltRun) -> None:
    """Prints what a run would take; its weights are trained for a few steps and thrown away.

    Args:
        run: The run.

    Raises:
        UserError: What a run would refuse, or a batch for which the device has no memory.
    """
    config, model, data, train_steps, strategy, writer = run
    _, first_step, batches = prepare(run)
    if batches is None:
        writer.say(f"Already trained to step {first_step} of {train_steps}: nothing is left.")
        return
    replicas = strategy.num_replicas_in_sync
    encoder = trace_encoder(model.encoder, config.image_size)
    needs = _needs(config, model, encoder, batches, replicas)
    left = train_steps - first_step
    lines = [
        _row(
            "steps", f"{train_steps:,}, of which {left:,} are left; {_epochs(config, data, left)}"
        ),
        _row("learning rate", _learning_rate(config, data, train_steps)),
        _row("checkpoints", _checkpoints(config, model, data, first_step, train_steps)),
        _row("parameters", _parameters(model)),
        _row("loss", _loss(config, model, replicas)),
        *_memory(needs, replicas),
        _row(
            "between replicas",
            _traffic(exchange_of(model, replicas, config.train_batch_size // replicas)),
        ),
    ]
    writer.say(f"Plan, for {replicas} replica(s) of {config.train_batch_size // replicas} images:")
    for line in lines:
        writer.say(line)
    lacking = _lacking(config, model, encoder, batches, replicas)
    if lacking is not None:
        writer.say(lacking)
        writer.say(_END)
        return
    measured = rehearse(config, model, data.train, batches, writer)
    for line in _measured(config, measured, left):
        writer.say(line)
    writer.say(_END)


def _needs(
    config: Config,
    model: SimCLR | Classifier,
    encoder: EncoderMemory,
    batches: TrainingBatches,
    replicas: int,
    micro_batch_size: int | None = None,
) -> Footprint:
    specs = tf.nest.flatten(batches.element_spec, expand_composites=True)
    sent = sum(int(np.prod(spec.shape.as_list())) * spec.dtype.size for spec in specs)
    return footprint(
        model,
        encoder,
        image_size=config.image_size,
        images=config.train_batch_size // replicas,
        replicas=replicas,
        micro_batch_size=config.micro_batch_size if micro_batch_size is None else micro_batch_size,
        image_bytes=sent // config.train_batch_size,
    )


def _row(name: str, text: str) -> str:
    return f"  {name:{_NAME_WIDTH}}{text}"


def _epochs(config: Config, data: RunData, steps: int) -> str:
    count = count_of(data.train)
    return f"{steps * config.train_batch_size / count:,.1f} epochs of {count:,} images"


def _learning_rate(config: Config, data: RunData, train_steps: int) -> str:
    schedule = make_schedule(config, count_of(data.train), train_steps)
    step = min(schedule.warmup_steps, train_steps - 1)
    rate = float(np.asarray(schedule(step)))
    short = schedule.warmup_steps > train_steps
    cut = f" (the warm-up to {schedule.peak:.4g} is longer than the run)" if short else ""
    return f"{rate:.4g} at its peak, step {step:,}{cut}; {config.optimizer}"


def _checkpoints(
    config: Config, model: SimCLR | Classifier, data: RunData, first: int, last: int
) -> str:
    every = checkpoint_interval(config, data.train)
    written = last // every - first // every + (last % every > 0)
    kept = min(written, config.keep_checkpoint_max)
    size = size_of(model.variables) + size_of(optimizer_variables(model.optimizer))
    return (
        f"{written} of {in_words(size)}, one every {every:,} steps; the newest {kept} are kept: "
        f"{in_words(kept * size)} on disk"
    )


def _parameters(model: SimCLR | Classifier) -> str:
    trained, rest = (
        sum(int(np.prod(v.shape)) for v in variables)
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    return f"{trained:,} trained, {rest:,} not (statistics, frozen layers)"


def _loss(config: Config, model: SimCLR | Classifier, replicas: int) -> str:
    if not isinstance(model, SimCLR):
        return "cross-entropy: no images are compared"
    images = config.train_batch_size // replicas
    block = default_block_size(images, config.train_batch_size)
    negatives = f"{config.loss}: {2 * config.train_batch_size - 2:,} negatives a view"
    if config.memory_size:
        negatives += f", and {config.memory_size:,} in the memory"
    if not block:
        return f"{negatives}; all similarities at once"
    return f"{negatives}; {-(-images // int(block)):,} blocks of {block:,} images"


def _memory(needs: Footprint, replicas: int) -> list[str]:
    parts = {field.name: getattr(needs, field.name) for field in dataclasses.fields(needs)}
    listed = ", ".join(f"{name} {in_words(size)}" for name, size in parts.items() if size)
    shared = f" ({replicas} of them)" if replicas > 1 else ""
    return [
        _row(
            "memory a replica", f"about {in_words(needs.total)}{shared}, beside TensorFlow itself"
        ),
        _row("", listed),
    ]


def _traffic(found: Exchange) -> str:
    if found.replicas == 1:
        return "nothing: there is one"
    parts = {
        "embeddings": found.embeddings,
        "gradients": found.gradients,
        "batch norm": found.batch_norm,
    }
    listed = ", ".join(f"{name} {in_words(size)}" for name, size in parts.items() if size)
    return (
        f"each receives {in_words(found.total)} a step ({listed}) in "
        f"{found.gathers + found.sums} exchanges"
    )


def _lacking(
    config: Config,
    model: SimCLR | Classifier,
    encoder: EncoderMemory,
    batches: TrainingBatches,
    replicas: int,
) -> str | None:
    """Returns a warning where the processor's memory is too small; a GPU's size is not known."""
    have = available_memory()
    here = 1 if joins_workers(config.strategy) else replicas  # on this machine
    if accelerated() or have is None:
        return None
    needed = _needs(config, model, encoder, batches, replicas).total * here
    if needed <= have:
        return None
    advice = "Pass a smaller --train_batch_size."
    if isinstance(model, SimCLR):
        images = config.train_batch_size // replicas
        for size in (d for d in range(images - 1, 0, -1) if images % d == 0):
            if _needs(config, model, encoder, batches, replicas, size).total * here <= have:
                advice = f"Pass --micro_batch_size={size}, or a smaller --train_batch_size."
                break
    return (
        f"Warning: about {in_words(needed)} are needed and {in_words(have)} are free: no step was "
        f"measured. {advice}"
    )


def _measured(config: Config, measured: Measured, left: int) -> list[str]:
    low, middle, high = measured.quartiles
    rate = config.train_batch_size / middle
    seconds = measured.first + max(0, left - 1) * middle
    where = "on the fullest device" if accelerated() else "of this process, TensorFlow included"
    return [
        _row(
            "measured",
            f"{rate:,.1f} images/s: {middle:.3f} s a step [{low:.3f}, {high:.3f}] over "
            f"{measured.steps} steps; the first took {measured.first:.1f} s",
        ),
        *(
            [_row("peak memory", f"{in_words(measured.peak)} {where}")]
            if measured.peak is not None
            else []
        ),
        _row("time to the end", f"{_duration(seconds)}, without evaluation and checkpoints"),
    ]


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 2:
        return f"{seconds:.0f} seconds"
    if hours < 2:
        return f"{minutes:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
