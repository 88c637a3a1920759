"""AutoGraph leaves this package's functions as they are; `images` and `compat` import this.

It would convert every function that a step calls (Keras 2) and every one that a data set maps: up
to a third of the processor time of a run of a few steps. Our code has no Python `if` or `for` over
a tensor, so it needs no conversion. Other people's layers are converted as before; for their
functions see `compat.converted`.
"""

from tensorflow.python.autograph.core import config

config.CONVERSION_RULES = (
    config.DoNotConvert("simclr_tf"),
    config.DoNotConvert("tf_hub_export"),
    *config.CONVERSION_RULES,
)
