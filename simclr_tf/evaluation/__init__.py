"""What features are worth: probes of frozen features beside untrained ones and raw pixels, and
pictures of what a model sees.
They take encoders and data; which ones a run compares is said in `runs`.
"""
