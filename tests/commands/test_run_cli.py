"""The command's front door: help, version, presets and wrong arguments, all before TensorFlow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fresh_python import run_code

import simclr_tf
from simclr_tf import run
from simclr_tf.config import Config
from simclr_tf.errors import UserError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing may be written unless asked for: each test ends where it began."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Stands in for training: collects the settings it is called with."""
    calls: list[Config] = []
    train, export = ModuleType("simclr_tf.runs.run"), ModuleType("tf_hub_export")
    export.export_saved_model = object()  # type: ignore[attr-defined]

    def train_and_evaluate(config: Config, export_fn: object) -> dict:
        assert export_fn is export.export_saved_model  # type: ignore[attr-defined]
        calls.append(config)
        return {}

    train.train_and_evaluate = train_and_evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "simclr_tf.runs.run", train)
    monkeypatch.setitem(sys.modules, "tf_hub_export", export)
    return calls


@pytest.mark.parametrize(
    "arguments, code",
    [(["--help"], 0), (["--helpfull"], 0), (["--version"], 0), (["--no_such_flag=1"], 2)],
    ids=str,
)
def test_answers_without_tensorflow(arguments: list[str], code: int) -> None:
    done = run_code(
        "from simclr_tf.run import main\n"
        f"code = main(['simclr-tf', *{arguments!r}])\n"
        "heavy = ('tensorflow', 'keras', 'keras_cv', 'tensorflow_addons', 'numpy')\n"
        "loaded = [name for name in heavy if name in sys.modules]\n"
        "assert not loaded, loaded\n"
        "sys.exit(code)"
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_flag_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["simclr-tf", "--help"]) == 0
    text = capsys.readouterr().out
    for name in [*Config().to_dict(), "preset", "flagfile", "version"]:
        assert f"--{name}" in text
    for name in run.presets():
        assert name in text.replace("\n", " ")


def test_version_is_stated_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["simclr-tf", "--version"]) == 0
    assert capsys.readouterr().out == f"simclr-tf {simclr_tf.__version__}\n"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--trian_mode=pretrain"], "Did you mean: train_mode"),
        (["--train_batch_size=many"], "--train_batch_size; received: 'many'"),
        (["--mode=learn"], "train, eval, train_then_eval"),
        (["--use_blur", "False"], "received: 'False'"),
        (["cifar10"], "--flag=value; received: 'cifar10'"),
        (["--preset=quick"], "one of cifar10_dkobak, cifar10_finetune, "),
        (["--preset"], "a value after --preset"),
        (["--flagfile=missing.flags"], "No such file"),
        (["--flagfile=."], "directory"),
        (["--flagfile="], "a name after --flagfile="),
        (["--temperature"], "temperature"),
        (["--dataset=cifar10", "--image_size=0"], "image_size > 0; received: 0"),
        (["--mode=eval"], "--model_dir with --mode=eval"),
        (["--mode=eval", "--model_dir=nowhere"], "nowhere/flags.json"),
        (["--preset=own_images"], "--dataset="),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    trained: list[Config],
    empty_folder: Path,
) -> None:
    assert run.main(["simclr-tf", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("simclr-tf: error: ") and err.count("\n") == 1
    assert expected in err
    assert out == "" and trained == [] and list(empty_folder.iterdir()) == []


def test_binary_flagfile_is_refused(empty_folder: Path) -> None:
    (empty_folder / "picture.flags").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match="it is not text"):
        run.parse(["--flagfile=picture.flags"])


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("form", ["--preset=cifar10_pretrain", "--preset cifar10_pretrain"])
def test_command_line_overrides_the_preset_wherever_it_stands(place: str, form: str) -> None:
    given, preset = ["--temperature=0.25"], form.split()
    config, _ = run.parse(given + preset if place == "before" else preset + given)
    assert config.temperature == 0.25
    assert config.dataset == "cifar10" and config.train_epochs == 1000


def test_flagfile_may_hold_comments_and_overrides_the_preset_before_it(empty_folder: Path) -> None:
    text = "# a comment\n\n--temperature=0.3\n  # an indented one would be an argument\n"
    (empty_folder / "mine.flags").write_text(text.replace("  # an", "# an"))
    config, _ = run.parse(["--seed=5", "--preset=cifar10_pretrain", "--flagfile=mine.flags"])
    assert (config.temperature, config.seed, config.resnet_depth) == (0.3, 5, 18)


def test_nothing_said_runs_the_quickstart(
    trained: list[Config], capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    assert run.main(["simclr-tf", "--mode=train_then_eval", "--seed=3"]) == 0
    (config,) = trained
    assert (config.dataset, config.seed) == ("mnist_5k", 3)
    first, second = capsys.readouterr().out.splitlines()
    assert "--preset=quickstart" in first
    assert str(config.model_dir) in second
    assert (empty_folder / str(config.model_dir)).is_dir()


def test_each_run_without_a_folder_gets_its_own(trained: list[Config]) -> None:
    for _ in range(3):
        assert run.main(["simclr-tf"]) == 0
    assert len({config.model_dir for config in trained}) == 3


def test_given_folder_and_data_are_taken_as_they_are(
    trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["simclr-tf", "--dataset=cifar10", "--model_dir=here"]) == 0
    assert (trained[0].dataset, trained[0].model_dir) == ("cifar10", "here")
    assert capsys.readouterr().out == ""


def test_supervised_baseline_is_announced() -> None:
    arguments = ["--preset=cifar10_linear_eval"]
    assert run.parse(arguments)[1] == [
        "No --checkpoint given: training a supervised baseline from scratch."
    ]
    assert run.parse([*arguments, "--checkpoint=there"])[1] == []


def test_evaluation_takes_the_settings_that_the_run_left(empty_folder: Path) -> None:
    saved = Config(dataset="cifar10", resnet_depth=18, model_dir="elsewhere").to_dict()
    (empty_folder / "flags.json").write_text(json.dumps({**saved, "of_a_later_version": 1}))
    config, notes = run.parse(["--mode=eval", "--model_dir=.", "--eval_split=test"])
    assert (config.mode, config.model_dir, config.eval_split) == ("eval", ".", "test")
    assert (config.dataset, config.resnet_depth) == ("cifar10", 18)
    assert "flags.json" in notes[0]


def test_mistake_found_while_running_leaves_no_empty_folder(
    monkeypatch: pytest.MonkeyPatch,
    trained: list[Config],
    capsys: pytest.CaptureFixture[str],
    empty_folder: Path,
) -> None:
    def refuse(config: Config, export_fn: object) -> dict:
        raise UserError("Expected a data set;\nreceived: another.")

    monkeypatch.setattr(sys.modules["simclr_tf.runs.run"], "train_and_evaluate", refuse)
    assert run.main(["simclr-tf"]) == 2
    assert capsys.readouterr().err == (
        "simclr-tf: error: Expected a data set; received: another.\n"
    )
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("given", [[], ["--model_dir=here"]], ids=["fresh", "given"])
def test_interruption_says_how_to_go_on(
    given: list[str],
    monkeypatch: pytest.MonkeyPatch,
    trained: list[Config],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(config: Config, export_fn: object) -> dict:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["simclr_tf.runs.run"], "train_and_evaluate", interrupt)
    assert run.main(["simclr-tf", *given]) == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "resumes" in err
    assert ("--model_dir=runs/" in err) == (not given)


@pytest.mark.parametrize(
    ("strategy", "workers", "task", "says"),
    [
        ("multiworker", 2, {"type": "worker", "index": 0}, True),
        ("multiworker", 2, {"type": "worker", "index": 1}, False),
        ("auto", 2, {"type": "worker", "index": 1}, False),
        ("auto", 1, {"type": "worker", "index": 0}, True),
        ("one_device", 2, {"type": "worker", "index": 1}, True),  # it trains by itself
    ],
)
def test_of_several_workers_one_says_the_notes(
    strategy: str,
    workers: int,
    task: dict,
    says: bool,
    trained: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = {"worker": [f"localhost:{port}" for port in range(1, workers + 1)]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    assert run.main(["simclr-tf", f"--strategy={strategy}", "--model_dir=run"]) == 0
    assert len(trained) == 1
    assert ("running --preset=quickstart" in capsys.readouterr().out) == says
