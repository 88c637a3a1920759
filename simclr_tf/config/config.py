"""`Config`: the settings of one run: checked, compared with another run's, as flags, as a dict.

Components take plain arguments: only `runs` unpacks a `Config`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from simclr_tf.config.checks import check_setting, check_together
from simclr_tf.config.settings import Settings, Value, kind_of

if TYPE_CHECKING:
    from absl import flags

# They only matter at a run's start; `--mode=eval` reads its checkpoints.
_UNUSED_BY_EVALUATION = frozenset(
    {"checkpoint", "variable_schema", "zero_init_logits_layer", "encoder_weights", "teacher"}
)
# They do not change what a run computes: a change needs no announcement.
_UNANNOUNCED = frozenset({"mode", "model_dir", "dry_run", "workers", "worker_index"})


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """The settings of one run: one field per command-line flag, as the table `Settings` has them.

    Example:
        >>> config = Config(dataset="mnist_5k", image_size=28, model_dir="/tmp/digits")
        >>> config.validate()
    """

    @classmethod
    def from_flag_values(cls, flag_values: flags.FlagValues) -> Config:
        """Returns the settings in parsed flags; an empty text counts as None where that is allowed.

        Args:
          flag_values: parsed flags, as `define_flags` defined them.
        """
        values: dict[str, Any] = {
            field.name: flag_values[field.name].value for field in dataclasses.fields(cls)
        }
        for field in dataclasses.fields(cls):
            if "None" in str(field.type) and values[field.name] == "":
                values[field.name] = None
        if values["model_dir"] is not None:
            # The shell leaves the ~ of --model_dir=~/runs alone.
            values["model_dir"] = os.path.expanduser(values["model_dir"])
        return cls(**values)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Config:
        """Returns recorded settings, without those that no longer exist.

        Args:
          settings: name -> value, as `to_dict` gives them and `flags.json` holds them.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in known})

    def to_dict(self) -> dict[str, Value]:
        """Returns every setting by name, as `flags.json` holds them."""
        return dataclasses.asdict(self)

    def to_flags(self) -> list[str]:
        """Returns the settings other than the defaults as flags, which `parse` reads back.

        Example:
            >>> Config(dataset="mnist_5k", use_blur=False).to_flags()
            ['--dataset=mnist_5k', '--use_blur=False']
        """
        return [
            f"--{field.name}={value}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]

    def validate(self) -> None:
        """Checks each setting alone, then together.

        Raises:
          UserError: one line for the first setting that cannot work.
        """
        for field in dataclasses.fields(self):
            check_setting(field, getattr(self, field.name))
        check_together(self)


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines one flag per field of `Config`.

    Args:
      flag_values: where the flags are defined; a command passes its own, without the flags of
        other libraries.
    """
    from absl import flags

    define: dict[str, Callable[..., object]] = {
        "bool": flags.DEFINE_boolean,
        "int": flags.DEFINE_integer,
        "float": flags.DEFINE_float,
        "str": flags.DEFINE_string,
    }
    for field in dataclasses.fields(Config):
        kind, choices = kind_of(field), field.metadata["choices"]
        text = field.metadata["help"]
        if kind == "str" and choices:
            default = cast("str | None", field.default)
            flags.DEFINE_enum(field.name, default, choices, text, flag_values=flag_values)
        elif kind == "bool | str":
            words = [choice for choice in choices if isinstance(choice, str)]
            flag = flags.Flag(
                _switch_parser(words), None, field.name, field.default, text, boolean=True
            )
            flags.DEFINE_flag(flag, flag_values)
        else:
            define[kind](field.name, field.default, text, flag_values=flag_values)


def _switch_parser(words: Sequence[str]) -> flags.ArgumentParser:
    """Returns the parser of a switch that takes words too."""
    from absl import flags

    switch = flags.BooleanParser()

    class Parser(flags.ArgumentParser):  # type: ignore[type-arg]
        enum_values = ("true", "false", *words)  # for messages

        def parse(self, argument: Any) -> bool | str:
            return argument if argument in words else switch.parse(argument)

        def flag_type(self) -> str:
            return "switch"

    return Parser()


def unsaid(earlier: Mapping[str, object]) -> dict[str, Any]:
    """Returns the settings that a run of an earlier version used without recording them.

    Args:
      earlier: what its `flags.json` holds.

    Returns:
      Name -> value of the settings that are missing there and whose default is different now.
    """
    fields = {field.name: field for field in dataclasses.fields(Config)}
    return {
        name: field.metadata["before"]
        for name, field in fields.items()
        if name not in earlier and field.metadata["before"] != field.default
    }


def differences(
    old: Mapping[str, object], new: Config
) -> tuple[dict[str, tuple[object, object]], dict[str, tuple[object, object]]]:
    """Compares the settings of an earlier run in the same folder with those of a new one.

    Args:
      old: the earlier run's `to_dict()`; a setting that it lacks counts as the default (or as
        what was done before it existed: `unsaid`), one that no longer exists is ignored.
      new: the new run's settings.

    Returns:
      Two dicts from a setting's name to its (old, new) values: those that make it another run
      (model, data, views, loss, batch, optimizer: refuse), and those that may change (length,
      evaluation, checkpoints, devices: announce).
    """
    found: dict[str, dict[str, tuple[object, object]]] = {"identity": {}, "run": {}}
    for field in dataclasses.fields(Config):
        before, after = old.get(field.name, field.metadata["before"]), getattr(new, field.name)
        unused = new.mode == "eval" and field.name in _UNUSED_BY_EVALUATION
        if before != after and not unused and field.name not in _UNANNOUNCED:
            found[field.metadata["group"]][field.name] = (before, after)
    return found["identity"], found["run"]
