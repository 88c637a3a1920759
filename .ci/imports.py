"""Imports what a plain install promises, each in its own process: one must not mend another."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

PROMISED = [
    "absl", "google_crc32c", "keras_cv", "matplotlib", "numpy", "PIL", "scipy", "simclr_tf",
    "sklearn", "tensorboard", "tensorflow", "tensorflow_datasets", "tf_hub_export", "tqdm",
]  # fmt: skip
if sys.version_info < (3, 12):
    PROMISED.append("tensorflow_addons")


def complaint(name: str) -> str:
    """Returns what an import says when it fails; nothing when it works."""
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True)
    return f"import {name} failed:\n{done.stderr[-2000:]}" if done.returncode else ""


with ThreadPoolExecutor(2) as pool:
    complaints = [text for text in pool.map(complaint, PROMISED) if text]
print(*complaints, sep="\n", file=sys.stderr)
print(f"imported {len(PROMISED) - len(complaints)} of {len(PROMISED)} packages")
sys.exit(bool(complaints))
