"""What is known of trained models, gathered for people.
`evaluating` is the work of `python -m simclr_tf.evaluate`: any encoder, any images, every protocol.
It knows the rooms above; only the commands know it.
"""
