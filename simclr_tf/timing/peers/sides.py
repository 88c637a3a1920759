"""Which libraries can be timed here, and how each of their processes is started."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from typing import Any, NamedTuple

import simclr_tf
from simclr_tf.errors import UserError

OURS = "simclr_tf"
_LIGHTLY = ("lightly", "torch", "torchvision")
_LEGACY_KERAS = "tf_keras"
_INSTALL = "pip install 'simclr-tf[peers]'"
_RELEASE_FILES = ("run.py", "model.py", "objective.py", "data.py", "data_util.py")
# Prints what is missing. A folder of that name in the working directory has no file of its own.
_MISSING = """
import importlib.util, sys
found = {name: importlib.util.find_spec(name) for name in sys.argv[1:]}
print(*(name for name, spec in found.items() if spec is None or spec.origin is None))
"""


class Side(NamedTuple):
    """A library in a process of its own.

    Attributes:
        name: In tables.
        command: What is started.
        environment: All of the process's environment.
        settings: Its own, beside those of all sides.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    settings: Mapping[str, Any] = {}


def find_sides(
    release: str | None, lightly_python: str | None, width_multiplier: float
) -> list[Side]:
    """Returns this package and the peers that are there.

    Args:
        release: Folder of a checkout of google-research/simclr; None: it is not compared.
        lightly_python: The interpreter that has lightly; None: this one, if it has.
        width_multiplier: Of the network; the release's is a whole number.

    Raises:
        UserError: There is no peer, or one that is named can't be used.

    Example:
        >>> [side.name for side in find_sides("simclr", None, 1.0)]
        ['simclr_tf', 'release']
    """
    sides = [Side(OURS, [sys.executable, "-m", "simclr_tf.timing.peers.ours"], _environment())]
    if lightly_python is not None:
        sides += _lightly(_interpreter(lightly_python))
    elif not _missing_here():
        sides += _lightly(None)
    if release is not None:
        sides += _release(release, width_multiplier)
    if len(sides) == 1:
        raise UserError(
            "Expected a peer to train beside; received: neither lightly in this Python, nor "
            f"--lightly_python, nor --release. Install lightly and PyTorch with: {_INSTALL}, or "
            "name a checkout of github.com/google-research/simclr with --release."
        )
    return sides


def _missing_here() -> list[str]:
    return [name for name in _LIGHTLY if not _is_installed(name)]


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _interpreter(given: str) -> str:
    """Returns the path of a Python that has lightly and PyTorch."""
    path = shutil.which(os.path.expanduser(given))
    if path is None:
        raise UserError(
            f"Expected --lightly_python to be a Python interpreter; received: {given!r}, which "
            "can't be run. Name one, as in --lightly_python=.venv/bin/python."
        )
    try:
        asked = subprocess.run(
            [path, "-c", _MISSING, *_LIGHTLY],
            env=_foreign_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        failed = asked.returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        failed = True
    if failed:
        raise UserError(
            f"Expected --lightly_python to be a Python interpreter; received: {given!r}, which "
            "does not run Python code. Name another one."
        )
    if missing := asked.stdout.split():
        raise UserError(
            f"Expected lightly, torch and torchvision in the Python of --lightly_python; received: "
            f"{given!r} without {' and '.join(missing)}. Install them with: {given} -m pip install "
            f"{' '.join(_LIGHTLY)}."
        )
    return path


def _lightly(python: str | None) -> list[Side]:
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lightly_peer.py")
    environment = _environment() if python is None else _foreign_environment()
    # Threads of OpenMP that wait hold a core, which its own workers and all else on the machine
    # then lack: steps took up to six times as long on a machine that did other work.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = [python or sys.executable, script]
    return [
        Side("lightly", command, environment, {"channels_last": False}),
        Side("lightly, channels_last", command, environment, {"channels_last": True}),
    ]


def _release(given: str, width_multiplier: float) -> list[Side]:
    folder = os.path.abspath(os.path.expanduser(given))
    missing = [f for f in _RELEASE_FILES if not os.path.isfile(os.path.join(folder, "tf2", f))]
    if missing:
        raise UserError(
            "Expected --release to be a checkout of github.com/google-research/simclr; received: "
            f"{given!r}, where tf2/{missing[0]} is missing. Clone it and name its folder."
        )
    if width_multiplier != round(width_multiplier):
        raise UserError(
            "Expected a whole --width_multiplier with --release, which takes no other; received: "
            f"{width_multiplier}. Pass --width_multiplier=1."
        )
    environment = _environment()
    if not importlib.metadata.version("keras").startswith("2."):
        if not _is_installed(_LEGACY_KERAS):
            raise UserError(
                "Expected Keras 2 for --release; received: Keras "
                f"{importlib.metadata.version('keras')}, and no tf_keras. Install the tf_keras of "
                "your TensorFlow's version with: pip install tf_keras, or take TensorFlow 2.15."
            )
        environment["TF_USE_LEGACY_KERAS"] = "1"
    command = [sys.executable, "-m", "simclr_tf.timing.peers.release_peer"]
    return [
        Side("release", command, environment, {"release": folder, "global_bn": True}),
        Side(
            "release, no global_bn", command, environment, {"release": folder, "global_bn": False}
        ),
    ]


def _environment() -> dict[str, str]:
    """Returns this process's environment, in which this package is found, installed or not."""
    environment = {**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}  # several share a GPU
    home = os.path.dirname(os.path.dirname(os.path.abspath(simclr_tf.__file__)))
    if home not in {os.path.abspath(sysconfig.get_path(name)) for name in ("purelib", "platlib")}:
        paths = [home, os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _foreign_environment() -> dict[str, str]:
    """Returns this process's environment without what tells this Python where its packages are."""
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in ours}
