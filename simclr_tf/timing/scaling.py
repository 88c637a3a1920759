"""The tables of docs/scaling.md, computed: `python -m simclr_tf.timing.scaling` prints them.

Nothing is measured here. `tests/timing/test_scaling.py` compares the page with them.
"""

from __future__ import annotations

from simclr_tf.compat import build_optimizer
from simclr_tf.devices.memory import in_words
from simclr_tf.losses.blocks import default_block_size
from simclr_tf.models.recipe import Recipe
from simclr_tf.optim.lars import LARS
from simclr_tf.training.footprint import footprint, trace_encoder
from simclr_tf.training.from_recipe import build_model
from simclr_tf.training.simclr import SimCLR
from simclr_tf.training.traffic import exchange_of

MICRO_BATCH = 32
IMAGES_EACH = 32  # of a replica, in the table of exchanges
REPLICAS = (1, 2, 8, 32, 128, 512, 1024, 2048, 4096)
# Assumed, not measured: bytes a second and seconds of latency.
NETWORKS = {"200 Gbit/s, 5 us": (25e9, 5e-6), "10 Gbit/s, 50 us": (1.25e9, 50e-6)}
_BATCHES = (
    (256, 1),
    (256, 8),
    (1024, 8),
    (4096, 1),
    (4096, 8),
    (4096, 32),
    (4096, 128),
    (32768, 1024),
)


def memory_table(depth: int, image_size: int) -> list[str]:
    """Returns rows of batch x devices x memory of a replica, in float32 with LARS.

    Args:
        depth: Of the ResNet.
        image_size: Side of the views in pixels.
    """
    model = _model(depth, image_size)
    encoder = trace_encoder(model.encoder, image_size)
    rows = [
        "| images a step | devices | images each | memory each | in micro-batches of "
        f"{MICRO_BATCH} | loss |",
        "|---|---|---|---|---|---|",
    ]
    for batch, devices in _BATCHES:
        images = batch // devices
        sizes = [
            in_words(
                footprint(
                    model,
                    encoder,
                    image_size=image_size,
                    images=images,
                    replicas=devices,
                    micro_batch_size=micro,
                ).total
            )
            for micro in (0, MICRO_BATCH)
            if micro < images
        ]
        sizes += ["-"] * (2 - len(sizes))
        block = default_block_size(images, batch)
        loss = f"{-(-images // int(block))} blocks" if block else "whole"
        cells = (f"{batch:,}", f"{devices:,}", f"{images:,}", *sizes, loss)
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def exchange_table(depth: int = 50, image_size: int = 224) -> list[str]:
    """Returns rows of what a replica receives in a step, and the seconds on assumed networks."""
    model = _model(depth, image_size)
    rows = [
        "| replicas | images a step | embeddings | gradients | batch norm | "
        + " | ".join(NETWORKS)
        + " |",
        "|---" * (5 + len(NETWORKS)) + "|",
    ]
    for replicas in REPLICAS:
        found = exchange_of(model, replicas, IMAGES_EACH)
        parts = (found.embeddings, found.gradients, found.batch_norm)
        seconds = (f"{found.seconds(*network) * 1e3:,.1f} ms" for network in NETWORKS.values())
        cells = (
            f"{replicas:,}", f"{replicas * IMAGES_EACH:,}", *map(in_words, parts), *seconds
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _model(depth: int, image_size: int) -> SimCLR:
    model = build_model(Recipe(resnet_depth=depth, image_size=image_size))
    assert isinstance(model, SimCLR)
    model.compile(optimizer=LARS(0.1))
    build_optimizer(model.optimizer, model.trainable_variables)
    return model


def main() -> None:
    """Prints all tables."""
    for depth, image_size in ((18, 32), (50, 224)):
        print("\n".join([f"ResNet-{depth}, {image_size} pixels", *memory_table(depth, image_size)]))
    print("\n".join(exchange_table()))


if __name__ == "__main__":
    main()
