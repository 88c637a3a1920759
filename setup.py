"""Installs simclr-tf: one code base, two sets of dependencies chosen by the Python version.

Python 3.10 and 3.11 get TensorFlow 2.15 with Keras 2 and tensorflow-addons; Python 3.12 and 3.13
get TensorFlow 2.16 or later with Keras 3 (tested: 2.21). tensorflow-addons 0.23, its last release,
imports only under TensorFlow <= 2.15, which is what draws the line.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
KERAS_2 = '; python_version < "3.12"'
KERAS_3 = '; python_version >= "3.12"'


def version() -> str:
    """Returns the version as `simclr_tf/__init__.py` states it: the one place."""
    text = (ROOT / "simclr_tf" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("Expected a line __version__ = ... in simclr_tf/__init__.py.")
    return found.group(1)


def readme() -> str:
    """Returns the project page."""
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


INSTALL_REQUIRES = [
    # Training itself. 2.15.0 is left out: its CUDA extra asks for a tensorrt that has no wheel.
    f"tensorflow>=2.15.1,<2.16{KERAS_2}",
    f"tensorflow>=2.16{KERAS_3}",
    # TensorFlow 2.15 is compiled against the first NumPy.
    f"numpy<2{KERAS_2}",
    f"numpy{KERAS_3}",
    # LAMB (--optimizer=lamb) under Keras 2; Keras 3 has its own.
    f"tensorflow-addons>=0.23,<0.24{KERAS_2}",
    # Backbones (--encoder=keras_cv...) and the cutout and solarize views. Imported only where one
    # of them is asked for, but always installed: they are part of the flags' promise.
    "keras-cv>=0.9,<0.10",
    # Prepared public data sets by name (--dataset=cifar10).
    "tensorflow-datasets>=4.9",
    # From 1.18 on it needs protobuf >= 5, TensorFlow 2.15 needs protobuf < 5: without this line
    # pip picks a pair in which tensorflow-datasets does not import.
    f"tensorflow-metadata<1.18{KERAS_2}",
    # For the same reason; pip would try the newer ones in turn.
    f"googleapis-common-protos<1.75.1{KERAS_2}",
    # A viewer for the event files that every run writes; recent TensorFlow no longer brings it.
    "tensorboard",
    # tensorboard and tensorflow-hub import pkg_resources, which setuptools 81 removed.
    "setuptools<81",
    # Command-line flags and flagfiles.
    "absl-py>=1.4",
    # Reading image folders (palettes, EXIF, CMYK, 16 bit) and writing pictures.
    "pillow>=9.1",
    # Linear and nearest-neighbour evaluation of frozen features.
    "scikit-learn>=1.1",
    "threadpoolctl>=2",
    "scipy>=1.8",
    # The checksums of TFRecord files; TensorFlow's own reader finds no record by its place.
    "google-crc32c>=1.5",
    # Pictures of views, curves and embeddings.
    "matplotlib>=3.5",
    # Progress of downloads and evaluations.
    "tqdm>=4.60",
]

# Loading an exported module the TF-Hub way: hub.load, hub.KerasLayer.
# It asks for any tf-keras; pip would try those of every later TensorFlow in turn.
HUB = ["tensorflow-hub>=0.16.1", f"tf-keras>=2.15,<2.16{KERAS_2}"]
# Exports as ONNX (--format=onnx); onnxruntime is what they are compared under.
ONNX = [
    "tf2onnx>=1.17",
    # From 1.19 on it needs a newer ml_dtypes than TensorFlow 2.15 has.
    f"onnx>=1.16,<1.19{KERAS_2}",
    f"onnx>=1.16{KERAS_3}",
    "onnxruntime>=1.17",
]
# KerasCV's successor (--encoder=keras_hub.NAME), for Keras 3 alone.
KERAS_HUB = [f"keras-hub>=0.20{KERAS_3}"]
# Features as Parquet files. tensorflow-datasets brings it too, but any version: from 26 on it
# imports only beside the second NumPy.
PARQUET = [f"pyarrow>=14,<26{KERAS_2}", f"pyarrow>=14{KERAS_3}"]
# TIFF files of any number of channels; imagecodecs for compressed ones (LZW, Deflate, JPEG, ...).
TIFF = ["tifffile>=2023.9", "imagecodecs>=2023.9"]
# DICOM files.
DICOM = ["pydicom>=3"]
# The page of a run (python -m simclr_tf.report): charts, and the scripts that draw them offline.
REPORT = ["altair>=5.4", "vl-convert-python>=1.7"]
# --loggers=mlflow. The skinny package is the client, without the server, its pages and pandas.
# SQLAlchemy and Alembic are for the local store, an SQLite file: MLflow refuses plain files now.
# Older ones print their migrations.
# From 1.28 on opentelemetry-proto needs protobuf >= 5, TensorFlow 2.15 needs protobuf < 5.
MLFLOW = [
    "mlflow-skinny>=3.17",
    "sqlalchemy>=2.0.20",
    "alembic>=1.13",
    f"opentelemetry-proto<1.28{KERAS_2}",
]
# --loggers=wandb. From 0.28.1 on it needs protobuf >= 5, TensorFlow 2.15 needs protobuf < 5.
WANDB = [f"wandb==0.28.0{KERAS_2}", f"wandb>=0.30{KERAS_3}"]
# Many runs from one command (python -m simclr_tf.sweep): how the next is drawn, and which setting
# mattered. Its stores of trials are not used.
SWEEP = ["optuna>=5"]
# Average precision of boxes (python -m simclr_tf.examples.detect) by COCO's own code. The oldest
# that has wheels for every Python here; they import beside either NumPy.
DETECTION = ["pycocotools>=2.0.10"]
# What training is timed beside (python -m simclr_tf.benchmark peers). Not among the libraries that
# tests get: PyTorch's default wheels bring gigabytes of CUDA.
PEERS = ["lightly>=1.6", "torch>=2.2", "torchvision>=0.17"]
LIBRARIES = [
    *HUB, *ONNX, *KERAS_HUB, *PARQUET, *TIFF, *DICOM, *REPORT, *MLFLOW, *WANDB, *SWEEP, *DETECTION,
]  # fmt: skip
# Runs the notebooks of docs/ as Jupyter does: a reader of files, a client, a kernel.
NOTEBOOKS = ["nbformat>=5.10", "nbclient>=0.10", "ipykernel>=6.29"]
# Kinds of input rather than single cases: hypothesis draws them.
TEST = ["pytest>=7.4", "pytest-xdist>=3.3", "hypothesis>=6", *NOTEBOOKS, *LIBRARIES]
# Drives a Chromium that is installed beside it: does a report's page work in a browser?
BROWSER = ["playwright>=1.40"]

# The documentation as a site (mkdocs.yml), with a reference made from the docstrings.
DOCS = ["mkdocs>=1.6,<2", "mkdocstrings[python]>=0.26"]

setup(
    name="simclr-tf",
    version=version(),
    description="SimCLR for TensorFlow: contrastive learning of image representations.",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=[
        *find_packages(str(ROOT), include=["simclr_tf", "simclr_tf.*", "tf_hub_export"]),
        "simclr_tf.configs",
    ],
    # One set of presets: the checkout's configs/ is the wheel's simclr_tf/configs/.
    package_dir={"simclr_tf.configs": "configs"},
    package_data={
        "simclr_tf": ["py.typed"],
        "simclr_tf.configs": ["*.flags"],
        "simclr_tf.datasets": ["*.npz", "README.md"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require={
        # CUDA from wheels, next to the TensorFlow of the same lane.
        "gpu": [
            f"tensorflow[and-cuda]>=2.15.1,<2.16{KERAS_2}",
            f"tensorflow[and-cuda]>=2.16{KERAS_3}",
        ],
        "hub": HUB,
        "onnx": ONNX,
        "keras-hub": KERAS_HUB,
        "parquet": PARQUET,
        "tiff": TIFF,
        "dicom": DICOM,
        "report": REPORT,
        "mlflow": MLFLOW,
        "wandb": WANDB,
        "sweep": SWEEP,
        "detection": DETECTION,
        "peers": PEERS,
        "test": TEST,
        "docs": DOCS,
        "dev": [*TEST, *DOCS, *BROWSER, "ruff>=0.6", "mypy>=1.10", "pre-commit>=3"],
    },
    entry_points={"console_scripts": ["simclr-tf = simclr_tf.run:cli"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
