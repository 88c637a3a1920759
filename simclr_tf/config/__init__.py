"""A run's settings: the table (`settings`), what can work (`checks`), `Config` (both together).
Only `runs` and the commands above it may know it: the other rooms take plain arguments.
It imports no TensorFlow, so that `--help` and wrong flags answer at once.
"""

from __future__ import annotations

from simclr_tf.config.config import Config, define_flags, differences, unsaid

__all__ = ["Config", "define_flags", "differences", "unsaid"]
