"""`python -m simclr_tf.embed` in processes: peak memory, and a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import processes
import pytest
import tensorflow as tf
from PIL import Image


def process(folder: Path, *arguments: str) -> processes.Process:
    """Starts the command in a process, which prints its peak of memory at its end."""
    program = (
        "import sys; from simclr_tf.embed import main\n"
        "code = main(['embed', *sys.argv[1:]])\n"
        "print([x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')][0])\n"
        "sys.exit(code)"
    )
    return processes.start("-c", program, *arguments, cwd=folder)


class Wide(tf.Module):
    """4,096 features, so that 4,000 of them are 66 MB; next to nothing to compute."""

    def __init__(self) -> None:
        random = tf.random.stateless_normal([8 * 8 * 3, 4096], [0, 1])
        self.kernel = tf.Variable(random)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3]), tf.TensorSpec([], tf.bool)])
    def __call__(self, x: tf.Tensor, trainable: bool = False) -> dict[str, tf.Tensor]:
        return {"final_avg_pool": tf.reshape(x, [-1, 192]) @ self.kernel}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wide module, and 4,000 small files in `large`, 1,000 of them in `small` too."""
    folder = tmp_path_factory.mktemp("many")
    tf.saved_model.save(Wide(), str(folder / "wide"))
    for name, count in (("small", 1_000), ("large", 4_000)):
        home = folder / name
        home.mkdir()
        for index in range(count):
            picture = home / f"{index:05}.png"
            if index % 1000:
                os.link(home / f"{index - index % 1000:05}.png", picture)
            else:
                Image.new("RGB", (8, 8), (index // 100, 0, 0)).save(picture)
    return folder


# The files are written by NumPy and PyArrow, the network runs in one loop on both lanes.
@pytest.mark.one_lane
@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("output", "more"), [("f.npz", []), ("f.parquet", ["--projector_dir=p"])], ids=["npz", "all"]
)
def test_memory_does_not_grow_with_the_images(
    many: Path, tmp_path: Path, output: str, more: list[str]
) -> None:
    peak = {}
    for name in ("small", "large"):
        done = process(
            tmp_path, f"--saved_model={many / 'wide'}", f"--dataset={many / name}",
            "--image_size=8", f"--output={name}-{output}", *(f"{flag}-{name}" for flag in more),
        )  # fmt: skip
        said, errors = done.communicate(timeout=600)
        assert done.returncode == 0, errors[-2000:]
        peak[name] = int(said.split()[-1]) / 1024
        print(output, name, f"{peak[name]:.0f} MB", said.splitlines()[-2])
    # The features alone are 49 MB more; thumbnails, paths and headers of the source are 2.
    assert peak["large"] - peak["small"] < 25, peak


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_process_goes_on(many: Path, tmp_path: Path) -> None:
    common = [f"--saved_model={many / 'wide'}", "--image_size=8", "--batch_size=4"]
    common.append(f"--dataset={many / 'small'}")
    first = process(tmp_path, *common, "--output=f.npz")
    state = tmp_path / "f.npz.partial" / "state.json"
    deadline = time.monotonic() + 300
    while not (state.exists() and json.loads(state.read_text())["rows"] >= 200):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "f.npz").exists()
    for name in ("f.npz", "whole.npz"):
        done = process(tmp_path, *common, f"--output={name}")
        said, errors = done.communicate(timeout=600)
        assert done.returncode == 0, errors[-2000:]
        assert ("Going on from image" in said) == (name == "f.npz")
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.npz", "whole.npz"]
