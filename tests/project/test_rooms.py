"""Which room may know which, read from the imports, those inside functions too.

A room is a folder of `simclr_tf`, or a file at its top. It imports from the rows above its own and
from itself. That keeps the data flow one way: images, views, encoder, head, loss. A new file needs
no line here; a new room needs a place.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import simclr_tf

pytestmark = pytest.mark.one_lane

GROUND = {
    "",
    "autograph",
    "errors",
    "compat",
    "moved",
    "typing",
}  # everyone's; '' is the package itself
ROWS = (
    "files devices",
    "images cli loggers",
    # What a view, a network, a loss, an optimizer, a data set is: none knows another.
    "augment models losses optim datasets",
    "training",
    # What is kept of it and measured. No part above takes a `Config`, so none may know it.
    "features checkpoints evaluation config",
    "runs",
    "tf_hub_export",
    "timing examples reports sweeps",
    "run embed evaluate report sweep import_release benchmark",
)
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row.split()}
HOME = Path(simclr_tf.__file__).parent
# Commands: help and wrong arguments answer before TensorFlow is there.
DOORS = ("run", "embed", "evaluate", "report", "sweep", "import_release", "benchmark",
         "examples.retrieve", "examples.verify", "examples.segment", "examples.detect",
         "examples.speech", "examples.text", "examples.multimodal", "examples.compress",
         "tf_hub_export.__main__")  # fmt: skip
# What they ask about arguments before TensorFlow is there.
LIGHT = ("files.outputs", "config", "features.store", "features.files", "features.projector",
         "evaluation.protocols", "reports.record", "loggers.names", "sweeps.sweeping",
         "timing.peers.sides", "timing.peers.measuring")  # fmt: skip
# Slow or optional: imported where they are used.
LATE = {
    "keras_cv", "tensorflow_addons", "tensorflow_datasets", "tensorflow_hub", "sklearn",
    "matplotlib", "PIL", "scipy", "tensorboard", "tqdm", "pyarrow", "tf2onnx", "onnxruntime",
    "altair", "vl_convert", "mlflow", "wandb", "optuna", "pycocotools",
    "lightly", "torchvision",
}  # fmt: skip


def sources() -> dict[str, str]:
    """Returns every module's text by its name below `simclr_tf` ('' is the package itself)."""
    found = {}
    exporter = HOME.parent / "tf_hub_export"
    for package, prefix in ((HOME, ""), (exporter, "tf_hub_export.")):
        for path in package.rglob("*.py"):
            parts = [*path.relative_to(package).with_suffix("").parts]
            name = prefix + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name.removesuffix(".")] = path.read_text(encoding="utf-8")
    return found


def imports(text: str, known: set[str], top_only: bool = False) -> Iterator[str]:
    """Yields what a module imports: our modules by their names here, others by their first word.

    What only a type checker reads (`if TYPE_CHECKING:`) does not run and does not count.
    """

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if top_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from package import name`: a module if there is one, else something in the package.
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in full if name.removeprefix("simclr_tf.") in known]
            names = ours + ([node.module] if len(ours) < len(full) else [])
        elif isinstance(node, ast.ImportFrom):
            names = ["(a relative import)"]
        else:
            continue
        for name in names:
            if name == "simclr_tf":
                yield ""
            elif name.startswith("simclr_tf."):
                yield name.removeprefix("simclr_tf.")
            else:
                yield name if name.startswith("tf_hub_export") else name.partition(".")[0]


def room(name: str) -> str:
    """Returns the room of a module."""
    return name.partition(".")[0]


def wrong_imports(texts: dict[str, str]) -> list[str]:
    """Returns every import of another room that does not go down."""
    wrong = []
    for name, text in texts.items():
        for target in imports(text, set(texts)):
            here, there = room(name), room(target)
            if target not in texts or here == there or there in GROUND or name == "":
                continue
            if here in GROUND or LEVEL[there] >= LEVEL[here]:
                wrong.append(f"{name} imports {target}")
    return wrong


def test_every_room_has_a_place_and_says_what_belongs_in() -> None:
    texts = sources()
    assert {room(name) for name in texts} == set(LEVEL) | GROUND
    for name in LEVEL:
        lines = (ast.get_docstring(ast.parse(texts[name])) or "").splitlines()
        assert len(lines) >= (3 if (HOME / name).is_dir() else 1), name


def test_tests_lie_in_folders_named_as_the_rooms() -> None:
    tests = Path(__file__).parents[1]
    folders = {path.name for path in tests.iterdir() if [*path.glob("*.py")]}
    others = {"commands", "export", "gpu", "project", "support"}
    assert folders <= set(LEVEL) | others
    assert {path.name for path in tests.glob("*.py")} == {"conftest.py"}


def test_rooms_import_only_from_rooms_above() -> None:
    assert wrong_imports(sources()) == []


def test_no_two_files_import_each_other() -> None:
    texts = sources()
    known = set(texts) - {""}
    graph = {name: set(imports(texts[name], known)) & known - {name} for name in known}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # else a CycleError names them


@pytest.mark.parametrize(
    "name, line",
    [
        ("losses.nt_xent", "from simclr_tf.runs.run import train_and_evaluate"),
        ("losses.nt_xent", "from simclr_tf.training import simclr"),
        ("losses.nt_xent", "import simclr_tf.run"),
        ("losses.nt_xent", "def f():\n    from simclr_tf.datasets import pipeline"),
        ("features.teacher", "from simclr_tf.config import Config"),
        ("runs.run", "from tf_hub_export import export_saved_model"),
        ("errors", "from simclr_tf.files import outputs"),
    ],
)
def test_a_planted_wrong_import_is_found(name: str, line: str) -> None:
    assert len(wrong_imports({**dict.fromkeys(sources(), ""), name: line})) == 1


@pytest.mark.parametrize(
    "line",
    [
        "from simclr_tf.errors import UserError",
        "from simclr_tf import compat",
        "from simclr_tf.losses import blockwise",
        "import numpy",
    ],
)
def test_a_right_import_is_allowed(line: str) -> None:
    assert wrong_imports({**dict.fromkeys(sources(), ""), "losses.nt_xent": line}) == []


def test_only_config_reads_flags() -> None:
    # absl.logging is everyone's; absl.flags and absl.app are not.
    asking = ("absl import flags", "absl import app", "absl.flags", "absl.app")
    users = {name for name, text in sources().items() if any(word in text for word in asking)}
    assert users == {"config.config", "config.command_line"}


def test_keras_comes_from_tensorflow() -> None:
    texts = sources()
    for name, text in texts.items():
        assert not {"keras", "tf_keras"} & set(imports(text, set(texts))), name


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    texts = sources()
    for name, text in texts.items():
        early = LATE & set(imports(text, set(texts), top_only=True))
        assert not early, f"{name} imports {sorted(early)} at its top"


@pytest.mark.parametrize("name", [*DOORS, *LIGHT])
def test_doors_import_no_tensorflow(name: str) -> None:
    texts = sources()
    seen: set[str] = set()
    todo = [name]
    while todo:
        parts = todo.pop().split(".")
        # With a module come the packages that it lies in.
        for module in {".".join(parts[:end]) for end in range(1, len(parts) + 1)} - seen:
            seen.add(module)
            todo += imports(texts.get(module, ""), set(texts), top_only=True)
    assert len(seen) > 1 and "tensorflow" not in seen, sorted(seen)
