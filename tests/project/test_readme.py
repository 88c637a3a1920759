"""What the README and the pages of docs/ print, run as it is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import processes
import pytest

from simclr_tf.config import Config
from simclr_tf.run import parse, presets

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
ALL = "\n".join([README, *PAGES.values()])


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", ALL, re.DOTALL)


@pytest.mark.slow
def test_the_user_script_runs(tmp_path: Path) -> None:
    """model.fit() under a two-replica MirroredStrategy, in a process of its own."""
    script = next(block for block in blocks("python") if "SimCLR(" in block)
    assert len(script.strip().splitlines()) <= 25
    (tmp_path / "script.py").write_text(script)
    done = processes.run("script.py", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "label_top_1_accuracy" in done.stdout and "(64, 128)" in done.stdout


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
        "max_images", "test_split", "supervised_dir",
    }  # fmt: skip
    known = set(Config.__dataclass_fields__) | {"preset", "help", "flagfile"}
    assert flags - other_programs <= known
