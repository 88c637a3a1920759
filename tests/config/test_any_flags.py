"""Any value for any setting, any words on a command line: settings that fit, or a `UserError`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutated import cases

from simclr_tf import cli
from simclr_tf.config import Config
from simclr_tf.config.command_line import parse
from simclr_tf.errors import UserError

pytestmark = pytest.mark.one_lane
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
_NASTY = (
    "~no-such-user/x", "a\0b", "(" * 3000, "a{99999999999}", "imagenet", "nan", "inf", "1e400",
    "9" * 5000, "\ud800", "--", "none", "../..", "<script>", "a\nb", "x" * 256, "²", " ",
)  # fmt: skip
_ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.binary(max_size=4) | st.lists(st.integers(), max_size=2) | st.sampled_from(_NASTY)
    | st.sampled_from((0, 1, -1, 2**31, 2**63, -(2**64), 10**400))
)  # fmt: skip


def _values(name: str) -> st.SearchStrategy[tuple[str, Any]]:
    field = FIELDS[name]
    allowed = [field.default, *(field.metadata["choices"] or ())]
    return st.tuples(st.just(name), st.sampled_from(allowed) | _ANYTHING)


SETTING = st.sampled_from(sorted(FIELDS)).flatmap(_values)


def _said(setting: tuple[str, Any]) -> str:
    name, value = setting
    return f"--{name}={value if not isinstance(value, int) or abs(value) < 10**99 else '1' * 400}"


_WORDS = st.text(max_size=10) | st.sampled_from(
    ("--mode=eval", "--preset=x", "--preset", "--preset=quickstart", "--flagfile", "--flagfile=",
     "--flagfile=/dev/null", "--flagfile=a\0b", "--flagfile=~no-such-user", "--", "-", "--=",
     "--undefok=x", "--model_dir=~no-such-user/run", "--model_dir=a\0b", "--nouse_blur")
)  # fmt: skip


def _refused(work: Callable[[], object]) -> object:
    """Returns what comes out, or None where it was refused in words."""
    try:
        return work()
    except UserError as error:
        assert str(error).strip()
        str(error).encode("utf-8", "backslashreplace")
        return None


@cases(0.07)
@given(st.lists(SETTING, max_size=3))
def test_any_value_of_any_setting(settings: list[tuple[str, Any]]) -> None:
    config = Config(**{"dataset": "mnist_5k", **dict(settings)})
    _refused(config.validate)


@cases(0.07)
@given(st.lists(SETTING.map(_said) | _WORDS, max_size=4), st.booleans())
def test_any_command_line(words: list[str], with_data: bool) -> None:
    parsed = _refused(lambda: parse((["--dataset=mnist_5k"] if with_data else []) + words))
    if parsed is not None:
        config = parsed[0]
        config.validate()
        assert Config(**json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "setting, value, expected",
    [
        ("train_steps", 10**30, "64 bits"),
        ("learning_rate", 10**400, "64 bits"),
        ("model_dir", "a\0b", "no file can be named"),
        ("dataset", "\ud800", "no file can be named"),
        ("variable_schema", "(" * 3000, "regular expression"),
        ("variable_schema", "a{99999999999}", "regular expression"),
    ],
    ids=["whole number", "number", "null byte", "half a character", "nested", "repeated"],
)
def test_what_only_fails_later(setting: str, value: Any, expected: str) -> None:
    config = Config(**{"dataset": "mnist_5k", setting: value})
    with pytest.raises(UserError, match=expected):
        config.validate()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b"\xff", b'{"seed": "\\ud800"}'])
def test_evaluating_with_damaged_settings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "flags.json").write_bytes(content)
    with pytest.raises(UserError, match="settings|seed"):
        parse(["--mode=eval", f"--model_dir={tmp_path}"])


# The other commands: what stands in place of their work is called with what was parsed.

_COMMANDS = {
    "simclr_tf.embed": "_embed", "simclr_tf.evaluate": "_evaluate", "simclr_tf.report": "_report",
    "simclr_tf.import_release": "_import", "simclr_tf.benchmark": "_measure",
    "tf_hub_export.__main__": "_export", "simclr_tf.examples.retrieve": "_retrieve",
    "simclr_tf.examples.segment": "_segment",
}  # fmt: skip


@pytest.fixture(scope="module")
def flags() -> dict[str, list[str]]:
    """Returns the flags of each command, by its module."""
    found: dict[str, list[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in _COMMANDS:

            def note(arguments: cli.Arguments, *_: object, name: str = name) -> int:
                found[name] = [option for a in arguments._actions for option in a.option_strings]
                return 0

            module = importlib.import_module(name)
            patch.setattr(module, "run_command", note)
            module.main(["x"])
    return found


@cases(0.06)
@given(data=st.data())
def test_any_words_for_any_command(flags: dict[str, list[str]], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(_COMMANDS)))
    # Help and version end the process, as they should.
    known = [flag for flag in flags[name] if flag not in ("-h", "--help", "--version")]
    value = st.text(max_size=8) | st.sampled_from(_NASTY) | st.integers().map(str)
    word = value | st.tuples(st.sampled_from(known), value).map("=".join)
    words = data.draw(st.lists(word, max_size=5))
    words = [word for word in words if not word.startswith(("-h", "--h", "--v"))]
    given_to: list[argparse.Namespace] = []
    module = importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, _COMMANDS[name], given_to.append)
        assert module.main(["x", *words]) in (0, 2)
