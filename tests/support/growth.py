"""Whether a long run grows: memory, open files, threads and time per step, early and late.

    python tests/support/growth.py                # 2,200 steps of the tiny network, minutes
    python tests/support/growth.py --steps=700 --early=100 --late=600

It trains through the command, in this process, with a summary every 10 steps and a checkpoint,
measured, every 50; prints a table and the ratio of late to early. The run's folder is temporary.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

SETTINGS = [
    "--dataset=mnist_5k", "--train_split=train[:64]", "--eval_split=test[:32]", "--image_size=8",
    "--encoder=mlp:16", "--proj_out_dim=8", "--num_proj_layers=2", "--augmentations=crop,flip",
    "--train_batch_size=16", "--eval_batch_size=16", "--warmup_epochs=0", "--learning_rate=0.1",
    "--train_summary_steps=10", "--checkpoint_steps=50", "--keep_checkpoint_max=3",
    "--online_eval=always", "--online_eval_images=20", "--mode=train",
]  # fmt: skip
WINDOW = 100  # steps on either side of a moment whose time is measured


class Sample(NamedTuple):
    """What the process holds at a step."""

    step: int
    seconds: float
    processor: float
    resident: int
    files: int
    threads: int
    objects: int


def sample(step: int) -> Sample:
    """Returns what this process holds now (Linux: /proc)."""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
    return Sample(
        step, time.monotonic(), time.process_time(), resident, files, threads, len(gc.get_objects())
    )


def trained(steps: int) -> list[Sample]:
    """Trains the tiny network; returns a sample for every row of its `metrics.csv`."""
    from simclr_tf.run import main
    from simclr_tf.runs import callbacks

    samples: list[Sample] = []
    append = callbacks.append_csv

    def appended(path: str, row: Mapping[str, object]) -> None:
        append(path, row)
        samples.append(sample(int(str(row["step"]))))

    callbacks.append_csv = appended
    with tempfile.TemporaryDirectory() as folder:
        code = main(["simclr-tf", *SETTINGS, f"--train_steps={steps}", f"--model_dir={folder}/run"])
    assert code == 0, code
    return samples


def report(samples: list[Sample], early: int, late: int) -> str:
    """Returns a table of both moments and their ratio."""
    rows = []
    for moment in (early, late):
        window = [s for s in samples if abs(s.step - moment) <= WINDOW]
        first, last = window[0], window[-1]
        each, of_processor = (
            1000 * (getattr(last, name) - getattr(first, name)) / (last.step - first.step)
            for name in ("seconds", "processor")
        )
        at = min(window, key=lambda s: abs(s.step - moment))
        rows.append((at.resident / 2**20, at.files, at.threads, at.objects, each, of_processor))
    names = (
        "memory (MiB)",
        "open files",
        "threads",
        "Python objects",
        "ms a step",
        "CPU ms a step",
    )
    lines = [f"{'':16}{f'step {early}':>12}{f'step {late}':>12}{'ratio':>8}"]
    for name, before, after in zip(names, *rows, strict=True):
        lines.append(f"{name:16}{before:12.1f}{after:12.1f}{after / before:8.3f}")
    steps = range(early, samples[-1].step + 1, (late - early) // 6)
    memory = [s.resident / 2**20 for s in samples if s.step in steps]
    lines.append(f"memory every {steps.step} steps: " + ", ".join(f"{m:.1f}" for m in memory))
    return "\n".join(lines)


def main() -> None:
    """Parses the command line, trains, prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, default in (("--steps", 2200), ("--early", 200), ("--late", 2000)):
        arguments.add_argument(name, type=int, default=default)
    given = arguments.parse_args()
    samples = trained(given.steps)
    print(report(samples, given.early, given.late))
    if threading.active_count() > 1:
        print("Threads left:", ", ".join(thread.name for thread in threading.enumerate()))


if __name__ == "__main__":
    main()
