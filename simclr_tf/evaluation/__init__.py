"""How good features are: probes of frozen features beside untrained ones and raw pixels; and
pictures of what a model sees.
Functions take encoders and data; `runs` decides which ones a run compares.
"""
