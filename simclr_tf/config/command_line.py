"""What a command line asks for: presets, flagfiles and flags, as a checked `Config`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from simclr_tf.config.config import Config, define_flags
from simclr_tf.config.settings import Value
from simclr_tf.errors import UserError
from simclr_tf.files.json_files import read_json

DEFAULT_PRESET = "quickstart"


def presets() -> dict[str, Path]:
    """Returns the presets by name.

    The folder `configs/` lies beside the package in a checkout, in the package when installed.
    """
    package = Path(__file__).resolve().parents[1]
    places = (package / "configs", package.parent / "configs")
    folder = next((place for place in places if place.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.flags"))} if folder else {}


def parse(arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """Returns the settings that command-line arguments ask for, and lines to print.

    Flags override presets and flagfiles, whatever their order on the command line.

    Args:
      arguments: without the program's name, e.g. `["--preset=quickstart", "--seed=1"]`.

    Returns:
      Checked settings, and the lines.

    Raises:
      UserError: a flag, value, file or preset that does not exist or cannot work.
    """
    config, notes = read(arguments)
    config.validate()
    given_start = config.checkpoint or config.encoder_weights
    if config.train_mode == "finetune" and config.mode != "eval" and not given_start:
        notes.append("No --checkpoint given: training a supervised baseline from scratch.")
    return config, notes


def read(arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """Returns what `parse` returns, the settings not yet checked beyond their types.

    Args:
      arguments: as for `parse`.

    Raises:
      UserError: a flag, file or preset that does not exist, a value of another type.
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
    return Config.from_flag_values(flag_values), notes


def typed(arguments: Sequence[str]) -> dict[str, Value]:
    """Returns the settings that arguments give themselves, not by preset or flagfile, by name.

    Args:
      arguments: as for `parse`.

    Raises:
      UserError: a flag that does not exist, a value of another type.

    Example:
      >>> typed(["--preset=quickstart", "--nouse_blur"])
      {'use_blur': False}
    """
    flag_values, present = _parse_flags(_split_files(arguments)[1])
    return {name: flag_values[name].value for name in present}


def _split_files(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the paths of --preset and --flagfile in the order given, and the other arguments.

    A relative path is relative to the working directory.
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
    """Returns the path of a flagfile, after checking that it can be read as text."""
    path = os.path.expanduser(path)
    try:
        Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # not UTF-8, or a name with a null byte
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"Expected --flagfile to be a readable text file; received: {path!r} ({reason})."
        ) from error
    return path


def _parse_flags(arguments: list[str]) -> tuple[flags.FlagValues, set[str]]:
    """Returns parsed flags, and the names of those that were given.

    It uses a new `FlagValues`: without the flags of other libraries, and with our error messages.
    """
    flag_values = flags.FlagValues()
    # Arguments after a stray word are parsed too, so that their mistakes are reported.
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
    """Returns our message for absl's `flag --NAME=VALUE: reason`."""
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
    """Returns the settings of the run in model_dir, with those given now, to evaluate it."""
    if not flag_values["model_dir"].value:
        raise UserError("Expected --model_dir with --mode=eval: the run to evaluate.")
    path = os.path.join(os.path.expanduser(flag_values["model_dir"].value), "flags.json")
    try:
        saved, reason = read_json(path), "none"
    except UserError as error:
        saved, reason = {}, str(error.__cause__)
    if not saved:
        raise UserError(
            f"Expected a run's settings in {path}, as no --dataset is given; received: {reason}. "
            "Pass the flags that the run was started with."
        )
    now = Config.from_flag_values(flag_values)
    given = {name: getattr(now, name) for name in present}
    earlier = Config.from_settings({**saved, **given})
    return earlier, [f"Evaluating with the settings of {path}."]
