"""What is installed: names, data, the dependencies of each lane; TensorFlow only when used."""

from __future__ import annotations

import ast
import importlib.metadata
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import simclr_tf
from simclr_tf import run

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(simclr_tf.__file__).parent


@pytest.fixture(scope="module")
def arguments() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    setuptools = pytest.importorskip("setuptools")
    kept: dict[str, Any] = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(setuptools, "setup", lambda **given: kept.update(given))
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        patch.undo()
    return kept


def wanted(requirements: list[str], python: str) -> dict[str, Any]:
    """Returns the requirements that a Python version gets, by name."""
    parsed = [Requirement(line) for line in requirements]
    return {
        item.name: item
        for item in parsed
        if item.marker is None or item.marker.evaluate({"python_version": python})
    }


@pytest.mark.parametrize("python", ["3.10", "3.11"])
def test_older_python_gets_keras_2(arguments: dict[str, Any], python: str) -> None:
    got = wanted(arguments["install_requires"], python)
    assert "2.15.1" in got["tensorflow"].specifier
    assert "2.16.1" not in got["tensorflow"].specifier
    assert "0.23.0" in got["tensorflow-addons"].specifier
    assert "0.9.0" in got["keras-cv"].specifier
    assert "2.0.0" not in got["numpy"].specifier
    assert "1.18.0" not in got["tensorflow-metadata"].specifier


@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_newer_python_gets_keras_3(arguments: dict[str, Any], python: str) -> None:
    got = wanted(arguments["install_requires"], python)
    assert "2.15.1" not in got["tensorflow"].specifier
    assert "2.16.1" in got["tensorflow"].specifier and "2.21.0" in got["tensorflow"].specifier
    assert "tensorflow-addons" not in got
    assert "0.9.0" in got["keras-cv"].specifier


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_lane_gets_what_hub_and_tensorboard_import(
    arguments: dict[str, Any], python: str
) -> None:
    assert python in SpecifierSet(arguments["python_requires"])
    got = wanted(arguments["install_requires"], python)
    # pkg_resources went away in 81.
    assert "80.9.0" in got["setuptools"].specifier and "81.0.0" not in got["setuptools"].specifier
    gpu = wanted(arguments["extras_require"]["gpu"], python)["tensorflow"]
    assert gpu.extras == {"and-cuda"} and gpu.specifier == got["tensorflow"].specifier


def test_extras_are_the_documented_ones(arguments: dict[str, Any]) -> None:
    extras = arguments["extras_require"]
    named = {
        "gpu", "hub", "onnx", "parquet", "tiff", "dicom", "report", "mlflow", "wandb", "sweep",
        "keras-hub", "detection", "peers",
    }  # fmt: skip
    assert set(extras) == named | {"docs", "test", "dev"}
    assert set(extras["test"]) | set(extras["docs"]) < set(extras["dev"])


def test_no_package_is_left_out_of_the_wheel(arguments: dict[str, Any]) -> None:
    found = {
        ".".join(path.parent.relative_to(HOME.parent).parts)
        for package in ("simclr_tf", "tf_hub_export")
        for path in (HOME.parent / package).rglob("__init__.py")
    }
    assert set(arguments["packages"]) == found | {"simclr_tf.configs"}


def test_console_script_is_the_module(arguments: dict[str, Any]) -> None:
    assert arguments["entry_points"]["console_scripts"] == ["simclr-tf = simclr_tf.run:cli"]
    assert callable(run.cli)


def test_version_has_one_source(arguments: dict[str, Any]) -> None:
    assert arguments["version"] == simclr_tf.__version__
    try:
        installed = importlib.metadata.version("simclr-tf")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed: run from a checkout")
    assert installed == simclr_tf.__version__


def test_data_files_are_there() -> None:
    assert (HOME / "py.typed").is_file()
    assert (HOME / "datasets" / "mnist_5k.npz").is_file()
    assert (HOME / "datasets" / "README.md").is_file()
    assert "quickstart" in run.presets()


def test_public_names_are_listed_once_for_users_and_for_type_checkers() -> None:
    tree = ast.parse((HOME / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("simclr_tf.")
        for alias in node.names
    }
    assert typed == {name: f"simclr_tf.{module}" for name, module in simclr_tf._HOME.items()}
    assert set(simclr_tf.__all__) == set(typed)
    assert set(simclr_tf.__all__) <= set(dir(simclr_tf))


@pytest.mark.parametrize("name", simclr_tf.__all__)
def test_public_name_is_found_and_explained(name: str) -> None:
    value = getattr(simclr_tf, name)
    assert callable(value)
    assert value.__doc__, f"{name} has no docstring"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SimCRL'"):
        simclr_tf.SimCRL  # noqa: B018


@pytest.mark.parametrize("statement", ["import simclr_tf", "from simclr_tf import Config"])
def test_import_leaves_tensorflow_alone(statement: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(HOME.parent)!r})\n{statement}\n"
        "print([n for n in ('tensorflow', 'keras', 'numpy', 'absl') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.one_lane
def test_library_leaves_optional_packages_alone() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(HOME.parent)!r})\n"
        "import simclr_tf, simclr_tf.runs.run, tf_hub_export\n"
        # Keras 3 imports scikit-learn and matplotlib by itself.
        "heavy = ('keras_cv', 'tensorflow_addons', 'tensorflow_datasets', 'tensorflow_hub',"
        " 'mlflow', 'wandb')\n"
        "print([n for n in heavy if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr
