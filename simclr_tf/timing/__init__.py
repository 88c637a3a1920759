"""How fast this machine is, as ratios of one run: views, a training step, the loss, the input.
A measurement takes its two sides in turn, in one process.
`python -m simclr_tf.benchmark` prints them.
"""
