"""`python -m simclr_tf.run`, installed as `simclr-tf`: flags to `Config`, then one call.

TensorFlow is imported once the settings are checked, so that help and wrong arguments answer at
once. A user's mistake is one line on stderr and exit code 2; a NaN or infinite loss stops the run
with exit code 3; a signal writes a checkpoint and ends it with the code that shells give.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from simclr_tf import __version__
from simclr_tf.cli import exit_code
from simclr_tf.config import Config
from simclr_tf.config.command_line import DEFAULT_PRESET, parse, presets
from simclr_tf.devices.quiet import quiet_libraries, start_tensorflow
from simclr_tf.devices.workers import joins_workers, named_workers, own_task
from simclr_tf.errors import Interruption, UserError
from simclr_tf.files.writers import Writer

# Flags that choose settings rather than being one; `Config` does not have them.
_PRESET = "Start from the settings of a preset: {}."
_FLAGFILE = "Start from the settings of a file, one --flag=value a line, # for comments."
_HELP = ("-h", "-help", "--help", "--helpfull", "--helpshort")


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: arguments with the program's name first; None: those of the process.

    Returns:
      The exit code: 0, 2 after a user's mistake, 3 where loss, weights or results became NaN or
      infinite, 4 where the folder can no longer be written, 5 where another worker was lost, 130
      or 143 after SIGINT or SIGTERM.
    """
    arguments = list(sys.argv if argv is None else argv)[1:]
    if any(argument in _HELP for argument in arguments):
        print(_help_text())
        return 0
    if "--version" in arguments:
        print(f"simclr-tf {__version__}")
        return 0
    return exit_code("simclr-tf", lambda: _parse_and_train(arguments))


def cli() -> None:
    """Runs the command as a process: the console script `simclr-tf`."""
    sys.exit(main())


def _parse_and_train(arguments: Sequence[str]) -> int:
    config, notes = parse(arguments)
    with named_workers(config.workers, config.worker_index):
        writer = _writer(config)
        for note in notes:
            writer.say(note)
        return _train(config)


def _writer(config: Config) -> Writer:
    """Returns this process's role among several workers, before TensorFlow is loaded."""
    if config.use_tpu or not joins_workers(config.strategy):
        return Writer()
    return Writer.of_task(*own_task())


def _train(config: Config) -> int:
    """Makes a folder where none was given, imports TensorFlow and runs."""
    fresh = config.model_dir is None
    if fresh:
        if config.strategy in ("auto", "multiworker") and os.environ.get("TF_CONFIG"):
            raise UserError(
                "Expected --model_dir with --workers or TF_CONFIG: all workers of a run share one "
                "folder; received: none. Pass the same --model_dir to each."
            )
        config = dataclasses.replace(config, model_dir=_fresh_folder(config))
        if not config.dry_run:
            print(f"Writing to {config.model_dir} (choose another with --model_dir).", flush=True)
    folder = str(config.model_dir)
    existed = not fresh and os.path.isdir(folder)
    try:
        start_tensorflow()
        from simclr_tf.runs.run import train_and_evaluate
        from tf_hub_export import export_saved_model

        with quiet_libraries():
            train_and_evaluate(config, export_saved_model)
    except KeyboardInterrupt as error:
        again = f"with --model_dir={folder} " if fresh else ""
        resumes = f"the same command {again}resumes from"
        message = (
            f"{error}, and {resumes} there" if str(error) else f"{resumes} the last checkpoint"
        )
        number = error.number if isinstance(error, Interruption) else signal.SIGINT
        raise Interruption(number, message) from error
    except UserError:
        if not existed:
            # Leave no empty folder behind; one that holds files stays.
            with contextlib.suppress(OSError):
                (os.removedirs if fresh else os.rmdir)(folder)
        raise
    return 0


def _fresh_folder(config: Config) -> str:
    """Makes a new folder `runs/TRAIN_MODE-DATASET-TIME` in the working directory.

    A dry run gets the name alone.
    """
    name = Path(str(config.dataset).split(",")[0]).name or "images"
    stem = f"{config.train_mode}-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(1, 100):
        folder = Path("runs") / (stem if attempt == 1 else f"{stem}-{attempt}")
        if config.dry_run and not folder.exists():
            return str(folder)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(
                f"Expected to make a folder {folder} in {Path.cwd()}; received: "
                f"{error.strerror}. Pass --model_dir."
            ) from error
        return str(folder)
    raise UserError(f"Expected a free name for runs/{stem}; received: 99 taken. Pass --model_dir.")


def _help_text() -> str:
    """Returns every flag under its topic, with its default."""
    lines = [
        f"simclr-tf {__version__}: contrastive learning of image representations.",
        "",
        "Usage: simclr-tf [--preset=NAME] [--flag=value ...]",
        "       python -m simclr_tf.run does the same.",
        "",
        f"Without --dataset, --preset or --flagfile it runs --preset={DEFAULT_PRESET}.",
        "The command line overrides presets and flagfiles, wherever they stand.",
        "Exit codes: 0; 2 a mistake in what was asked for; 3 loss, weights or results became",
        "NaN or infinite (the last healthy checkpoint is kept); 4 the folder can no longer be",
        "written; 5 another worker was lost; 130 or 143 interrupted by SIGINT or SIGTERM: the",
        "step's checkpoint is written, and the same command goes on from it.",
        "",
        "Settings",
        *_help_entry("preset=NAME", _PRESET.format(", ".join(presets()))),
        *_help_entry("flagfile=FILE", _FLAGFILE),
        *_help_entry("help, --version", "Print this, or the version."),
    ]
    topic = ""
    for field in dataclasses.fields(Config):
        if field.metadata["topic"] != topic:
            topic = field.metadata["topic"]
            lines += ["", topic]
        choices = field.metadata["choices"]
        text = field.metadata["help"]
        if choices:
            text += f" One of {', '.join(str(choice) for choice in choices)}."
        default = "" if field.default is None else f"={field.default}"
        lines += _help_entry(f"{field.name}{default}", text)
    return "\n".join(lines)


def _help_entry(name: str, text: str) -> list[str]:
    """Returns the lines of one flag; its name ends with `=` and the default."""
    return [
        f"  --{name}",
        *textwrap.wrap(text, 88, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]


if __name__ == "__main__":
    cli()
