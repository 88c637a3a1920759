"""The house's order, read off the imports: no way back, settings unpacked in one place."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import simclr_tf

HOME = Path(simclr_tf.__file__).resolve().parent
# Each a thin main; only these know the command line.
MAINS = {
    "simclr_tf.run",
    "simclr_tf.import_release",
    "simclr_tf.benchmark",
    "tf_hub_export.__main__",
}
# What may know `Config`: the table itself, what unpacks it, and the run's folder.
KNOW_CONFIG = MAINS | {"simclr_tf", "simclr_tf.config", "simclr_tf.run_folder", "simclr_tf.train"}


def module_name(path: Path) -> str:
    parts = path.relative_to(HOME.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for package in ("simclr_tf", "tf_hub_export")
    for path in (HOME.parent / package).rglob("*.py")
}


def imports_of(name: str) -> set[str]:
    """Returns our modules that a module imports, within functions too; type checking aside."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            # `from package import module` may name modules or what they hold.
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    # A module's own packages have begun to be imported before it: siblings come through them.
    packages = {name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)}
    return (found & set(FILES)) - packages


def test_no_import_leads_back() -> None:
    graph = {name: imports_of(name) - {"simclr_tf"} for name in FILES}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert len(order) == len(FILES) > 30


@pytest.mark.parametrize("name", sorted(FILES))
def test_components_take_plain_arguments(name: str) -> None:
    imported = imports_of(name)
    if name not in KNOW_CONFIG:
        assert "simclr_tf.config" not in imported
    assert not imported & MAINS
    if name.startswith("tf_hub_export"):
        assert "simclr_tf.train" not in imported
