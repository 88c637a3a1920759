"""What the README and the pages of docs/ print, run as it is printed."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import processes
import pytest
import shallow

from simclr_tf.config import Config
from simclr_tf.run import parse, presets
from simclr_tf.sweep import sweep_arguments
from simclr_tf.sweeps.definition import define
from simclr_tf.sweeps.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
ALL = "\n".join([README, *PAGES.values()])


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", ALL, re.DOTALL)


def python_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.mark.second_lane
@pytest.mark.slow
def test_the_user_script_runs(tmp_path: Path) -> None:
    """model.fit() under a two-replica MirroredStrategy, in a process of its own; then the block
    about images of several classes."""
    script, several = python_of("library.md")
    assert len(script.strip().splitlines()) <= 25
    (tmp_path / "script.py").write_text(script + several)
    done = processes.run("-c", shallow.script("script.py"), cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "label_top_1_accuracy" in done.stdout and "(64, 128)" in done.stdout
    binned, exact = map(float, re.findall(r"^\d\.\d+$", done.stdout, re.M)[-2:])
    assert binned == pytest.approx(exact, abs=3e-3)


@pytest.mark.second_lane
@pytest.mark.slow
def test_the_script_with_own_inputs_runs(tmp_path: Path) -> None:
    """With the block about two encoders after it, on inputs that its names stand for."""
    script, pairs = python_of("modalities.md")
    between = (
        "image_encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])\n"
        "text_encoder, images = encoder, np.ones((256, 4), 'float32')\n"
        "ids, mask = data['ids'], data['mask']\n"
    )
    (tmp_path / "script.py").write_text(script + between + pairs + "print(captions.shape)")
    done = processes.run("script.py", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "(256, 32)" in done.stdout and "(256, 128)" in done.stdout


@pytest.mark.one_lane
@pytest.mark.parametrize(("page", "count"), [("modalities.md", 3), ("tasks.md", 4)])
def test_every_example_exists(page: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", PAGES[page], re.DOTALL)).replace("\\\n", " ")
    commands = re.findall(r"^python -m (simclr_tf\.examples\.\w+)(.*)$", lines, re.M)
    assert len({name for name, _ in commands}) == count
    for name, arguments in commands:
        with pytest.raises(SystemExit) as done:
            import_module(name).main([name, "--help"])
        assert done.value.code == 0
        known = set(re.findall(r"--\w+", capsys.readouterr().out))
        assert set(re.findall(r"--\w+", arguments)) <= known, arguments


@pytest.mark.one_lane
def test_every_command_parses() -> None:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    ours = [c for c in commands if "simclr-tf" in c or "simclr_tf.run" in c]
    assert len(ours) >= 10
    for command in ours:
        start = command.index("simclr-tf" if "simclr-tf" in command else "simclr_tf.run")
        parse(command[start + 1 :])


@pytest.mark.one_lane
def test_every_sweep_parses() -> None:
    pytest.importorskip("optuna")
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if "simclr_tf.sweep" in line]
    assert len(commands) == 2
    for command in commands:
        given, flags = sweep_arguments().parse_known_args(command[3:])
        sweep, _ = define(flags, given.space, given.metric, given.sampler, given.sampler_seed)
        assert len(sweep.space) == 2 and sweep.config.dataset == "mnist_5k"
    listed = re.findall(
        r"`(\w+)`",
        "".join(re.findall(r"^\| (`.*?) \| (?:larger|smaller)", PAGES["sweeps.md"], re.M)),
    )
    assert set(listed) == set(METRICS)


@pytest.mark.one_lane
def test_the_readme_is_one_screen_and_leads_to_every_page() -> None:
    assert len(README.splitlines()) <= 60
    (commands,) = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert len(commands.splitlines()) == 3  # clone; install and run; install and test
    linked = {name for name in PAGES if f"(docs/{name})" in README}
    assert linked == {*PAGES} - {"index.md"}
    assert {name for name in PAGES if f"({name})" in PAGES["index.md"]} == linked
    assert set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)) == {*PAGES}
    folders = {ROOT / "docs": PAGES.values(), ROOT: [README]}
    for folder, texts in folders.items():
        for text in texts:
            for link in re.findall(
                r"\]\((?!http)([\w/.]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)
            ):
                assert (folder / link).exists(), link


@pytest.mark.one_lane
def test_the_code_map_names_files_that_are_there() -> None:
    named = re.findall(r"`((?:simclr_tf|tf_hub_export|tests)/[\w/]+\.py)`", PAGES["code_map.md"])
    assert len(named) > 30 and all((ROOT / name).is_file() for name in named), named


@pytest.mark.one_lane
def test_every_preset_and_listed_flag_exists() -> None:
    for name in presets():
        assert f"`{name}`" in PAGES["your_images.md"]
    flags = set(re.findall(r"--([a-z_]+)[=`\s)]", ALL))
    other_programs = {
        "upgrade", "logdir", "output", "export_dir", "format", "overwrite", "precision",
        "saved_model", "split", "endpoint", "projector_dir", "deviations", "protocols",
        "max_images", "test_split", "supervised_dir", "space", "trials", "metric", "sampler",
        "sampler_seed", "sweep_dir", "retry_failed", "left", "right", "scenes",
        "pairs", "steps", "digit_size", "seconds", "release", "lightly_python", "batch_size",
        "images", "profile", "depth",
    }  # fmt: skip
    known = set(Config.__dataclass_fields__) | {"preset", "help", "flagfile"}
    assert flags - other_programs <= known
