"""What the check runs on, as TensorFlow and the driver say."""

from __future__ import annotations

import platform
import shutil
import subprocess

import tensorflow as tf
from tensorflow import keras

from simclr_tf.devices.processor import describe_cpu


def describe() -> dict[str, str]:
    """Returns names and values, one for each line."""
    build = tf.sysconfig.get_build_info()
    said: dict[str, str] = {}
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        said["GPU"] = str(details.get("device_name", "unknown"))
        capability = details.get("compute_capability", ("unknown",))
        said["compute capability"] = ".".join(map(str, capability))
        said["memory"] = _of_driver("memory.total")
        said["driver"] = _of_driver("driver_version")
    else:
        said["GPU"] = "none: a second logical CPU in small sizes, whose times mean nothing"
    # TensorFlow 2.15's `tensorflow.keras` has no public version.
    said["TensorFlow"] = tf.__version__
    said["Keras"] = str(getattr(keras, "__version__", "2, of this TensorFlow"))
    said["Python"] = platform.python_version()
    said["built for CUDA"] = str(build.get("cuda_version", "none"))
    said["built for cuDNN"] = str(build.get("cudnn_version", "none"))
    said["processor"] = f"{_processor()}; {describe_cpu()}"
    return said


def peak_bytes(device: str) -> int | None:
    """Returns the most bytes held on a device since `forget_peak`; None where that is unknown."""
    if not device.startswith("GPU"):
        return None
    return int(tf.config.experimental.get_memory_info(device)["peak"])


def forget_peak(device: str) -> None:
    """Lets `peak_bytes` begin with what is held now."""
    if device.startswith("GPU"):
        tf.config.experimental.reset_memory_stats(device)


def _of_driver(field: str) -> str:
    """Returns a field of the first GPU that nvidia-smi lists."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return "unknown (no nvidia-smi)"
    asked = [command, f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.strip().splitlines()[0]


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [text.partition(":")[2].strip() for text in file if "model name" in text]
    except OSError:
        names = []
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
