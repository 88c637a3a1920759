"""Programs for processes of their own in which ResNet-18 has one block a group.

There they do what the fixture `half_as_deep` of `conftest.py` does here: half as many layers to
trace, of every kind.

Example:
    done = processes.run("-c", shallow.script("script.py"), cwd=tmp_path)
"""

from __future__ import annotations

import sys
from pathlib import Path

# What a program does first.
SETTING = """
from simclr_tf.models.resnet import BLOCKS_PER_GROUP
BLOCKS_PER_GROUP[18] = (1, 1, 1, 1)
"""


def script(path: str) -> str:
    """Returns the code that runs a script."""
    return f"{SETTING}import runpy\nrunpy.run_path({path!r}, run_name='__main__')"


def module_with_crops(name: str) -> str:
    """Returns the code that runs a module, with the arguments that follow `-c CODE`.

    Views are crops, whatever else they would be.
    """
    return (
        "import functools, runpy\n"
        "from simclr_tf.devices.quiet import start_tensorflow\n"
        f"start_tensorflow()\n{SETTING}"
        "from simclr_tf.augment.layer import SimCLRAugment\n"
        "init = functools.partialmethod(SimCLRAugment.__init__, augmentations='crop')\n"
        "SimCLRAugment.__init__ = init\n"
        f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    )


def write_python(folder: Path) -> None:
    """Writes an executable `python` that knows `python -m MODULE ...` alone."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\nimport runpy, sys\n{SETTING}\n"
        "assert sys.argv.pop(1) == '-m'\ndel sys.argv[0]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    path.chmod(0o755)
