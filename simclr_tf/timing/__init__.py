"""How fast this machine is, as ratios within one run: views, a training step, the loss, the input.
The sides of a measurement alternate in one process.
`python -m simclr_tf.benchmark` prints them.
"""
