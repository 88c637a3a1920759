"""Measures what docs/results.md shows: the quickstart on the embedded digits, one setting changed.

    python docs/results/measure_digits.py          trains and evaluates what digits.jsonl lacks
    python docs/results/measure_digits.py --write  digits.csv, loss.png and the page's tables anew

Each run is two commands, as a user types them; its line in digits.jsonl holds both, the curve of
its loss and its whole evaluation.json. Runs stay under runs/digits/. An interrupted measurement
goes on with the run that it left.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

HERE = Path(__file__).resolve().parent
LINES, TABLE, PICTURE = HERE / "digits.jsonl", HERE / "digits.csv", HERE / "loss.png"
PAGE = HERE.parent / "results.md"
SEEDS = (0, 1, 2)
# What the quickstart sets, of what is changed here.
QUICKSTART = {
    "train_epochs": "16",
    "train_batch_size": "64",
    "temperature": "0.2",
    "augmentations": "crop,affine,color",
    "use_blur": "False",
    "learning_rate": "0.2",
    "optimizer": "momentum",
    "weight_decay": "5e-4",
    "loss": "nt_xent",
    "similarity": "cosine",
    "negatives": "all",
    "memory_size": "0",
    "memory_momentum": "0.999",
}
SHORT = {"train_epochs": "8"}  # where the length is not what is asked
# Losses differ in the size of their gradients, on which Adam's steps do not depend.
ADAM = {
    "train_epochs": "4",
    "optimizer": "adam",
    "learning_rate": "0.008",
    "weight_decay": "1e-6",
}
# Name in the table, and the settings that make it.
LOSSES = {
    "NT-Xent": {"loss": "nt_xent"},
    "NT-Xent, Euclidean": {"loss": "nt_xent", "similarity": "euclidean"},
    "NT-Logistic": {"loss": "nt_logistic"},
    "NT-Logistic, semi-hard": {"loss": "nt_logistic", "negatives": "semi_hard"},
    "margin triplet": {"loss": "margin_triplet"},
    "margin triplet, semi-hard": {"loss": "margin_triplet", "negatives": "semi_hard"},
    "DCL": {"loss": "dcl"},
    "DCLW": {"loss": "dclw"},
    "debiased": {"loss": "debiased"},
    "hard negatives (HCL)": {"loss": "hcl"},
    "generalised, uniform prior": {"loss": "generalized"},
    "SupCon (with labels)": {"loss": "supcon"},
}
COLLAPSE = {"train_epochs": "3", "learning_rate": "100"}


class Cell(NamedTuple):
    """A place in a table: the settings that it changes, and the seeds that it is measured with."""

    table: str
    row: str
    column: str
    settings: dict[str, str]
    seeds: tuple[int, ...] = SEEDS


class Run(TypedDict):
    """A line of digits.jsonl."""

    settings: dict[str, str]
    seed: int
    commands: list[str]
    train_seconds: float
    curve: list[list[float]]  # step, contrastive loss, contrastive accuracy
    evaluation: dict[str, Any]


def cells() -> Iterator[Cell]:
    """What is measured: figure 5, tables 4 and 5 and figure 9 of the SimCLR paper, small."""
    ours = ("crop", "affine", "color")
    for size in (3, 2, 1):
        for names in itertools.combinations(ours, size):
            changed = {"augmentations": ",".join(names)}
            yield Cell("augmentations", " + ".join(names), "", SHORT | changed)
    flip = {"augmentations": "crop,flip,affine,color"}
    blur = {"augmentations": "crop,affine,color,blur", "use_blur": "True"}
    yield Cell("augmentations", "all three + flip", "", SHORT | flip)
    yield Cell("augmentations", "all three + blur", "", SHORT | blur)
    for value in ("0.05", "0.1", "0.2", "0.5", "1.0"):
        yield Cell("temperature", value, "", SHORT | {"temperature": value})
    for epochs, batch in itertools.product(("4", "8", "16"), ("64", "128", "256")):
        changed = {"train_epochs": epochs, "train_batch_size": batch}
        costly = epochs == "16" and batch != "64"
        yield Cell("length and batch", epochs, batch, changed, SEEDS[:1] if costly else SEEDS)
    for name, changed in LOSSES.items():
        yield Cell("loss", name, "", ADAM | changed)
    yield Cell("memory", "none", "", SHORT)
    for momentum in ("0.9", "0.99"):
        changed = {"memory_size": "512", "memory_momentum": momentum}
        yield Cell("memory", f"512, momentum {momentum}", "", SHORT | changed)
    yield Cell("collapse", "100", "", COLLAPSE)


def key(settings: dict[str, str], seed: int) -> tuple[str, ...]:
    """What makes a run: cells of several tables that ask for the same settings share one."""
    return (*(QUICKSTART | settings).values(), str(seed))


def measured() -> dict[tuple[str, ...], Run]:
    """The runs so far."""
    if not LINES.exists():
        return {}
    runs = [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]
    return {key(run["settings"], run["seed"]): run for run in runs}


def call(command: str) -> None:
    """Runs one command line with this interpreter.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    print(command, flush=True)
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, capture_output=True)


def read(path: Path, *names: str) -> list[list[float]]:
    """The named columns of a run's CSV file, a list for each row."""
    with path.open(newline="", encoding="utf-8") as file:
        return [[round(float(row[name]), 4) for name in names] for row in csv.DictReader(file)]


def measure(settings: dict[str, str], seed: int) -> Run:
    """Trains and evaluates one run.

    Raises:
        subprocess.CalledProcessError: A command failed.
    """
    changed = [f"{name}={value}" for name, value in settings.items() if QUICKSTART[name] != value]
    folder = Path("runs", "digits", "-".join([*changed, f"seed={seed}"]).replace(",", "+"))
    flags = " ".join(f"--{flag}" for flag in [*changed, f"seed={seed}", "online_eval=never"])
    commands = [
        f"python -m simclr_tf.run --preset=quickstart --mode=train {flags} --model_dir={folder}",
        f"python -m simclr_tf.evaluate {folder} --protocols=logistic_regression,ridge,knn,health"
        " --baselines=off --overwrite",
    ]
    for command in commands:
        call(command)
    return {
        "settings": settings,
        "seed": seed,
        "commands": commands,
        "train_seconds": sum(s for (s,) in read(folder / "training_time.csv", "seconds")),
        "curve": read(folder / "metrics.csv", "step", "contrast_loss", "contrast_acc"),
        "evaluation": json.loads((folder / "evaluation.json").read_text(encoding="utf-8")),
    }


def measure_all() -> None:
    """Measures what is not yet measured, seed by seed, and keeps each run as soon as it is done."""
    done = set(measured())
    for seed, cell in itertools.product(SEEDS, list(cells())):
        if seed in cell.seeds and key(cell.settings, seed) not in done:
            run = measure(cell.settings, seed)
            done.add(key(cell.settings, seed))
            with LINES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")


def figures(run: Run) -> dict[str, float]:
    """The figures of a run that the tables show."""
    found = run["evaluation"]["results"]["this model"]
    near = next(r for r in found["knn"]["rows"] if (r["k"], r["T"]) == (20, 0.07))
    _, loss, accuracy = run["curve"][-1]
    return {
        "logistic_regression": found["logistic_regression"]["top_1"],
        "ridge": found["ridge"]["top_1"],
        "knn_20": near["top_1"],
        "effective_rank": found["health"]["effective_rank"],
        "contrast_loss": loss,
        "contrast_acc": accuracy,
    }


def mean(runs: list[Run], name: str) -> str:
    """Mean and standard deviation of a figure over the seeds; of one seed, itself."""
    values = [figures(run)[name] for run in runs]
    digits = 1 if name == "effective_rank" else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else " (one seed)"
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(name: str, runs: dict[tuple[str, ...], Run]) -> str:
    """A table of the page, in Markdown."""
    chosen = [cell for cell in cells() if cell.table == name]
    found = {(c.row, c.column): [runs[key(c.settings, seed)] for seed in c.seeds] for c in chosen}
    if name == "length and batch":
        columns = list(dict.fromkeys(cell.column for cell in chosen))
        lines = [["epochs", *(f"batch {column}" for column in columns)]]
        for row in dict.fromkeys(cell.row for cell in chosen):
            lines.append([row, *(mean(found[row, c], "logistic_regression") for c in columns)])
    else:
        names = ["logistic_regression", "ridge", "knn_20", "effective_rank"]
        heads = ["logistic regression", "ridge", "20 neighbours", "effective rank"]
        more = "loss" if name == "temperature" else "contrastive accuracy"
        lines = [[name, *heads, more]]
        names.append("contrast_loss" if name == "temperature" else "contrast_acc")
        for cell in chosen:
            lines.append([cell.row, *(mean(found[cell.row, ""], n) for n in names)])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(text: str, runs: dict[tuple[str, ...], Run]) -> str:
    """The page with its tables made anew, each between `<!-- NAME -->` and `<!-- end -->`."""

    def fill(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n{table(found[1], runs)}\n<!-- end -->"

    return re.sub(r"<!-- (?!end)([\w ]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def csv_rows(runs: dict[tuple[str, ...], Run]) -> list[dict[str, object]]:
    """The rows of digits.csv: one for each run."""
    return [
        {
            **QUICKSTART,
            **run["settings"],
            "seed": run["seed"],
            **figures(run),
            "command": run["commands"][0],
        }
        for run in runs.values()
    ]


def draw(runs: dict[tuple[str, ...], Run]) -> None:
    """loss.png: what the curves of a healthy run look like, beside one that collapsed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    batch = int(QUICKSTART["train_batch_size"])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for settings, colour, name in (
        ({}, "tab:blue", "quickstart"),
        (COLLAPSE, "tab:red", "rate 100"),
    ):
        for seed in SEEDS:
            steps, losses, accuracies = zip(*runs[key(settings, seed)]["curve"], strict=True)
            label = f"{name}, 3 seeds" if seed == 0 else None
            left.plot(steps, losses, color=colour, linewidth=1.2, label=label)
            right.plot(steps, accuracies, color=colour, linewidth=1.2, label=label)
    left.axhline(2 * math.log(2 * batch - 1), color="black", linestyle="--", linewidth=1)
    left.annotate("knows nothing: 2 ln(2 x 64 - 1)", (1000, 9.85), ha="right", fontsize=8)
    left.set(xlabel="step", ylabel="contrastive loss")
    right.axhline(1 / (2 * batch - 1), color="black", linestyle="--", linewidth=1)
    right.set(xlabel="step", ylabel="contrastive accuracy", ylim=(0, 1))
    right.legend(frameon=False, fontsize=8, loc="center right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=110)


def write(runs: dict[tuple[str, ...], Run]) -> None:
    """Writes table, picture and page from the runs."""
    rows = csv_rows(runs)
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), runs), encoding="utf-8")
    draw(runs)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="write table, picture and page")
    if arguments.parse_args().write:
        write(measured())
    else:
        measure_all()
