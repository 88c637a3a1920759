"""A run's settings: the table (`settings`), their checks (`checks`), `Config` (both together), and
how a command line gives them (`command_line`).
Only `runs` and the commands above it may know it: the other rooms take plain arguments.
It imports no TensorFlow, so that `--help` and wrong flags answer at once.
"""

from __future__ import annotations

from simclr_tf.config.config import Config, define_flags, differences, unsaid

__all__ = ["Config", "define_flags", "differences", "unsaid"]
