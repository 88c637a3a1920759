"""Measures the table of docs/compression.md: a teacher, its student, pruned students, as TFLite.

    python docs/results/measure_compression.py          trains what is missing, measures the files
    python docs/results/measure_compression.py --write  the page's table anew

Each run is one command, as a user types it in runs/compression/, where the runs stay.
compression_SEED.json holds what `examples.compress` wrote.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "compression.md"
RUNS = Path("runs/compression")
SEEDS = (0, 1, 2)
SHARES = ("0", "0.5", "0.8", "0.9")
PRETRAIN = (
    "python -m simclr_tf.run --preset=quickstart --online_eval=never --eval_baselines=never "
    "--model_dir=pretrained"
)
TEACH = (
    "python -m simclr_tf.run --preset=quickstart --train_mode=finetune --checkpoint=pretrained "
    "--zero_init_logits_layer --train_epochs=8 --checkpoint_epochs=100 --learning_rate=0.1 "
    "--model_dir=teacher"
)
DISTILL = (
    "python -m simclr_tf.run --preset=quickstart --train_mode=distill --teacher=teacher "
    "--width_multiplier=0.125 --proj_head_mode=none --train_epochs=20 --checkpoint_epochs=100"
)


def student(share: str, seed: int) -> str:
    """The folder of a student."""
    return f"student_{share}_{seed}"


def commands() -> list[str]:
    """The commands of all runs, in their order."""
    students = [
        f"{DISTILL} --prune={share} --seed={seed} --model_dir={student(share, seed)}"
        for seed in SEEDS
        for share in SHARES
    ]
    return [PRETRAIN, TEACH, *students]


def comparison(seed: int) -> str:
    """The command that measures the files of a seed."""
    folders = " ".join(["teacher", *(student(share, seed) for share in SHARES)])
    return (
        f"python -m simclr_tf.examples.compress --saved_model {folders} --dataset=mnist_5k "
        f"--split=test --output=compression_{seed}.json --overwrite"
    )


def measure() -> None:
    """Trains and measures; runs that are there already are left as they are.

    Raises:
        subprocess.CalledProcessError: A command failed.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    for command in [*commands(), *map(comparison, SEEDS)]:
        print(command, flush=True)
        subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, cwd=RUNS)
    for seed in SEEDS:
        name = f"compression_{seed}.json"
        (HERE / name).write_text((RUNS / name).read_text(encoding="utf-8"), encoding="utf-8")


def measured() -> list[list[dict[str, Any]]]:
    """For each file of the table its entries, one for each seed."""
    texts = [(HERE / f"compression_{seed}.json").read_text(encoding="utf-8") for seed in SEEDS]
    return [
        list(files) for files in zip(*(json.loads(text)["files"] for text in texts), strict=True)
    ]


def table(rows: list[list[dict[str, Any]]]) -> str:
    """The page's table, in Markdown: means over the seeds, with their standard deviation; of times
    the median, the lowest and the highest quartile.
    """
    header = ["model", "weights", "zeros", "file", "bytes", "after gzip", "test accuracy",
              "ms an image"]  # fmt: skip
    lines = [header, ["---"] * len(header)]
    for entries in rows:
        first = entries[0]
        mean = {
            name: statistics.mean(entry[name] for entry in entries)
            for name in ("zeros", "bytes", "gzip_bytes", "accuracy")
        }
        spread = f" ± {statistics.stdev(entry['accuracy'] for entry in entries):.3f}"
        middle = statistics.median(entry["milliseconds"] for entry in entries)
        low = min(entry["milliseconds_low"] for entry in entries)
        high = max(entry["milliseconds_high"] for entry in entries)
        lines.append(
            [
                name_of(first["model"]),
                f"{first['parameters']:,}",
                f"{mean['zeros']:.0%}",
                first["precision"],
                f"{mean['bytes']:,.0f}",
                f"{mean['gzip_bytes']:,.0f}",
                f"{mean['accuracy']:.3f}" + ("" if first["model"] == "teacher" else spread),
                f"{middle:.3f} [{low:.3f}, {high:.3f}]",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def name_of(folder: str) -> str:
    """What the table calls a model."""
    if folder == "teacher":
        return folder
    share = float(folder.split("_")[1])
    return f"student, pruned to {share:.0%}" if share else "student"


def page(text: str, rows: list[list[dict[str, Any]]]) -> str:
    """The page with its table made anew, between `<!-- files -->` and `<!-- end -->`."""
    made = f"<!-- files -->\n{table(rows)}\n<!-- end -->"
    return re.sub(r"<!-- files -->\n.*?<!-- end -->", lambda _: made, text, flags=re.DOTALL)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="write the page's table")
    if arguments.parse_args().write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), measured()), encoding="utf-8")
    else:
        measure()
