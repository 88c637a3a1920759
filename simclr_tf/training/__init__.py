"""Keras models that train: SimCLR, Classifier, Distiller, what their steps share, and what their
`fit`, `evaluate` and `predict` accept and refuse.
They take plain arguments; settings are translated in `runs`.
"""
