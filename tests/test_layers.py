"""The house's order, read from the imports: a file imports only from a row above its own.

A new file needs a place here. That keeps the data flow one way: images, views, encoder, head, loss.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import simclr_tf

pytestmark = pytest.mark.one_lane

# Files that stand side by side do not import each other.
LEVELS: tuple[frozenset[str], ...] = tuple(
    frozenset(row.split())
    for row in (
        # What everything may use.
        "errors load_failures compat contrastive_blocks replicas examples atomic_file writers"
        " collected processor memory",
        "quiet tf_hub_export outputs json_files process_state finite transparency"
        " datasets.own_folders pipeline_errors devices padding",
        "image_values labels precision settings",
        "tf_hub_export.atomic tf_hub_export.input_contract tf_hub_export.card_code"
        " tf_hub_export.tflite tf_hub_export.onnx_file examples.pictures convolution",
        # Pure functions and layers, one idea each.
        "tf_hub_export.model_card commands feature_store"
        " config_checks draws image_ops losses cross_entropy lars"
        " gradients schedules blocks endpoints"
        " applications keras_cv_backbones exported"
        " datasets.decoding datasets.positions datasets.source datasets.splits"
        " transparency_ops",
        "config resnet heads color_ops extra_views feature_files tf_hub_export.comparison"
        " datasets.folder_layout datasets.mnist datasets.chosen_records datasets.user"
        " datasets.labelled baseline_step decay registry step_metrics teacher view_maker",
        # Where images come from, what a view is, what turns images into features.
        "augment_options encoders datasets.folder datasets.tfds_source run_folder architecture"
        " datasets.apart"
        " projector",
        "host_augment datasets stored_weights compiled_views",
        "augment",
        "fit_data",
        "fit_call",
        # What feeds a model and what one step does.
        "data step_model",
        "gradient_cache extraction tf_hub_export.signatures",
        "model finetune tf_hub_export.half_size",
        "distiller",
        # What is kept of it, measured and shown.
        "checkpoints evaluate report",
        "callbacks release_import tf_hub_export.saved_model",
        "tf_hub_export.formats tf_hub_export.sources",
        # What the parts are good for.
        "examples.retrieval examples.scenes",
        "examples.segmentation",
        # The one place that puts the parts together, and the mains.
        "building benchmarks",
        "comparing",
        "train input_benchmark",
        "run import_release embed benchmark examples.retrieve examples.segment"
        " tf_hub_export.__main__",
    )
)
# Only these unpack settings; the others take plain arguments.
KNOW_CONFIG = {"run_folder", "building", "comparing", "train", "run"}
# Help and wrong arguments answer before TensorFlow is there.
WITHOUT_TENSORFLOW = {
    "", "errors", "load_failures", "atomic_file", "json_files", "quiet", "commands", "outputs",
    "transparency", "memory", "settings",
    "config_checks", "config", "run", "import_release", "benchmark", "processor",
    "embed", "feature_store", "feature_files", "projector",
    "examples", "examples.retrieve", "examples.segment",
    "tf_hub_export", "tf_hub_export.__main__", "tf_hub_export.atomic", "tf_hub_export.onnx_file",
}  # fmt: skip
# Mains that hand the exporter what it writes, or read what it reads.
EXPORT = {"run", "import_release", "embed", "examples.segment"}
# Slow or optional: imported where they are used.
LATE = {
    "keras_cv", "tensorflow_addons", "tensorflow_datasets", "tensorflow_hub", "sklearn",
    "matplotlib", "PIL", "scipy", "tensorboard", "tqdm", "pyarrow", "tf2onnx", "onnxruntime",
}  # fmt: skip


def sources() -> dict[str, str]:
    """Returns every module's text by its name below `simclr_tf` ('' is the package itself)."""
    found = {}
    home = Path(simclr_tf.__file__).parent
    exporter = home.parent / "tf_hub_export"
    for package, prefix in ((home, ""), (exporter, "tf_hub_export.")):
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


def level(name: str) -> int:
    """Returns the row of a module, counted from the ground."""
    for number, row in enumerate(LEVELS):
        if name in row:
            return number
    raise AssertionError(f"Expected {name!r} to have a place in LEVELS.")


def wrong_imports(texts: dict[str, str]) -> list[str]:
    """Returns every import that does not go down."""
    known = set(texts)
    wrong = []
    for name, text in texts.items():
        for target in imports(text, known):
            if target not in known or target == "":
                continue  # another package; or the package itself, which holds the version
            # Mains hand the export function over; nobody else reaches into the exporter.
            crosses = target.startswith("tf_hub_export") and not name.startswith("tf_hub_export")
            if level(target) >= level(name) or (crosses and name not in EXPORT):
                wrong.append(f"{name} imports {target}")
    return wrong


def test_every_file_has_one_place() -> None:
    places = [name for row in LEVELS for name in row]
    assert len(places) == len(set(places))
    missing = set(sources()) - {""} - set(places)
    assert not missing, f"give these a row in LEVELS: {sorted(missing)}"


def test_no_place_is_kept_for_a_file_that_is_gone() -> None:
    gone = {name for row in LEVELS for name in row} - set(sources())
    assert not gone, sorted(gone)


def test_files_import_only_from_lower_levels() -> None:
    assert wrong_imports(sources()) == []


@pytest.mark.parametrize(
    "name, line",
    [
        ("losses", "from simclr_tf.train import train_and_evaluate"),
        ("losses", "from simclr_tf import model"),
        ("losses", "import simclr_tf.run"),
        ("losses", "def f():\n    from simclr_tf import image_ops"),
        ("train", "from tf_hub_export import export_saved_model"),
    ],
)
def test_a_planted_wrong_import_is_found(name: str, line: str) -> None:
    assert len(wrong_imports({**dict.fromkeys(sources(), ""), name: line})) == 1


@pytest.mark.parametrize(
    "line",
    ["from simclr_tf.errors import UserError", "from simclr_tf import compat", "import numpy"],
)
def test_a_right_import_is_allowed(line: str) -> None:
    assert wrong_imports({**dict.fromkeys(sources(), ""), "losses": line}) == []


def test_components_do_not_know_config() -> None:
    texts = sources()
    users = {name for name, text in texts.items() if "config" in set(imports(text, set(texts)))}
    assert users <= KNOW_CONFIG, sorted(users - KNOW_CONFIG)


def test_only_mains_read_flags() -> None:
    # absl.logging is everyone's; absl.flags and absl.app are the mains'.
    asking = ("absl import flags", "absl import app", "absl.flags", "absl.app")
    users = {name for name, text in sources().items() if any(word in text for word in asking)}
    assert users == {"config", "run"}


def test_keras_comes_from_tensorflow() -> None:
    texts = sources()
    for name, text in texts.items():
        assert not {"keras", "tf_keras"} & set(imports(text, set(texts))), name


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    texts = sources()
    for name, text in texts.items():
        early = LATE & set(imports(text, set(texts), top_only=True))
        assert not early, f"{name} imports {sorted(early)} at its top"


def test_front_door_imports_no_tensorflow() -> None:
    texts = sources()
    for name in WITHOUT_TENSORFLOW:
        assert "tensorflow" not in set(imports(texts[name], set(texts))), name
