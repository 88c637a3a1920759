"""Measures the tables of docs/few_labels_and_distillation.md: fine-tuning on few or unequal labels.

    python docs/results/measure_labels.py          pretrains, and fine-tunes what is missing
    python docs/results/measure_labels.py --write  the page's tables anew

All start from the quickstart's encoder of seed 0. Each run is one command, as a user types it; its
line in labels.jsonl holds the command and its result.json. Runs stay under runs/labels/.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

HERE = Path(__file__).resolve().parent
LINES, PAGE = HERE / "labels.jsonl", HERE.parent / "few_labels_and_distillation.md"
SEEDS = (0, 1, 2)
PRETRAINED = "runs/labels/pretrained"
PRETRAIN = (
    "python -m simclr_tf.run --preset=quickstart --mode=train --online_eval=never "
    f"--model_dir={PRETRAINED}"
)
FINE_TUNE = (
    f"python -m simclr_tf.run --preset=quickstart --train_mode=finetune --checkpoint={PRETRAINED} "
    "--zero_init_logits_layer --train_batch_size=32 --train_epochs=0 --train_steps={steps} "
    "--checkpoint_steps=1000 --learning_rate=0.1 --warmup_epochs=0"
)
FEW = {"label_fraction": "0.01", "weight_decay": "0"}
UNEQUAL = {"imbalance": "100"}
# Name in the table, and what it adds.
REGULARISERS = {
    "none": {},
    "weight decay, L2 (0.001)": {"weight_decay": "0.001"},
    "weight decay, decoupled (0.01)": {"weight_penalty": "decoupled", "weight_decay": "0.01"},
    "smooth L1 (1e-5)": {"weight_penalty": "smooth_l1", "weight_decay": "1e-5"},
    "dropout before the head (0.5)": {"head_dropout": "0.5"},
    "label smoothing (0.1)": {"label_smoothing": "0.1"},
}
BALANCES = {
    "none": {},
    "sample": {"class_balance": "sample"},
    "weight": {"class_balance": "weight"},
}


class Cell(NamedTuple):
    """A row of a table: its name, and the settings of its runs."""

    table: str
    row: str
    settings: dict[str, str]
    steps: int


class Run(TypedDict):
    """A line of labels.jsonl."""

    settings: dict[str, str]
    seed: int
    command: str
    result: dict[str, Any]


def cells() -> Iterator[Cell]:
    """What is measured."""
    for name, changed in REGULARISERS.items():
        yield Cell("regulariser", name, FEW | changed, 100)
    for name, changed in BALANCES.items():
        yield Cell("class balance", name, UNEQUAL | changed, 300)


def command_of(cell: Cell, seed: int) -> str:
    """The command of a run; a seed draws its labels too."""
    settings = cell.settings | {"seed": str(seed), "label_seed": str(seed)}
    flags = " ".join(f"--{name}={value}" for name, value in settings.items())
    folder = "-".join(f"{name}={value}" for name, value in settings.items())
    return f"{FINE_TUNE.format(steps=cell.steps)} {flags} --model_dir=runs/labels/{folder}"


def measured() -> dict[str, Run]:
    """The runs so far, by their commands."""
    if not LINES.exists():
        return {}
    runs = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
    return {run["command"]: run for run in runs}


def call(command: str) -> None:
    """Runs one command line with this interpreter.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    print(command, flush=True)
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, capture_output=True)


def measure_all() -> None:
    """Measures what is not yet measured, and keeps each run as soon as it is done."""
    done = measured()
    call(PRETRAIN)  # one that is there already is left as it is
    for seed in SEEDS:
        for cell in cells():
            command = command_of(cell, seed)
            if command in done:
                continue
            call(command)
            folder = Path(shlex.split(command)[-1].partition("=")[2])
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            run = Run(settings=cell.settings, seed=seed, command=command, result=result)
            with LINES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")


def table(name: str, runs: dict[str, Run]) -> str:
    """A table of the page, in Markdown: mean and standard deviation of the test accuracy."""
    lines = [[name, "test accuracy"], ["---"] * 2]
    for cell in cells():
        if cell.table == name:
            found = [runs[command_of(cell, seed)]["result"] for seed in SEEDS]
            values = [result["eval/label_top_1_accuracy"] for result in found]
            mean, spread = statistics.mean(values), statistics.stdev(values)
            lines.append([cell.row, f"{mean:.3f} ± {spread:.3f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(text: str, runs: dict[str, Run]) -> str:
    """The page with its tables made anew, each between `<!-- NAME -->` and `<!-- end -->`."""

    def fill(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n{table(found[1], runs)}\n<!-- end -->"

    return re.sub(r"<!-- (?!end)([\w ]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="write the page's tables")
    if arguments.parse_args().write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), measured()), encoding="utf-8")
    else:
        measure_all()
