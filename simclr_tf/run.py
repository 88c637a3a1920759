"""`python -m simclr_tf.run`, installed as `simclr-tf`: flags to `Config`, then one call.

Nothing here imports TensorFlow before the settings are known to be sound, so that help and wrong
arguments answer at once. A user's mistake is one line on stderr and exit code 2; a
loss that is no number any more stops the run with exit code 3.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from simclr_tf import __version__
from simclr_tf.cli import exit_code
from simclr_tf.config import Config, define_flags
from simclr_tf.devices.quiet import quiet_libraries, start_tensorflow
from simclr_tf.devices.workers import joins_workers, own_task
from simclr_tf.errors import UserError
from simclr_tf.files.writers import Writer

DEFAULT_PRESET = "quickstart"
# Three flags that choose settings rather than being one; `Config` does not know them.
_PRESET = "Start from the settings of a preset: {}."
_FLAGFILE = "Start from the settings of a file, one --flag=value a line, # for comments."
_HELP = ("-h", "-help", "--help", "--helpfull", "--helpshort")


def presets() -> dict[str, Path]:
    """Returns the presets by name.

    A checkout keeps them in `configs/`, an installed package beside this file: the same files.
    """
    here = Path(__file__).resolve().parent
    folder = next((f for f in (here / "configs", here.parent / "configs") if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.flags"))} if folder else {}


def parse(arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """Returns the settings that command-line arguments ask for, and what the user should be told.

    Presets and flagfiles come first, wherever they stand: the command line overrides them.

    Args:
      arguments: without the program's name, e.g. `["--preset=quickstart", "--seed=1"]`.

    Returns:
      Checked settings, and a list of lines to print.

    Raises:
      UserError: a flag, value, file or preset that does not exist or cannot work.
    """
    chosen, rest = _split_files(arguments)
    flag_values, present = _parse_flags([f"--flagfile={path}" for path in chosen] + rest)
    notes: list[str] = []
    if not chosen and "dataset" not in present:
        if flag_values["mode"].value == "eval":
            return _earlier_settings(flag_values, present)
        path = _preset_path(DEFAULT_PRESET)
        flag_values, _ = _parse_flags([f"--flagfile={path}", *rest])
        notes.append(
            f"No --dataset, --preset or --flagfile given: running --preset={DEFAULT_PRESET} "
            "(--help lists every flag)."
        )
    config = Config.from_flag_values(flag_values)
    config.validate()
    given_start = config.checkpoint or config.encoder_weights
    if config.train_mode == "finetune" and config.mode != "eval" and not given_start:
        notes.append("No --checkpoint given: training a supervised baseline from scratch.")
    return config, notes


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: arguments with the program's name first; None: those of the process.

    Returns:
      The exit code: 0, 2 after a user's mistake, 3 where loss, weights or results became NaN or
      infinite, 130 after an interruption.
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
    writer = _writer(config)
    for note in notes:
        writer.say(note)
    return _train(config)


def _writer(config: Config) -> Writer:
    """Returns who this process will be among several workers: TensorFlow is not there yet."""
    if config.use_tpu or not joins_workers(config.strategy):
        return Writer()
    return Writer.of_task(*own_task())


def _train(config: Config) -> int:
    """Makes a folder where none was given, imports TensorFlow and runs."""
    fresh = config.model_dir is None
    if fresh:
        if config.strategy in ("auto", "multiworker") and os.environ.get("TF_CONFIG"):
            raise UserError(
                "Expected --model_dir with TF_CONFIG: all workers of a run share one folder; "
                "received: none. Pass the same --model_dir to each."
            )
        config = dataclasses.replace(config, model_dir=_fresh_folder(config))
        print(f"Writing to {config.model_dir} (choose another with --model_dir).", flush=True)
    folder = str(config.model_dir)
    existed = not fresh and os.path.isdir(folder)
    try:
        start_tensorflow()
        from simclr_tf.runs.run import train_and_evaluate
        from tf_hub_export import export_saved_model

        with quiet_libraries():
            train_and_evaluate(config, export_saved_model)
    except KeyboardInterrupt:
        again = f"with --model_dir={folder} " if fresh else ""
        print(
            f"simclr-tf: interrupted; the same command {again}resumes from the last checkpoint.",
            file=sys.stderr,
        )
        return 130
    except UserError:
        if not existed:
            # Leave no empty folder behind; one that holds files stays.
            with contextlib.suppress(OSError):
                (os.removedirs if fresh else os.rmdir)(folder)
        raise
    return 0


def _fresh_folder(config: Config) -> str:
    """Makes `runs/TRAIN_MODE-DATASET-TIME` in the working directory, as no run has had before."""
    name = Path(str(config.dataset)).name or "images"
    stem = f"{config.train_mode}-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(1, 100):
        folder = Path("runs") / (stem if attempt == 1 else f"{stem}-{attempt}")
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


def _split_files(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes --preset and --flagfile out: their paths in the order given, then the other arguments.

    A relative path is one to the working directory, as the shell means it.
    """
    chosen: list[str] = []
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            return chosen, [*rest, argument, *waiting]
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name not in ("preset", "flagfile"):
            rest.append(argument)
            continue
        if not equals:
            if not waiting:
                raise UserError(f"Expected a value after --{name}; received none.")
            value = waiting.pop(0)
        if not value:
            raise UserError(f"Expected a name after --{name}=; received: nothing.")
        chosen.append(str(_preset_path(value)) if name == "preset" else _readable(value))
    return chosen, rest


def _preset_path(name: str) -> Path:
    """Returns a preset's file."""
    known = presets()
    if name not in known:
        listed = ", ".join(known) or "(none is installed)"
        raise UserError(f"Expected --preset to be one of {listed}; received: {name!r}.")
    return known[name]


def _readable(path: str) -> str:
    """Returns the path of a flagfile that can be read as text."""
    path = os.path.expanduser(path)
    try:
        Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"Expected --flagfile to be a readable text file; received: {path!r} ({reason})."
        ) from error
    return path


def _parse_flags(arguments: list[str]) -> tuple[flags.FlagValues, set[str]]:
    """Returns parsed flags, and the names of those that were given.

    A `FlagValues` of our own: other libraries' flags stay out, and errors stay ours to word.
    """
    flag_values = flags.FlagValues()
    # With this, an argument after a stray word is still read, and its mistakes reported.
    flag_values.set_gnu_getopt(True)
    define_flags(flag_values)
    try:
        leftover = flag_values(["simclr-tf", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"{error} (--help lists every flag)") from error
    except flags.IllegalFlagValueError as error:
        raise UserError(_wrong_value(error, flag_values)) from error
    except (flags.Error, ValueError) as error:
        raise UserError(str(error)) from error
    if leftover:
        raise UserError(
            f"Expected only arguments of the form --flag=value; received: {leftover[0]!r}. "
            "A switch is written --use_blur=False or --nouse_blur."
        )
    return flag_values, {name for name in flag_values if flag_values[name].present}


def _wrong_value(error: flags.IllegalFlagValueError, flag_values: flags.FlagValues) -> str:
    """Returns in our words what absl says as `flag --NAME=VALUE: reason`."""
    said = str(error)
    match = re.match(r"flag --(\w+)=(.*)", said.removesuffix(f": {error.__context__}"), re.DOTALL)
    if match is None or match[1] not in flag_values:
        return said
    flag = flag_values[match[1]]
    choices = getattr(flag.parser, "enum_values", None)
    kinds = {"bool": "true or false", "int": "a whole number", "float": "a number"}
    expected = f"one of {', '.join(choices)}" if choices else kinds.get(flag.flag_type(), "")
    if not expected:
        return said
    return (
        f"Expected {expected} for --{flag.name}; received: {match[2]!r}. "
        f"The default is {flag.default}."
    )


def _earlier_settings(flag_values: flags.FlagValues, present: set[str]) -> tuple[Config, list[str]]:
    """Returns the settings that a run left in model_dir, under those given now, to evaluate it."""
    if not flag_values["model_dir"].value:
        raise UserError("Expected --model_dir with --mode=eval: the run to evaluate.")
    path = Path(flag_values["model_dir"].value).expanduser() / "flags.json"
    try:
        saved = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"Expected a run's settings in {path}, as no --dataset is given; received: {error}. "
            "Pass the flags that the run was started with."
        ) from error
    known = {field.name for field in dataclasses.fields(Config)}
    kept = {name: value for name, value in saved.items() if name in known}
    now = Config.from_flag_values(flag_values)
    given = {name: getattr(now, name) for name in present}
    config = Config(**{**kept, **given})
    config.validate()
    return config, [f"Evaluating with the settings of {path}."]


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
        "NaN or infinite (the last healthy checkpoint is kept); 130 interrupted.",
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
    """Returns the lines of one flag: its default stands after the equals sign."""
    return [
        f"  --{name}",
        *textwrap.wrap(text, 88, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]


if __name__ == "__main__":
    cli()
