"""Training by this package beside its peers, each in a process of its own that waits its turn.
`measuring.py` asks, `protocol.py` answers; one file for each library that is timed.
`python -m simclr_tf.benchmark peers` prints it.
"""
